//! What can go wrong with a slot. Helpers report the step that failed, so that the agent can say what is missing.

use std::{fmt, io};

use super::wire::{Failed, cut};

/// Why a slot could not be made, or no longer serves.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// One step of making it failed.
    #[error("could not {step}{}", Detail(detail))]
    Step {
        step: Step,
        /// Which one, where there are several: a path, mostly.
        detail: String,
        #[source]
        source: io::Error,
    },
    /// The agent is the host's root and the configuration names no other user for the slot.
    #[error("refusing to run calls as the host's root: the slot needs a user id of its own")]
    HostRoot,
    /// What is asked for takes mounts, and the slot is to be one without.
    #[error("{0} needs mounts, and without namespaces there are none")]
    NeedsMounts(&'static str),
    /// Its processes have ended, whoever killed them.
    #[error("the slot's {0} process has ended")]
    Gone(&'static str),
    /// A killed process does not die: the kernel waits for a device or a file system in it.
    #[error("the {0} was killed and does not end")]
    Undying(&'static str),
    /// Though the slot has none: they are somebody else's, or of an earlier slot that did not end.
    #[error("user {0}, who is to be the slot's alone, has processes already")]
    UserHasProcesses(u32),
    /// What earlier generations have left takes up the disk.
    #[error("old workspaces cannot be deleted: {0}")]
    Undeletable(String),
    /// A helper said something that this program never says.
    #[error("the slot's {0} process gave an answer that makes no sense")]
    Senseless(&'static str),
}

/// One step in the life of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Step {
    /// Of a helper of another version; never made by this one.
    Unknown = 0,
    PrepareProcess = 1,
    PrepareDirectory = 2,
    StartMaker = 3,
    Talk = 4,
    Unshare = 5,
    MapUser = 6,
    BecomeUser = 7,
    OpenSource = 8,
    MountRoot = 9,
    MountSource = 10,
    MountDev = 11,
    MountTmp = 12,
    MountWorkspace = 13,
    NameHost = 14,
    RaiseLoopback = 15,
    StartKeeper = 16,
    MountProc = 17,
    EnterRoot = 18,
    StartRunner = 19,
    PrivateProc = 20,
    ProveIsolation = 21,
    SetLimits = 22,
    DropCapabilities = 23,
    Landlock = 24,
    Seccomp = 25,
    StartCall = 26,
    EndProcesses = 27,
    RetireWorkspace = 28,
    PrepareHelper = 29,
    CopySource = 30,
    Hide = 31,
    LayerWorkspace = 32,
    WritableRoot = 33,
    MapOwners = 34,
    Verify = 35,
    EnterCgroups = 36,
    OpenWay = 50,
    ScopeSignals = 51,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "make the slot",
            Self::PrepareProcess => "become the reaper of the slots' processes",
            Self::PrepareDirectory => "make the slot's directory",
            Self::StartMaker => "start the slot's maker",
            Self::Talk => "talk to the slot's processes",
            Self::Unshare => "make the slot's namespaces",
            Self::MapUser => "map the slot's user",
            Self::BecomeUser => "become the slot's user",
            Self::OpenSource => "open what the slot is to see",
            Self::MountRoot => "mount the slot's root",
            Self::MountSource => "show the slot",
            Self::MountDev => "mount the slot's /dev",
            Self::MountTmp => "mount the slot's /tmp",
            Self::MountWorkspace => "mount the slot's /workspace",
            Self::NameHost => "name the slot's host",
            Self::RaiseLoopback => "raise the slot's loopback interface",
            Self::StartKeeper => "start the slot's keeper",
            Self::MountProc => "mount the slot's /proc",
            Self::EnterRoot => "enter the slot's root",
            Self::StartRunner => "start a runner",
            Self::PrivateProc => "mount a runner's /proc",
            Self::ProveIsolation => "prove that a runner is isolated",
            Self::SetLimits => "set the limits of calls",
            Self::DropCapabilities => "drop all capabilities",
            Self::Landlock => "enter a Landlock domain",
            Self::Seccomp => "install the system call filter",
            Self::StartCall => "hand a call to its runner",
            Self::EndProcesses => "end the slot's processes",
            Self::PrepareHelper => "close what a helper process inherited",
            Self::CopySource => "copy the workspace's source",
            Self::Hide => "hide what the slot is not to see",
            Self::LayerWorkspace => "mount the workspace over its source",
            Self::WritableRoot => "make what the slot sees writable",
            Self::EnterCgroups => "enter the slot's control groups",
            Self::MapOwners => "map the owners of what the slot sees",
            Self::OpenWay => "let the slot's user through to its workspace",
            Self::ScopeSignals => "enter a Landlock domain that confines signals",
            Self::Verify => "verify that the new slot is clean",
            Self::RetireWorkspace => "move the workspace out of the way",
        })
    }
}

struct Detail<'a>(&'a str);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

impl SlotError {
    /// Whether the slot itself is dead, or of no more use; else it is as it was, and serves on.
    pub fn ends_slot(&self) -> bool {
        matches!(self, Self::Gone("keeper") | Self::Undying(_))
    }

    /// There was no room for a file or directory.
    pub fn is_full_disk(&self) -> bool {
        let Self::Step { step, source, .. } = self else { return false };
        // Of namespaces it says that there are too many.
        *step != Step::Unshare && matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// The failure as it travels from a helper.
    pub(super) fn to_wire(&self) -> Failed {
        match self {
            Self::Step { step, detail, source } => Failed {
                step: *step as i32,
                detail: cut(detail),
                errno: source.raw_os_error().unwrap_or(0),
                text: cut(&source.to_string()),
            },
            other => Failed { text: cut(&other.to_string()), ..Failed::default() },
        }
    }

    pub(super) fn from_wire(failed: Failed) -> Self {
        let source = match failed.errno {
            0 => io::Error::other(failed.text),
            errno => io::Error::from_raw_os_error(errno),
        };
        Self::Step { step: Step::try_from(failed.step).unwrap_or_default(), detail: failed.detail, source }
    }
}

/// Says which step an error belongs to.
pub(super) trait At<T> {
    fn at(self, step: Step) -> Result<T, SlotError>;
    fn at_the(self, step: Step, detail: impl fmt::Display) -> Result<T, SlotError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, step: Step) -> Result<T, SlotError> {
        self.map_err(|source| SlotError::Step { step, detail: String::new(), source: source.into() })
    }

    fn at_the(self, step: Step, detail: impl fmt::Display) -> Result<T, SlotError> {
        self.map_err(|source| SlotError::Step { step, detail: detail.to_string(), source: source.into() })
    }
}
