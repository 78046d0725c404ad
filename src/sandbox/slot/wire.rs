//! What agent and helper processes say to each other. One message is one SEQPACKET datagram; descriptors go with it.
//!
//! The agent speaks first on every socket: to the maker a [`MakerSpec`] and then, with the workspace and with the image
//! if that is to be writable as it is, a [`SlotSpec`]; to the keeper a [`KeeperSpec`] (a warden: a [`WardenSpec`]) and
//! then a [`Nothing`] with each new runner's socket; to a runner its [`RunnerSpec`] and then [`Request`]s. Helpers answer
//! with [`Reply`]s.

use std::io;

use prost::{Message, Oneof};

/// Begins every datagram: an encoded message may be empty, and an empty datagram is how a socket says "gone".
const MARK: u8 = 1;

pub(super) fn encode(message: &impl Message) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(1 + message.encoded_len());
    datagram.push(MARK);
    message.encode_raw(&mut datagram);
    datagram
}

pub(super) fn decode<M: Message + Default>(datagram: &[u8]) -> io::Result<M> {
    match datagram.split_first() {
        Some((&MARK, message)) => M::decode(message).map_err(io::Error::other),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A message longer than this travels in a memory file beside the datagram: the kernel bounds a datagram by the
/// socket's buffer, and a script or an environment may be larger.
pub(super) const MAX_DATAGRAM: usize = 16 * 1024;

/// No answer is longer: see [`cut`].
pub(super) const MAX_REPLY: usize = 4096;

/// Cuts a text so that two of them, with any characters, fit an answer.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(MAX_REPLY / 4 / 2 - 16).collect()
}

/// No process can be started with more arguments than this, whatever the stack limit.
pub(super) const MAX_START: u64 = 16 * 1024 * 1024;

/// What a slot's maker separates itself from.
#[derive(Clone, PartialEq, Message)]
pub(super) struct MakerSpec {
    /// Share the agent's network.
    #[prost(bool, tag = "1")]
    pub(super) network: bool,
    /// The agent is root, and none of its groups may stay.
    #[prost(bool, tag = "2")]
    pub(super) drop_groups: bool,
    /// The slot's users are the agent's.
    #[prost(bool, tag = "3")]
    pub(super) no_user_namespace: bool,
}

/// How a slot's file system is made.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SlotSpec {
    /// Share the agent's network.
    #[prost(bool, tag = "1")]
    pub(super) network: bool,
    /// Absolute paths of the host, shown read-only.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(super) read_only: Vec<Vec<u8>>,
    #[prost(uint64, tag = "3")]
    pub(super) tmp_bytes: u64,
    /// Show all that the image has.
    #[prost(bool, tag = "5")]
    pub(super) image: bool,
    /// Absolute paths of the host, never shown.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub(super) hidden: Vec<Vec<u8>>,
    /// An absolute path at which the workspace is shown, beside /workspace.
    #[prost(bytes = "vec", optional, tag = "7")]
    pub(super) workspace_place: Option<Vec<u8>>,
    /// The name of the directory, beside the workspace's, that the workspace begins with as a layer below it.
    #[prost(string, optional, tag = "8")]
    pub(super) workspace_layer: Option<String>,
    /// The name of the one, also there, that is layered over the image to make that writable.
    #[prost(string, optional, tag = "9")]
    pub(super) image_layer: Option<String>,
    /// There is no user namespace: what is made for the slot's user is given to this one.
    #[prost(uint32, optional, tag = "20")]
    pub(super) owner: Option<u32>,
    /// The workspace is in memory, and this its size.
    #[prost(message, optional, tag = "10")]
    pub(super) workspace_in_memory: Option<Size>,
}

/// Of a file system in memory; 0 is what the kernel gives.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Size {
    #[prost(uint64, tag = "1")]
    pub(super) bytes: u64,
    #[prost(uint64, tag = "2")]
    pub(super) inodes: u64,
}

/// To the keeper, once it is alone.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KeeperSpec {
    #[prost(enumeration = "Proc", tag = "1")]
    pub(super) proc: i32,
    /// How many names are in the workspace that was made; what nobody could count is not verified.
    #[prost(uint64, optional, tag = "2")]
    pub(super) workspace_entries: Option<u64>,
    /// What the image has can be written to.
    #[prost(bool, tag = "3")]
    pub(super) writable_root: bool,
}

