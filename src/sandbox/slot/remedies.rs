//! What to do where a machine isolates calls less well than it could: advice for people, by what has failed.

use std::{fs, io, path::Path};

use rustix::io::Errno;

use super::{
    Isolation, SlotConfig, Step,
    error::SlotError,
    probe::{Problem, is, is_denied},
};

/// What would make a level better.
pub(super) fn gain(level: Isolation) -> Option<&'static str> {
    match level {
        Isolation::L0 => None,
        Isolation::L1 => Some(
            "/proc is masked: where the container is run with `--security-opt systempaths=unconfined` or \
             `--privileged`, the level is L0",
        ),
        Isolation::L1B => Some(
            "user namespaces are refused: where a container is run with `--security-opt seccomp=unconfined` or \
             `--privileged`, and user.max_user_namespaces is not 0, the level is L1 or L0",
        ),
        Isolation::L2 => Some(
            "namespaces are refused: where a container is run with `--cap-add SYS_ADMIN`, the level is L1b; with \
             `--security-opt seccomp=unconfined`, or as `--privileged`, L1 or L0",
        ),
        Isolation::L2Minus => Some(
            "namespaces are refused, and calls have the agent's own user: where a container is run as root, the level \
             is L2; with `--security-opt seccomp=unconfined`, or as `--privileged`, L1 or L0",
        ),
    }
}

/// What whoever accepts a level goes without.
pub(super) fn loss(level: Isolation) -> &'static str {
    match level {
        Isolation::L0 => "nothing is missing",
        Isolation::L1 => "calls see the command lines of the container's other processes",
        Isolation::L1B => "no user namespace stands between calls and the kernel",
        Isolation::L2 => {
            "calls see the machine's files and processes as far as Landlock and the slot's user let them; without \
             /workspace ($HOME is the workspace), a /tmp of their own, and a network of their own"
        }
        Isolation::L2Minus => {
            "as L2, with one user for all slots and the agent, and no bound on a slot's processes: Landlock alone \
             keeps them apart, and that does not keep a call from changing the modes of files whose paths it guesses"
        }
    }
}

/// The advice that fits a failure, by the step that failed and the kernel's error.
pub(super) fn remedies(level: Isolation, problem: &Problem, config: &SlotConfig) -> Vec<String> {
    let (step, source) = match problem {
        Problem::Slot(SlotError::Step { step, source, .. }) => (*step, source),
        Problem::Slot(SlotError::Gone("runner")) => return vec![LIBRARIES.into()],
        _ => return Vec::new(),
    };
    let denied = is_denied(source);
    match step {
        Step::Unshare | Step::MapUser | Step::BecomeUser => namespace_remedies(level, step, source, config),
        Step::ScopeSignals | Step::Landlock => vec![LANDLOCK.into()],
        Step::OpenSource
        | Step::MountRoot
        | Step::MountSource
        | Step::MountDev
        | Step::MountTmp
        | Step::MountWorkspace
        | Step::MountProc
        | Step::PrivateProc
        | Step::EnterRoot
        | Step::NameHost
        | Step::RaiseLoopback
            if denied =>
        {
            // AppArmor lets an ordinary user's namespace be made, and then refuses what is done in it.
            let container = [CONTAINER, APPARMOR_CONTAINER].map(String::from);
            switched_off().into_iter().chain(in_container().then_some(container).into_iter().flatten()).collect()
        }
        Step::OpenWay => vec![WAY.into()],
        Step::WritableRoot => vec![WRITABLE_ROOT.into()],
        _ if is(source, Errno::NOSYS) => vec!["Linux 5.12 or later is needed".into()],
        Step::StartKeeper | Step::StartRunner if denied => vec![EXECUTABLE.into()],
        Step::PrepareDirectory => vec!["name a state directory that this user can write to".into()],
        _ => Vec::new(),
    }
}

