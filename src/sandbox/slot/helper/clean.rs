//! The last look at a new slot before anything may run in it: that there is nothing of anybody else in it, and that its
//! mounts are what they should be. All of that is so by how slots are made; this is for the day when it is not.
//!
//! The keeper looks, or the warden, as the first process that sees the slot as calls will; and what it finds is judged
//! without I/O.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::super::{
    config::WORKSPACE,
    error::{At as _, SlotError, Step},
    image::unescape,
    wire::{KeeperSpec, WardenSpec},
};

const TMP: &str = "/tmp";
const SHM: &str = "/dev/shm";

/// Files that have a line for each object of System V, and one above them.
const IPC: [&str; 3] = ["/proc/sysvipc/shm", "/proc/sysvipc/msg", "/proc/sysvipc/sem"];

/// Where something is mounted in every slot, once, and of which kind that is where it is always the same.
const MOUNTED: [(&str, Option<&str>); 7] = [
    ("/", Some("tmpfs")),
    ("/dev", Some("tmpfs")),
    ("/dev/pts", Some("devpts")),
    ("/proc", Some("proc")),
    (TMP, Some("tmpfs")),
    (SHM, Some("tmpfs")),
    (WORKSPACE, None),
];

/// `own_proc`: /proc shows this pid namespace, and nothing beside.
///
/// # Errors
/// All that is wrong with the slot, in one error.
pub(super) fn verify(spec: &KeeperSpec, own_proc: bool) -> Result<(), SlotError> {
    told(faults(&look(spec, own_proc).at(Step::Verify)?, spec))
}

/// A slot without namespaces, whose workspace is the working directory. It has no mounts of its own, and whether its user
/// has processes is the agent's to see.
///
/// # Errors
/// All that is wrong with the slot, in one error.
pub(super) fn verify_plain(spec: &WardenSpec) -> Result<(), SlotError> {
    let tmp = Path::new(OsStr::from_bytes(&spec.tmp));
    let look = || {
        let ipc = |user: u32| IPC.iter().map(|table| ipc_objects(table, Some(user))).sum::<io::Result<u64>>();
        Ok::<_, io::Error>([
            ("entries in the workspace", entries(".")?),
            ("entries in the directory for temporary files", entries(tmp)?),
            // Another user's would be that user's own.
            ("System V IPC objects", spec.user.map_or(Ok(0), ipc)?),
        ])
    };
    let found = look().at(Step::Verify)?.into_iter().filter(|(_, found)| *found != 0);
    told(found.map(|(what, found)| format!("{found} {what}, not 0")).collect())
}

fn told(faults: Vec<String>) -> Result<(), SlotError> {
    if faults.is_empty() { Ok(()) } else { Err(io::Error::other(faults.join("; "))).at(Step::Verify) }
}

/// What there is in a slot.
#[derive(Debug, Clone, PartialEq)]
struct Sight {
    /// Other than this one; none where /proc shows those of others.
    processes: Option<u64>,
    workspace: u64,
    tmp: u64,
    shm: u64,
    /// Shared memory, queues and semaphores.
    ipc: u64,
    mounts: Vec<Mount>,
}

#[derive(Debug, Clone, PartialEq)]
struct Mount {
    /// The file system's device, and what of it is mounted.
    source: [String; 2],
    place: PathBuf,
    /// Of the mount, not of its file system.
    options: Vec<String>,
    /// Of the file system.
    kind: String,
}

fn look(spec: &KeeperSpec, own_proc: bool) -> io::Result<Sight> {
    let processes = if own_proc { Some(other_processes()?) } else { None };
    Ok(Sight {
        processes,
        workspace: if spec.workspace_entries.is_some() { entries(WORKSPACE)? } else { 0 },
        tmp: entries(TMP)?,
        shm: entries(SHM)?,
        ipc: IPC.iter().map(|table| ipc_objects(table, None)).sum::<io::Result<u64>>()?,
        mounts: mounts(&fs::read("/proc/self/mountinfo")?),
    })
}

fn entries(directory: impl AsRef<Path>) -> io::Result<u64> {
    fs::read_dir(directory)?.try_fold(0, |count, entry| entry.map(|_| count + 1))
}