/// What the slot has as its /proc, and each runner as its.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Proc {
    /// That of its pid namespace.
    Own = 0,
    /// The one that the agent has.
    Agents = 1,
    /// Its own, unless the kernel refuses that. What it answers does not change while an agent runs.
    OwnIfPossible = 2,
}

/// To the warden, as the first word.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WardenSpec {
    /// Become this user.
    #[prost(uint32, optional, tag = "1")]
    pub(super) user: Option<u32>,
    /// The slot's directory for temporary files; its workspace is the working directory.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) tmp: Vec<u8>,
}

/// What a runner's calls are held to.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RunnerSpec {
    #[prost(uint64, tag = "1")]
    pub(super) max_open_files: u64,
    #[prost(uint64, optional, tag = "2")]
    pub(super) max_processes: Option<u64>,
    /// The network is the agent's: keep calls from its abstract sockets, where the kernel can.
    #[prost(bool, tag = "3")]
    pub(super) scope_sockets: bool,
    #[prost(enumeration = "Proc", tag = "4")]
    pub(super) proc: i32,
    /// There is no user namespace: become this user.
    #[prost(uint32, optional, tag = "20")]
    pub(super) user: Option<u32>,
    /// There are no namespaces at all.
    #[prost(message, optional, tag = "21")]
    pub(super) shown: Option<Shown>,
    /// Of all processes of a call.
    #[prost(uint64, optional, tag = "5")]
    pub(super) cpu_time_us: Option<u64>,
    /// Of a file.
    #[prost(uint64, optional, tag = "6")]
    pub(super) file_bytes: Option<u64>,
    /// Of each process.
    #[prost(uint64, optional, tag = "7")]
    pub(super) memory_bytes: Option<u64>,
}

/// What calls without namespaces see and may use of the machine. All paths are absolute, and the machine's.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Shown {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) workspace: Vec<u8>,
    /// For temporary files.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) tmp: Vec<u8>,
    /// All that the image has.
    #[prost(bool, tag = "3")]
    pub(super) image: bool,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub(super) read_only: Vec<Vec<u8>>,
    /// Never shown, workspace and `tmp` aside.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub(super) hidden: Vec<Vec<u8>>,
    /// Share the agent's network; else there is none.
    #[prost(bool, tag = "6")]
    pub(super) network: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Nothing {}

