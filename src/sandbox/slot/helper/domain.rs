//! What a call without namespaces sees of the machine: a Landlock domain which it enters before it begins.
//!
//! A domain can only say what is allowed, and with a directory all below it is. So where something below a directory is
//! to stay unseen, what is beside it is allowed one by one, and the directory itself cannot be listed.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

use super::{
    super::{
        error::{At as _, SlotError, Step},
        image,
        wire::Shown,
    },
    view::{MERGED, SYSTEM, as_path, inside, real_paths},
};

/// The first that confines signals.
const NEEDED: ABI = ABI::V6;
/// What it can do beyond that is used where it is there.
const KNOWN: ABI = ABI::V10;

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// The domain, not entered yet. Whoever makes it must see what is to be shown.
pub(super) fn build(shown: &Shown) -> Result<OwnedFd, SlotError> {
    let mut domain = create(shown.network).map_err(io::Error::other).at(Step::Landlock)?;
    for path in paths(shown)? {
        domain = allow(domain, &path, AccessFs::from_read(KNOWN)).at_the(Step::OpenSource, path.display())?;
    }
    let proc = AccessFs::ReadFile | AccessFs::ReadDir;
    domain = allow(domain, Path::new("/proc"), proc).at_the(Step::OpenSource, "/proc")?;
    // The probe's witness is this program.
    let own = Path::new(super::THIS_PROGRAM);
    domain = allow(domain, own, AccessFs::Execute | AccessFs::ReadFile).at_the(Step::OpenSource, own.display())?;
    for name in DEVICES {
        let path = Path::new("/dev").join(name);
        domain = allow(domain, &path, AccessFs::from_file(KNOWN)).at_the(Step::MountDev, path.display())?;
    }
    for path in [&shown.workspace, &shown.tmp] {
        let path = as_path(path);
        domain = allow(domain, path, AccessFs::from_all(KNOWN)).at_the(Step::MountWorkspace, path.display())?;
    }
    Option::<OwnedFd>::from(domain).ok_or(io::Error::from(io::ErrorKind::Unsupported)).at(Step::Landlock)
}

fn create(network: bool) -> Result<RulesetCreated, RulesetError> {
    let mut domain = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(NEEDED))?
        .scope(Scope::from_all(NEEDED))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?;
    if !network {
        domain = domain.handle_access(AccessNet::from_all(KNOWN))?;
    }
    domain.create()
}

fn allow(domain: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> io::Result<RulesetCreated> {
    let place = PathFd::new(path).map_err(io::Error::other)?;
    // A file has no entries.
    let directory = fs::metadata(path)?.is_dir();
    let access = if directory { access } else { access & AccessFs::from_file(KNOWN) };
    domain.add_rule(PathBeneath::new(place, access)).map_err(io::Error::other)
}

/// What is to be readable.
fn paths(shown: &Shown) -> Result<Vec<PathBuf>, SlotError> {
    let hidden = real_paths(&shown.hidden)?;
    let names = if shown.image {
        image::names().at_the(Step::OpenSource, "/")?
    } else {
        SYSTEM.iter().chain(&MERGED).map(Into::into).collect()
    };
    let mut paths = Vec::new();
    for path in names.iter().map(|name| Path::new("/").join(name)) {
        // Links lead to where something is allowed, or not.
        if fs::symlink_metadata(&path).is_ok_and(|entry| entry.is_dir()) {
            all_but(&hidden, &path, &mut paths).at_the(Step::OpenSource, path.display())?;
        }
    }
    for path in &shown.read_only {
        let path = as_path(path);
        let path = inside(path)
            .and_then(|inside| fs::canonicalize(Path::new("/").join(inside)))
            .at_the(Step::OpenSource, path.display())?;
        all_but(&hidden, &path, &mut paths).at_the(Step::OpenSource, path.display())?;
    }
    // A link into /run, in many containers and on many hosts.
    if shown.network
        && let Ok(resolver) = fs::canonicalize("/etc/resolv.conf")
    {
        paths.push(resolver);
    }
    Ok(paths)
}

/// `path`, which has no link in it, or what of it is not hidden.
fn all_but(hidden: &[PathBuf], path: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    if hidden.iter().any(|hidden| path.starts_with(hidden)) {
        return Ok(());
    }
    if !hidden.iter().any(|hidden| hidden.starts_with(path)) {
        paths.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_type()?.is_symlink() {
            all_but(hidden, &entry.path(), paths)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beside_the_hidden_is_shown_and_nothing_above_it() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        for directory in ["a/b/hidden/below", "a/b/beside", "a/c", "hidden"] {
            fs::create_dir_all(home.join(directory)).unwrap();
        }
        std::os::unix::fs::symlink("b/hidden", home.join("a/link")).unwrap();
        let hidden = [home.join("a/b/hidden"), home.join("hidden")];
        let mut paths = Vec::new();
        all_but(&hidden, &home, &mut paths).unwrap();
        paths.sort();
        assert_eq!(paths, [home.join("a/b/beside"), home.join("a/c")]);
        let mut paths = Vec::new();
        all_but(&hidden, &home.join("a/b/hidden/below"), &mut paths).unwrap();
        assert_eq!(paths, Vec::<PathBuf>::new());
    }
}