fn other_processes() -> io::Result<u64> {
    let own = std::process::id().to_string();
    fs::read_dir("/proc")?.try_fold(0, |count, entry| {
        let name = entry?.file_name();
        let process = name.as_encoded_bytes().iter().all(u8::is_ascii_digit) && name != *own;
        Ok(count + u64::from(process))
    })
}

/// All of them, or those of a user.
fn ipc_objects(table: &str, user: Option<u32>) -> io::Result<u64> {
    match fs::read_to_string(table) {
        Ok(table) => Ok(ipc_lines(&table, user)),
        // A kernel without them.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// The first line names the columns, which differ by the kind; who made an object may be another than whose it is.
fn ipc_lines(table: &str, user: Option<u32>) -> u64 {
    let mut lines = table.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_ascii_whitespace().collect();
    let is_of = |line: &str, user: &str| {
        let mut fields = names.iter().zip(line.split_ascii_whitespace());
        fields.any(|(name, value)| ["uid", "cuid"].contains(name) && value == user)
    };
    let user = user.map(|user| user.to_string());
    lines.filter(|line| user.as_deref().is_none_or(|user| is_of(line, user))).count() as u64
}

/// As the kernel lists them: `id parent device root PLACE OPTIONS optional... - KIND source options`.
fn mounts(table: &[u8]) -> Vec<Mount> {
    let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| mount(line).unwrap_or_else(Mount::of_nothing)).collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let mut fields = line.split(|byte| *byte == b' ').skip(2);
    let source = [text(fields.next()?), text(fields.next()?)];
    let (place, options) = (unescape(fields.next()?), text(fields.next()?));
    let kind = fields.skip_while(|field| *field != b"-").nth(1).map(text)?;
    Some(Mount { source, place, options: options.split(',').map(str::to_owned).collect(), kind })
}

impl Mount {
    /// A line that cannot be read: no mount is as it should be there.
    fn of_nothing() -> Self {
        Self { source: Default::default(), place: PathBuf::new(), options: Vec::new(), kind: String::new() }
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|has| has == option)
    }
}

/// What is wrong, one sentence each; pure.
fn faults(sight: &Sight, spec: &KeeperSpec) -> Vec<String> {
    let expected = [
        ("processes other than the first", sight.processes, Some(0)),
        ("entries in /workspace", spec.workspace_entries.map(|_| sight.workspace), spec.workspace_entries),
        ("entries in /tmp", Some(sight.tmp), Some(0)),
        ("entries in /dev/shm", Some(sight.shm), Some(0)),
        ("System V IPC objects", Some(sight.ipc), Some(0)),
    ];
    let counted = expected.into_iter().filter(|(_, found, expected)| found.is_some() && found != expected);
    let counts = counted.map(|(what, found, expected)| {
        format!("{} {what}, not {}", found.unwrap_or_default(), expected.unwrap_or_default())
    });
    let attributes = sight.mounts.iter().flat_map(|mount| mount_faults(mount, &sight.mounts, spec));
    counts.chain(missing_mounts(&sight.mounts)).chain(attributes).collect()
}

fn missing_mounts(mounts: &[Mount]) -> Vec<String> {
    let mut by_place: BTreeMap<&Path, Vec<&Mount>> = BTreeMap::new();
    for mount in mounts {
        by_place.entry(&mount.place).or_default().push(mount);
    }
    let wrong = MOUNTED.iter().filter_map(|(place, kind)| match by_place.get(Path::new(place)).map(Vec::as_slice) {
        Some([mount]) if kind.is_none_or(|kind| mount.kind == kind) => None,
        Some([mount]) => Some(format!("{place} is of {}", mount.kind)),
        Some(several) => Some(format!("{} mounts at {place}", several.len())),
        None => Some(format!("nothing is mounted at {place}")),
    });
    wrong.collect()
}

