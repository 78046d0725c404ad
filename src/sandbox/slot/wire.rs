//! What agent and helper processes say to each other. One message is one SEQPACKET datagram; descriptors go with it.
//!
//! The agent speaks first on every socket: to the maker a [`SlotSpec`] and then "you are mapped", which carries the image
//! if that is to be writable as it is, to the keeper a [`KeeperSpec`] and then a
//! [`Nothing`] with each new runner's socket, to a runner its [`RunnerSpec`] and then [`Request`]s. Helpers answer with
//! [`Reply`]s.

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

/// How a slot's file system and network are made.
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
    /// The agent is root, and none of its groups may stay.
    #[prost(bool, tag = "4")]
    pub(super) drop_groups: bool,
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
}

/// To the keeper, once it is alone.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KeeperSpec {
    /// The slot's /proc is the one that the agent has.
    #[prost(bool, tag = "1")]
    pub(super) bound_proc: bool,
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
    /// The slot's /proc stays; it is not this runner's own.
    #[prost(bool, tag = "4")]
    pub(super) bound_proc: bool,
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
    #[prost(oneof = "ReplyKind", tags = "1, 2, 3, 4")]
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
        let ended = (any::<i32>(), any::<[u64; 4]>()).prop_map(|(status, [user, system, rss, execution])| {
            ReplyKind::Ended(Ended {
                status,
                user_cpu_us: user,
                system_cpu_us: system,
                max_rss_bytes: rss,
                execution_us: execution,
            })
        });
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
