//! Where workspaces go when their slot ends: a rename at once, the deletion later and elsewhere.

use std::{
    ffi::CStr,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags},
    io::Errno,
};

use super::generation;

/// The trash of the slot that lives in `directory`; slots with one parent directory share it.
pub fn trash_beside(directory: &Path) -> PathBuf {
    directory.with_file_name("trash")
}

/// Moves what a generation of the slot has left, if there is anything, to the trash.
pub(super) fn retire(directory: &Path) -> io::Result<()> {
    generation::GENERATION.iter().try_for_each(|name| discard(directory, &directory.join(name)))
}

/// Moves a directory of the slot that lives in `directory`, if it is there, to the trash.
pub(super) fn discard(directory: &Path, unwanted: &Path) -> io::Result<()> {
    match fs::symlink_metadata(unwanted) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let trash = trash_beside(directory);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&trash)?;
    // A call may have taken the owner's right to write, without which a directory cannot be given another parent.
    fs::set_permissions(unwanted, fs::Permissions::from_mode(0o700))?;
    fs::rename(unwanted, trash.join(uuid::Uuid::now_v7().to_string()))
}

/// Makes what deleting needs, so that it needs no room on a disk that is full.
pub fn prepare_trash(trash: &Path) -> io::Result<()> {
    let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    make(trash).and_then(|()| make(&apart(trash)))
}

/// How many old workspaces there still are, the one that is being deleted among them.
pub fn old_workspaces(trash: &Path) -> io::Result<usize> {
    let names = |directory: &Path| -> io::Result<usize> {
        match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            other => Ok(other?.count()),
        }
    };
    Ok(names(trash)? + names(&apart(trash))?.min(1))
}

/// Deletes one old workspace; `false` if there is none. Blocks for as long as that takes; one thread at a time may do it.
///
/// # Errors
/// If some of it cannot be deleted. Nothing else is then before that has been.
pub fn delete_one(trash: &Path) -> io::Result<bool> {
    let apart = apart(trash);
    empty_trash(&apart)?;
    let Some(old) = fs::read_dir(trash)?.next().transpose()? else { return Ok(false) };
    fs::rename(old.path(), apart.join(old.file_name()))?;
    empty_trash(&apart)?;
    Ok(true)
}

/// Where the one lies that is being deleted, in pieces: what lies in the trash is whole, and can be counted.
fn apart(trash: &Path) -> PathBuf {
    trash.with_file_name("deleting")
}

/// Deletes all that is in the trash. Blocks for as long as that takes; one thread at a time may do it.
///
/// A workspace may be nested deeper than paths, stack or open files allow. So nothing is walked down: a directory
/// that is found in another one is moved up into the trash, and has its turn there.
///
/// # Errors
/// The first failure, after everything that can be deleted has been.
pub fn empty_trash(trash: &Path) -> io::Result<()> {
    let trash = match open_directory(rustix::fs::CWD, trash) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    loop {
        let (mut found, mut result) = (false, Ok(()));
        for_each_name(&trash, |name| {
            found = true;
            let deleted = delete(&trash, name);
            result = std::mem::replace(&mut result, Ok(())).and(deleted);
            Ok(())
        })?;
        // After a failure another round would but fail again.
        if !found || result.is_err() {
            return result.map_err(io::Error::from);
        }
    }
}

/// Every directory in the trash itself is writable: see [`retire`] and the moving up.
fn delete(trash: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
    // Reading while deleting may leave some out, which the next round finds.
    while !remove(trash, name)? {
        let directory = open_directory(trash, name)?;
        for_each_name(&directory, |entry| {
            if !remove(&directory, entry)? {
                make_writable(&directory, entry)?;
                rustix::fs::renameat(&directory, entry, trash, uuid::Uuid::now_v7().to_string())?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Removes a file or an empty directory; `false` if it is a directory with something in it.
fn remove(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<bool> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            other => other.map(|()| true),
        },
        other => other.map(|()| true),
    }
}

fn open_directory(parent: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Nobody else can get at what is in the trash, so the name still means the directory that it did.
fn make_writable(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
    rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())
}

fn for_each_name(
    directory: &OwnedFd,
    mut visit: impl FnMut(&CStr) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            visit(entry.file_name())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_of_any_depth_and_mode_is_deleted() {
        let home = tempfile::tempdir().unwrap();
        let slot = home.path().join("slot");
        let workspace = slot.join(generation::WORKSPACE);
        fs::create_dir_all(&workspace).unwrap();
        // Deeper than PATH_MAX has room for, and than any thread has stack or descriptors for.
        let mut deepest = open_directory(rustix::fs::CWD, &workspace).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&deepest, "d", Mode::RWXU).unwrap();
            deepest = open_directory(&deepest, "d").unwrap();
        }
        let locked = workspace.join("locked");
        fs::create_dir(&locked).unwrap();
        fs::write(locked.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", locked.join("link")).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(&workspace, fs::Permissions::from_mode(0o500)).unwrap();

        retire(&slot).unwrap();
        assert!(!workspace.exists());
        empty_trash(&trash_beside(&slot)).unwrap();
        assert_eq!(fs::read_dir(trash_beside(&slot)).unwrap().count(), 0);
        assert!(Path::new("/etc/passwd").exists());
    }

    #[test]
    fn old_workspaces_are_counted_and_deleted_one_by_one() {
        let home = tempfile::tempdir().unwrap();
        let slot = home.path().join("slot");
        let trash = trash_beside(&slot);
        assert_eq!(old_workspaces(&trash).unwrap(), 0);
        prepare_trash(&trash).unwrap();
        for old in 1..=3 {
            fs::create_dir_all(slot.join(generation::WORKSPACE).join("many/directories/deep")).unwrap();
            retire(&slot).unwrap();
            assert_eq!(old_workspaces(&trash).unwrap(), old);
        }
        // One that was begun by an agent that died counts, and goes first.
        let begun = apart(&trash).join("a/b");
        fs::create_dir_all(&begun).unwrap();
        fs::create_dir_all(apart(&trash).join("c")).unwrap();
        assert_eq!(old_workspaces(&trash).unwrap(), 4);
        for left in [2, 1, 0] {
            assert!(delete_one(&trash).unwrap());
            assert!(!begun.exists());
            assert_eq!(old_workspaces(&trash).unwrap(), left);
        }
        assert!(!delete_one(&trash).unwrap());
    }

    #[test]
    fn what_cannot_be_deleted_holds_up_the_rest_and_is_counted() {
        let home = tempfile::tempdir().unwrap();
        let slot = home.path().join("slot");
        let trash = trash_beside(&slot);
        prepare_trash(&trash).unwrap();
        fs::create_dir_all(slot.join(generation::WORKSPACE)).unwrap();
        retire(&slot).unwrap();
        // A file where the directory should be: to anybody, root too.
        fs::remove_dir(apart(&trash)).unwrap();
        fs::write(apart(&trash), "").unwrap();
        assert!(delete_one(&trash).is_err());
        assert!(old_workspaces(&trash).is_err());
        assert_eq!(fs::read_dir(&trash).unwrap().count(), 1);
    }

    #[test]
    fn no_workspace_and_no_trash_are_no_failure() {
        let home = tempfile::tempdir().unwrap();
        retire(&home.path().join("slot")).unwrap();
        empty_trash(&home.path().join("trash")).unwrap();
    }
}