fn mount_faults(mount: &Mount, all: &[Mount], spec: &KeeperSpec) -> Vec<String> {
    let wrong = [
        (!mount.has("nosuid"), "heeds set-user-id programs"),
        (!mount.has("nodev") && !mount.place.starts_with("/dev"), "has devices"),
        (!mount.has("ro") && !may_be_written(mount, all, spec), "can be written to"),
    ];
    let told = wrong.into_iter().filter(|(wrong, _)| *wrong);
    told.map(|(_, fault)| format!("{} {fault}", mount.place.display())).collect()
}

/// The workspace and /tmp may be shown at other places, too, to which links of the image may lead. What is in /proc has
/// rules of its own, which a runner makes: see there.
fn may_be_written(mount: &Mount, all: &[Mount], spec: &KeeperSpec) -> bool {
    let is = |place: &str| mount.place == Path::new(place);
    let own = |other: &&Mount| [WORKSPACE, TMP].iter().any(|place| other.place == Path::new(place));
    !is("/")
        && !is("/dev")
        && (spec.writable_root
            || ["/proc", "/dev"].iter().any(|above| mount.place.starts_with(above))
            || all.iter().filter(own).any(|own| own.source == mount.source))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
60 1 0:40 / / ro,nosuid,nodev,relatime - tmpfs tmpfs rw,size=4096k
61 60 8:1 /usr /usr ro,nosuid,nodev,relatime master:1 - ext4 /dev/sda1 rw
62 60 8:1 /w/workspace /workspace rw,nosuid,nodev,relatime - ext4 /dev/sda1 rw
63 60 0:41 / /dev ro,nosuid,noexec,relatime - tmpfs tmpfs rw
64 63 0:5 /null /dev/null rw,nosuid,noexec,relatime - devtmpfs devtmpfs rw
65 63 0:42 / /dev/pts rw,nosuid,noexec,relatime - devpts devpts rw
66 60 0:43 /tmp /tmp rw,nosuid,nodev,relatime - tmpfs tmpfs rw
67 63 0:43 /dev-shm /dev/shm rw,nosuid,nodev,relatime - tmpfs tmpfs rw
68 60 0:44 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
";

    fn clean() -> Sight {
        Sight { processes: Some(0), workspace: 0, tmp: 0, shm: 0, ipc: 0, mounts: mounts(TABLE.as_bytes()) }
    }

    fn spec() -> KeeperSpec {
        KeeperSpec { workspace_entries: Some(0), ..KeeperSpec::default() }
    }

    /// The faults after `change`, which must be something.
    fn after(change: impl FnOnce(&mut Sight, &mut KeeperSpec)) -> String {
        let (mut sight, mut spec) = (clean(), spec());
        change(&mut sight, &mut spec);
        faults(&sight, &spec).join("; ")
    }

    fn without(line: &str) -> Vec<Mount> {
        let lines = TABLE.lines().filter(|other| !other.contains(line));
        mounts(lines.collect::<Vec<_>>().join("\n").as_bytes())
    }

    fn with(line: &str) -> Vec<Mount> {
        mounts(format!("{TABLE}{line}\n").as_bytes())
    }

    #[test]
    fn a_clean_slot_has_no_faults() {
        assert_eq!(after(|_, _| ()), "");
        // Where they cannot be told.
        assert_eq!(after(|sight, _| sight.processes = None), "");
    }

    #[test]
    fn whatever_is_left_is_a_fault() {
        assert_eq!(after(|sight, _| sight.processes = Some(2)), "2 processes other than the first, not 0");
        assert_eq!(after(|sight, _| sight.workspace = 1), "1 entries in /workspace, not 0");
        assert_eq!(after(|sight, _| sight.tmp = 1), "1 entries in /tmp, not 0");
        assert_eq!(after(|sight, _| sight.shm = 3), "3 entries in /dev/shm, not 0");
        assert_eq!(after(|sight, _| sight.ipc = 1), "1 System V IPC objects, not 0");
    }

    #[test]
    fn a_workspace_begins_with_its_source_and_nothing_else() {
        assert_eq!(after(|sight, spec| (sight.workspace, spec.workspace_entries) = (3, Some(3))), "");
        for found in [0, 2, 4] {
            let told = after(|sight, spec| (sight.workspace, spec.workspace_entries) = (found, Some(3)));
            assert_eq!(told, format!("{found} entries in /workspace, not 3"));
        }
        assert_eq!(after(|_, spec| spec.workspace_entries = None), "");
    }

    #[test]
    fn mounts_are_where_they_should_be_and_of_their_kind() {
        assert_eq!(after(|sight, _| sight.mounts = without("/dev/shm")), "nothing is mounted at /dev/shm");
        assert_eq!(after(|sight, _| sight.mounts = without("/workspace")), "nothing is mounted at /workspace");
        let host = "70 60 8:1 /tmp /tmp rw,nosuid,nodev - ext4 /dev/sda1 rw";
        assert_eq!(after(|sight, _| sight.mounts = with(host)), "2 mounts at /tmp");
        let mut other = without(" /tmp ");
        other.extend(mounts(host.as_bytes()));
        assert_eq!(after(|sight, _| sight.mounts = other), "/tmp is of ext4");
    }

    #[test]
    fn nothing_but_what_is_the_slots_can_be_written_to() {
        let source = "70 60 8:1 /src /testbed rw,nosuid,nodev - ext4 /dev/sda1 rw";
        assert_eq!(after(|sight, _| sight.mounts = with(source)), "/testbed can be written to");
        // As are the workspace and /tmp at their other places.
        let workspace = "70 60 8:1 /w/workspace /data/testbed rw,nosuid,nodev - ext4 /dev/sda1 rw";
        assert_eq!(after(|sight, _| sight.mounts = with(workspace)), "");
        let tmp = "70 60 0:43 /tmp /var/tmp rw,nosuid,nodev - tmpfs tmpfs rw";
        assert_eq!(after(|sight, _| sight.mounts = with(tmp)), "");
        let told = after(|sight, spec| (sight.mounts, spec.writable_root) = (with(source), true));
        assert_eq!(told, "");
        // The root itself never.
        let mut root = without(" / / ");
        root.extend(mounts(b"60 1 0:40 / / rw,nosuid,nodev - tmpfs tmpfs rw"));
        assert_eq!(after(|sight, spec| (sight.mounts, spec.writable_root) = (root, true)), "/ can be written to");
    }

    #[test]
    fn no_mount_gives_rights() {
        let mount = "70 60 8:1 /opt /opt ro,relatime - ext4 /dev/sda1 rw";
        let told = after(|sight, _| sight.mounts = with(mount));
        assert_eq!(told, "/opt heeds set-user-id programs; /opt has devices");
        assert!(!after(|sight, _| sight.mounts = with("what is this")).is_empty());
    }

    #[test]
    fn only_the_users_own_ipc_objects_count() {
        let table = "       key      shmid perms cpid lpid   uid   gid  cuid  cgid\n\
                              0          7  1600   20   20 65001     0     0     0\n\
                              0      65001  1600   20   20     0     0 65002     0\n";
        assert_eq!([None, Some(65_001), Some(65_002), Some(7)].map(|user| ipc_lines(table, user)), [2, 1, 1, 0]);
        assert_eq!(ipc_lines("", None), 0);
    }

    #[test]
    fn what_is_left_in_a_plain_slot_is_told() {
        let tmp = tempfile::tempdir().unwrap();
        let spec = WardenSpec { user: None, tmp: tmp.path().as_os_str().as_bytes().to_vec() };
        fs::write(tmp.path().join("left"), "").unwrap();
        // This program's own working directory stands for the workspace, and has something in it.
        let error = verify_plain(&spec).unwrap_err();
        let told = std::error::Error::source(&error).unwrap().to_string();
        for fault in ["entries in the workspace, not 0", "1 entries in the directory for temporary files, not 0"] {
            assert!(told.contains(fault), "{told}");
        }
    }

    #[test]
    fn this_processs_own_mounts_can_be_read() {
        let found = mounts(&fs::read("/proc/self/mountinfo").unwrap());
        assert!(found.iter().any(|mount| mount.place == Path::new("/") && !mount.kind.is_empty()), "{found:?}");
        assert!(other_processes().unwrap() > 0 || std::process::id() == 1);
    }
}