fn namespace_remedies(level: Isolation, step: Step, error: &io::Error, config: &SlotConfig) -> Vec<String> {
    if level == Isolation::L1B {
        return if in_container() { vec![SYS_ADMIN.into()] } else { Vec::new() };
    }
    let mut remedies = switched_off();
    if is(error, Errno::NOSPC) && remedies.is_empty() {
        remedies.push("too many user namespaces exist: raise user.max_user_namespaces".into());
    }
    if in_container() {
        remedies.push(CONTAINER.into());
    } else if config.host_id.is_none() && !rustix::process::geteuid().is_root() {
        remedies.push("run it as root".into());
    }
    if step != Step::Unshare && config.host_id.is_some() {
        remedies.push(IDS.into());
    }
    remedies
}

const CONTAINER: &str = "in a container, run it with `--privileged`, or with `--security-opt seccomp=unconfined` (with \
                         `--security-opt systempaths=unconfined` too, calls do not even see other processes)";

const SYS_ADMIN: &str = "or run the container with `--cap-add SYS_ADMIN`, as root, and keep its seccomp profile";

const LANDLOCK: &str = "without namespaces, Linux 6.12 or later is needed, with Landlock switched on: `landlock` must be \
                        among those that /sys/kernel/security/lsm lists (kernel parameter `lsm=landlock,...`), and a \
                        container's seccomp profile must allow it, as recent versions of Docker's own do";

const APPARMOR_CONTAINER: &str = "where AppArmor confines the container, add `--security-opt apparmor=unconfined`";

const WRITABLE_ROOT: &str = "a writable root needs overlayfs (Linux 5.11 or later), a container's image with nothing \
                             mounted below its directories (/etc aside), and a state directory that is not in the \
                             image but on a volume; else use a read-only root";

const WAY: &str = "without namespaces, calls come to their workspace by its path: name a state directory with none above it \
                   that others may not pass through (mode 711 is enough)";

const EXECUTABLE: &str = "every user must be allowed to execute this program's file (mode 755)";

const LIBRARIES: &str = "this program's shared libraries must lie in a directory that slots see: /usr, /lib, /opt, \
                         /nix or one that `sandbox.read_only` names; or use a static build";

const IDS: &str = "the slots' user ids must exist where this runs (see /proc/self/uid_map): choose others, or run it \
                   as an ordinary user";

/// The settings that turn user namespaces off: where each is, the value that does so, and how to change it.
const SWITCHES: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "allow user namespaces: `sysctl -w kernel.unprivileged_userns_clone=1`",
    ),
    ("/proc/sys/user/max_user_namespaces", "0", "allow user namespaces: `sysctl -w user.max_user_namespaces=15000`"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor restricts user namespaces: install the profile deploy/apparmor/tool-executor, which grants `userns` \
         to this program (it says how), or `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
    ),
];

fn switched_off() -> Vec<String> {
    let off = |(path, off, _): &&(&str, &str, &str)| fs::read_to_string(path).is_ok_and(|value| value.trim() == *off);
    SWITCHES.iter().filter(off).map(|(_, _, remedy)| (*remedy).to_owned()).collect()
}

fn in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists())
        || fs::read_to_string("/proc/1/environ").is_ok_and(|environment| environment.contains("container="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_fits_the_step_and_the_error() {
        let mut config = SlotConfig::new("/nowhere");
        let advice = |step, errno: Errno, config: &SlotConfig| {
            let problem = SlotError::Step { step, detail: String::new(), source: errno.into() }.into();
            remedies(Isolation::L0, &problem, config).join("\n")
        };
        assert!(advice(Step::MountRoot, Errno::NOSYS, &config).contains("5.12"));
        assert!(advice(Step::StartKeeper, Errno::ACCESS, &config).contains("mode 755"));
        assert!(advice(Step::ScopeSignals, Errno::NOSYS, &config).contains("Linux 6.12"));
        assert_eq!(advice(Step::MountTmp, Errno::NOMEM, &config), "");
        assert!(!advice(Step::Unshare, Errno::PERM, &config).contains("uid_map"));
        config.host_id = Some(70_000);
        assert!(advice(Step::MapUser, Errno::PERM, &config).contains("uid_map"));
    }
}