/// From the agent to a runner.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(oneof = "RequestKind", tags = "1, 2, 3")]
    pub(super) kind: Option<RequestKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum RequestKind {
    /// Start a process. With it: stdout, stderr, and stdin where `stdin` says so.
    #[prost(message, tag = "1")]
    Start(Start),
    /// The same; the `Start` is the whole of a memory file, which is the last descriptor.
    #[prost(message, tag = "2")]
    StartInMemory(Nothing),
    /// Kill what runs. Without a running call it means nothing: the call had ended by itself.
    #[prost(message, tag = "3")]
    Cancel(Nothing),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Start {
    /// A shell script if set, else `arguments`.
    #[prost(string, optional, tag = "1")]
    pub(super) script: Option<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) arguments: Vec<String>,
    #[prost(string, tag = "3")]
    pub(super) working_directory: String,
    #[prost(message, repeated, tag = "4")]
    pub(super) environment: Vec<Variable>,
    #[prost(bool, tag = "5")]
    pub(super) stdin: bool,
    /// Make a terminal of the slot's: it is the process's controlling one, and its stderr in place of the one sent. The
    /// first answer is [`ReplyKind::Terminal`].
    #[prost(bool, tag = "6")]
    pub(super) terminal: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Variable {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

/// From a helper to the agent.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Reply {
    #[prost(oneof = "ReplyKind", tags = "1, 2, 3, 4, 5")]
    pub(super) kind: Option<ReplyKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum ReplyKind {
    /// The maker: "map me", and then "the keeper is up", which carries its pidfd and the workspace.
    /// A keeper or runner: "at work".
    #[prost(message, tag = "1")]
    Ready(Nothing),
    /// The helper gives up.
    #[prost(message, tag = "2")]
    Failed(Failed),
    #[prost(message, tag = "3")]
    NotStarted(NotStarted),
    #[prost(message, tag = "4")]
    Ended(Ended),
    /// With it: the terminal's master, and a side of the process's that never blocks.
    #[prost(message, tag = "5")]
    Terminal(Nothing),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Failed {
    /// A `Step`.
    #[prost(int32, tag = "1")]
    pub(super) step: i32,
    #[prost(string, tag = "2")]
    pub(super) detail: String,
    /// The operating system's error number, or 0: then `text` says it.
    #[prost(int32, tag = "3")]
    pub(super) errno: i32,
    #[prost(string, tag = "4")]
    pub(super) text: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NotStarted {
    #[prost(enumeration = "StartFault", tag = "1")]
    pub(super) fault: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum StartFault {
    Refused = 0,
    NotFound = 1,
    TooLarge = 2,
}

/// The call's process has ended, and everything that it left behind has been killed and reaped.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Ended {
    /// As wait(2) encodes it.
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
    #[prost(uint64, tag = "2")]
    pub(super) user_cpu_us: u64,
    #[prost(uint64, tag = "3")]
    pub(super) system_cpu_us: u64,
    #[prost(uint64, tag = "4")]
    pub(super) max_rss_bytes: u64,
    /// From the start until the process itself had ended.
    #[prost(uint64, tag = "5")]
    pub(super) execution_us: u64,
    /// The limit that the call ran into, as far as the runner sees.
    #[prost(enumeration = "LimitHit", tag = "6")]
    pub(super) limit: i32,
    /// To file systems on disks.
    #[prost(uint64, tag = "7")]
    pub(super) written_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum LimitHit {
    None = 0,
    CpuTime = 1,
    Processes = 2,
    FileSize = 3,
}

impl From<RequestKind> for Request {
    fn from(kind: RequestKind) -> Self {
        Self { kind: Some(kind) }
    }
}

impl From<ReplyKind> for Reply {
    fn from(kind: ReplyKind) -> Self {
        Self { kind: Some(kind) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sandbox::slot::SlotError;

    /// A helper shares its slot's user with calls, and is not theirs to trace; were one theirs all the same, this is what
    /// they could say to the agent.
    fn reply() -> impl Strategy<Value = Reply> {
        let failed = (any::<i32>(), ".{0,8}", any::<i32>(), ".{0,8}")
            .prop_map(|(step, detail, errno, text)| ReplyKind::Failed(Failed { step, detail, errno, text }));
        let ended = (any::<i32>(), any::<i32>(), any::<[u64; 5]>()).prop_map(
            |(status, limit, [user, system, rss, execution, written])| {
                ReplyKind::Ended(Ended {
                    status,
                    user_cpu_us: user,
                    system_cpu_us: system,
                    max_rss_bytes: rss,
                    execution_us: execution,
                    limit,
                    written_bytes: written,
                })
            },
        );
        let refused =
            (any::<i32>(), ".{0,8}").prop_map(|(fault, message)| ReplyKind::NotStarted(NotStarted { fault, message }));
        let kind = prop_oneof![failed, ended, refused, Just(ReplyKind::Ready(Nothing {}))];
        prop::option::weighted(0.9, kind).prop_map(|kind| Reply { kind })
    }

    proptest! {
        #[test]
        fn datagrams_of_any_kind_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), mark: bool) {
            let bytes = if mark { [&[MARK], &bytes[..]].concat() } else { bytes };
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Start>(&bytes);
            let _ = decode::<SlotSpec>(&bytes);
            let _ = decode::<RunnerSpec>(&bytes);
            let _ = decode::<KeeperSpec>(&bytes);
            if let Ok(Reply { kind: Some(ReplyKind::Failed(failed)) }) = decode(&bytes) {
                let _ = SlotError::from_wire(failed).to_string();
            }
        }

        #[test]
        fn replies_survive_the_way_and_a_failure_can_be_told(reply in reply()) {
            let datagram = encode(&reply);
            prop_assert_eq!(&decode::<Reply>(&datagram).expect("it is whole"), &reply);
            if let Some(ReplyKind::Failed(failed)) = reply.kind {
                prop_assert!(!SlotError::from_wire(failed).to_string().is_empty());
            }
        }
    }
}
