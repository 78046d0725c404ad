//! The few system calls that rustix does not offer as safe functions, and the only unsafe code of the program. All
//! are made by the single-threaded helper processes of a slot, but for the mapping of owners, which is the agent's.
#![allow(unsafe_code)]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

use rustix::{mount::MountAttrFlags, thread::UnshareFlags};

/// Moves this process into new namespaces (a new pid namespace begins with its next child).
pub(super) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    if namespaces.contains(UnshareFlags::FILES) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: only FILES could take descriptors away from another thread, and it was refused above.
    Ok(unsafe { rustix::thread::unshare_unsafe(namespaces) }?)
}

/// Adds attributes to a mount, and with `recursive` to every mount below it, which a bind remount cannot do.
pub(super) fn add_mount_attributes(
    mount: BorrowedFd<'_>,
    attributes: MountAttrFlags,
    recursive: bool,
) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: attributes.bits().into(), attr_clr: 0, propagation: 0, userns_fd: 0 };
    set_mount_attributes(mount, &attributes, recursive)
}

/// Makes the files of a mount that is attached nowhere belong to the users that this user namespace maps theirs to.
pub(super) fn map_owners(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = user_namespace.as_raw_fd().try_into().map_err(io::Error::other)?;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set_mount_attributes(mount, &attributes, false)
}

fn set_mount_attributes(mount: BorrowedFd<'_>, attributes: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, `attributes` outlives the call, and the size given is its own.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const *attributes,
            size_of_val(attributes),
        )
    };
    succeeded(result)
}

/// Keeps what the parent left open, stdio aside, from any program that this process executes.
pub(super) fn close_inherited_on_exec() -> io::Result<()> {
    // SAFETY: no descriptor is closed here; they are only marked close-on-exec.
    succeeded(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
}

/// A descriptor that the parent left open for this process, to which it told the number.
pub(super) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the number is only asked about.
    succeeded(unsafe { libc::fcntl(number, libc::F_GETFD) }.into())?;
    // SAFETY: it is open, as was just seen; and what comes after stdio in a process that has just begun is nobody's.
    if number > libc::STDERR_FILENO {
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// Confines this thread, and all that it starts, to a domain that was made for it.
pub(super) fn enter_landlock_domain(domain: impl AsFd) -> io::Result<()> {
    let no_flags: libc::c_uint = 0;
    // SAFETY: the call takes two numbers, of which the first is an open descriptor.
    succeeded(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, domain.as_fd().as_raw_fd(), no_flags) })
}

/// A child that has ended.
pub(super) struct Reaped {
    pub(super) pid: i32,
    /// As wait(2) encodes it.
    pub(super) status: i32,
    pub(super) user_cpu: Duration,
    pub(super) system_cpu: Duration,
    pub(super) max_rss_bytes: u64,
    /// To file systems on disks.
    pub(super) written_bytes: u64,
}

/// Reaps any one child; `None` when none is left, or, without `block`, when none has ended.
pub(super) fn reap(block: bool) -> Option<Reaped> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let flags = if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: both out-pointers are to live locals; `rusage` is plain numbers, so all zeroes is a value of it.
        let (pid, usage) = unsafe { (libc::wait4(-1, &mut status, flags, usage.as_mut_ptr()), usage.assume_init()) };
        return match pid {
            1.. => Some(Reaped {
                pid,
                status,
                user_cpu: duration(usage.ru_utime),
                system_cpu: duration(usage.ru_stime),
                max_rss_bytes: (usage.ru_maxrss as u64).saturating_mul(1024),
                written_bytes: (usage.ru_oublock as u64).saturating_mul(512),
            }),
            0 => None,
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => continue,
            _ => None,
        };
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::new(time.tv_sec as u64, (time.tv_usec as u32).saturating_mul(1000))
}

fn succeeded(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
