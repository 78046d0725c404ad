//! What of the root file system is a container's image, and what the container has added to that.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, StatxFlags};

/// What a slot has of its own in its root, and can show nothing else.
pub(super) const OWN: [&str; 4] = ["proc", "dev", "tmp", "workspace"];

/// What is not the image's, though the container has it: the kernel's, what runs, and what Nomad puts there.
const ADDED: [&str; 5] = ["sys", "run", "alloc", "local", "secrets"];

/// The directory of settings: small, and with files mounted over some of its own in many containers. So it is copied
/// whole where others are layered.
pub(super) const COPIED: &str = "etc";

/// The names in the root that are the image's, or a volume's.
pub(super) fn names() -> io::Result<Vec<OsString>> {
    let is_shown = |name: &OsStr| !OWN.iter().chain(&ADDED).any(|other| name == *other);
    let entries = fs::read_dir("/")?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().filter(|name| is_shown(name)).collect())
}

/// The directories in the root that are the image's, and no volume's.
pub(super) fn directories() -> io::Result<Vec<PathBuf>> {
    let paths = names()?.into_iter().map(|name| Path::new("/").join(name));
    let mut directories = Vec::new();
    for path in paths {
        if fs::symlink_metadata(&path)?.is_dir() && !is_volume(&path)? {
            directories.push(path);
        }
    }
    Ok(directories)
}

/// Whether something else than the root file system is at `path`.
pub(super) fn is_volume(path: &Path) -> io::Result<bool> {
    let mount = |path| rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID);
    Ok(mount(path)?.stx_mnt_id != mount(Path::new("/"))?.stx_mnt_id)
}

/// Where something is mounted below `path`, but not what is mounted below that again; relative to the root.
pub(super) fn mounts_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let place = |line: &[u8]| line.split(|byte| *byte == b' ').nth(4).map(unescape);
    let mut below: Vec<PathBuf> = table.split(|byte| *byte == b'\n').filter_map(place).collect();
    below.retain(|place| place != path && place.starts_with(path));
    below.sort();
    // Sorted by components, a directory stands right before what is in it.
    below.dedup_by(|place, above| place.starts_with(above));
    Ok(below.into_iter().filter_map(|place| Some(place.strip_prefix("/").ok()?.to_owned())).collect())
}

/// Spaces and the like are octal numbers in a table of mounts.
pub(super) fn unescape(field: &[u8]) -> PathBuf {
    let (mut path, mut rest) = (Vec::new(), field);
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                rest = &after[3..];
            }
            None => {
                path.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_mounts_is_read_as_it_is_meant() {
        assert_eq!(unescape(b"/a\\040b\\134/c"), Path::new("/a b\\/c"));
        assert_eq!(unescape(b"/a\\04"), Path::new("/a\\04"));
        let all = mounts_below(Path::new("/")).unwrap();
        assert!(all.contains(&PathBuf::from("proc")) && !all.contains(&PathBuf::from("proc/sys")), "{all:?}");
    }

    #[test]
    fn the_images_directories_are_those_of_the_root_file_system() {
        let directories = directories().unwrap();
        assert!(directories.iter().any(|path| path == Path::new("/etc")), "{directories:?}");
        assert!(!directories.iter().any(|path| [Path::new("/proc"), Path::new("/sys")].contains(&path.as_path())));
    }
}
