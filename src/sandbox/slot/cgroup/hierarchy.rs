//! Where this process is in each hierarchy of control groups, and what may be had below that.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Controller, Version};

/// Where executor and agents are under version 2.
pub(super) const SELF: &str = "tool-executor.self";

/// Below which an agent makes its group, in one hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) version: Version,
    pub(super) controllers: Vec<Controller>,
    pub(super) path: PathBuf,
}

/// One for each hierarchy that has any of these controllers. Under version 2 this process has then left the base for
/// a group beside the agents'.
pub(super) fn bases(wanted: &[Controller]) -> Vec<Base> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut bases = Vec::new();
    let mut left = wanted.to_vec();
    if let Some(own) = own_group_v2(&mounts, &places) {
        let base = Base::v2(&own, &left);
        left.retain(|controller| !base.controllers.contains(controller));
        bases.extend((!base.controllers.is_empty()).then_some(base));
    }
    for controller in left {
        let Some(path) = own_group_v1(&mounts, &places, controller.name()) else { continue };
        // Controllers that are mounted together share their groups.
        match bases.iter_mut().find(|base| base.path == path) {
            Some(base) => base.controllers.push(controller),
            None => bases.push(Base { version: Version::V1, controllers: vec![controller], path }),
        }
    }
    bases
}

impl Base {
    fn v2(own: &Path, wanted: &[Controller]) -> Self {
        let path = if own.ends_with(SELF) { own.parent().unwrap_or(own) } else { own };
        let offered = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
        let offers = |controller: &Controller| offered.split_ascii_whitespace().any(|name| name == controller.name());
        let offered: Vec<Controller> = wanted.iter().copied().filter(offers).collect();
        let mut base = Self { version: Version::V2, controllers: Vec::new(), path: path.to_owned() };
        if offered.is_empty() || (path == own && base.leave().is_err()) {
            return base;
        }
        base.controllers = enable(path, &offered);
        if base.controllers.is_empty() {
            base.give_up();
        }
        base
    }

    /// A group that has processes can have no limits below it, the root aside.
    fn leave(&self) -> io::Result<()> {
        if !self.path.join("cgroup.type").exists() {
            return Ok(());
        }
        let own = self.path.join(SELF);
        match fs::create_dir(&own) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => enter(&own),
        }
    }

    /// Goes back to where this process came from, if nobody needs it elsewhere.
    pub(super) fn give_up(&self) {
        if self.version == Version::V2 && enter(&self.path).is_ok() {
            let _ = fs::remove_dir(self.path.join(SELF));
        }
    }
}

/// Moves this process.
fn enter(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
}

/// Lets groups below this one have limits; which of the controllers can.
pub(super) fn enable(group: &Path, controllers: &[Controller]) -> Vec<Controller> {
    let enabled = |controller: &Controller| {
        fs::write(group.join("cgroup.subtree_control"), format!("+{}", controller.name())).is_ok()
    };
    controllers.iter().copied().filter(enabled).collect()
}

fn own_group_v2(mounts: &str, places: &str) -> Option<PathBuf> {
    let place = places.lines().find_map(|line| line.strip_prefix("0::"))?;
    find_mount(mounts, place, |kind, _| kind == "cgroup2")
}

fn own_group_v1(mounts: &str, places: &str, controller: &str) -> Option<PathBuf> {
    let place = places.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, place) = rest.split_once(':')?;
        controllers.split(',').any(|name| name == controller).then_some(place)
    })?;
    find_mount(mounts, place, |kind, options| kind == "cgroup" && options.split(',').any(|name| name == controller))
}

/// The directory of the group `place` in the first such mount that shows it. A container's mount shows but the
/// container's own part of the hierarchy.
fn find_mount(mounts: &str, place: &str, is_wanted: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (first, second) = line.split_once(" - ")?;
        let mut first = first.split(' ').skip(3);
        let (root, mount_point) = (first.next()?, first.next()?);
        let mut second = second.split(' ');
        let (kind, options) = (second.next()?, second.nth(1)?);
        let below = Path::new(place).strip_prefix(root).ok()?;
        is_wanted(kind, options).then(|| Path::new(mount_point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST_V1: &str = "\
        31 27 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        32 27 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        33 27 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_group_is_found_where_it_is_mounted() {
        let places = "5:memory:/user/one\n2:cpuacct,cpu:/\n0::/init.scope\n";
        let found = |controller| own_group_v1(HOST_V1, places, controller);
        assert_eq!(found("memory"), Some("/sys/fs/cgroup/memory/user/one".into()));
        assert_eq!(found("cpu"), Some("/sys/fs/cgroup/cpu,cpuacct/".into()));
        assert_eq!(found("pids"), None);
        assert_eq!(own_group_v2(HOST_V1, places), Some("/sys/fs/cgroup/unified/init.scope".into()));
    }

    #[test]
    fn a_container_sees_its_own_part_of_the_hierarchy() {
        let mounts = "40 39 0:28 /docker/1f /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n\
                      41 39 0:30 /../.. /elsewhere rw - cgroup2 cgroup2 rw\n";
        assert_eq!(own_group_v1(mounts, "5:memory:/docker/1f\n", "memory"), Some("/sys/fs/cgroup/memory/".into()));
        assert_eq!(own_group_v1(mounts, "5:memory:/docker/2e\n", "memory"), None, "it is not shown");
        assert_eq!(own_group_v2(mounts, "0::/\n"), None);
        assert_eq!(own_group_v2("", "0::/\n"), None);
    }
}
