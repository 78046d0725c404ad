//! Making one connection to an agent.

use std::{collections::BTreeSet, io, path::Path, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustix::fs::{CWD, Mode, OFlags};
use tokio::net::UnixStream;
use tonic::{Code, Status, Streaming, transport};

use super::{
    Address, Endpoint, KEEPALIVE, LinkOptions, MAX_MESSAGE_BYTES, WINDOW,
    outgoing::{Body, Conversation},
};
use crate::{
    id::{CallNumber, ContainerId, Generation, Opening},
    pb::sandbox::{self as pb, LinkResponse, link_response, sandbox_service_client::SandboxServiceClient},
    sandbox::{PROTOCOL_VERSION, wire},
    tool::limit::SlotLimit,
};

/// For one attempt.
pub(super) const ATTEMPT: Duration = Duration::from_secs(5);
/// The name goes into every result.
const MAX_ISOLATION_BYTES: usize = 64;
/// Of what is said of all limits together, which goes into every status.
const MAX_LIMITS_BYTES: usize = 16 << 10;

/// What an agent says of itself when it is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The name of the level of isolation that every slot has.
    pub isolation: String,
    pub network_isolated: bool,
    /// How many slots it has.
    pub slots: u32,
    /// Those of them that an earlier executor has left in use, or in no state to be used; by their index.
    pub used: Vec<UsedSlot>,
    /// Those that are empty and nobody's, and of which it says to whom they were assigned last; by their index.
    pub vacant: Vec<VacantSlot>,
    /// It speaks the version of the protocol before this one. One that an earlier executor has left is to be given
    /// nothing new.
    pub is_old: bool,
    /// What it says of the calls in its slots is all there is: no other can have run, and not been heard of.
    pub is_exact: bool,
    /// Of each of its slots.
    pub limits: Vec<SlotLimit>,
}

/// A slot as an earlier executor has left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedSlot {
    pub slot: u32,
    /// Whose it is, or was last, as far as the agent says; empty if nobody's.
    pub owner: String,
    pub generation: Generation,
    /// It is its owner's, and its processes live; or what became of it.
    pub held: Result<(), &'static str>,
    /// Calls that its owner has given it, each of which runs, or whose end is told (again) to this executor.
    pub calls: BTreeSet<CallNumber>,
}

/// An empty slot that is nobody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VacantSlot {
    pub slot: u32,
    /// Of the last assignment that has arrived; empty if none ever has.
    pub last_owner: String,
    pub last_generation: Generation,
    pub last_opening: Opening,
}

/// What a slot's first events are to an executor that comes after others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Horizon {
    /// Events of the slot up to this number are about others than its present owner.
    pub(super) of_others: u64,
    /// What events up to this number say of the slot itself is nothing new.
    pub(super) known: u64,
}

/// The first version of the protocol whose agents tell all of what they have been asked.
const EXACT: u32 = 1;

/// Why a link was not made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the agent is not there")]
    Unreachable(#[source] transport::Error),
    /// What listens there does not know the token: trying again is of no use.
    #[error("what listens there is not this container's agent, or has another secret")]
    Stranger(#[source] transport::Error),
    #[error("the agent did not answer in {ATTEMPT:?}")]
    Silent,
    /// With why the last attempt failed.
    #[error("it was not ready in time")]
    TooLate(#[source] Box<ConnectError>),
    #[error("the agent refuses the link: {}", .0.message())]
    Refused(Box<Status>),
    /// It does not know the token, or obeys a later executor.
    #[error("the agent refuses this executor: {}", .0.message())]
    Forbidden(Box<Status>),
    #[error("the agent does not speak the protocol: {0}")]
    Senseless(&'static str),
    #[error("the agent speaks version {0} of the protocol, and this executor {PROTOCOL_VERSION} and the one before")]
    Version(u32),
    /// What listens there is the agent of another container, which has the same token.
    #[error("the agent of container {0} answers there")]
    Another(String),
}

impl ConnectError {
    /// Trying again is of no use.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Forbidden(_) | Self::Another(_) | Self::Stranger(_) | Self::Version(_))
    }
}

impl From<Status> for ConnectError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unauthenticated | Code::FailedPrecondition => Self::Forbidden(Box::new(status)),
            _ => Self::Refused(Box::new(status)),
        }
    }
}

/// One connection, attached; nothing but `attach` has been sent.
pub(super) struct Attachment {
    pub(super) attached: Attached,
    pub(super) requests_received: u64,
    pub(super) events_acknowledged: u64,
    /// Of each slot.
    pub(super) horizons: Vec<Horizon>,
    pub(super) responses: Streaming<LinkResponse>,
}

pub(super) async fn attach(
    container: &ContainerId,
    endpoint: &Endpoint,
    options: &LinkOptions,
    conversation: &Arc<Conversation>,
    connection: u64,
    events_received: u64,
) -> Result<Attachment, ConnectError> {
    let attempt = async {
        let attach = pb::Attach {
            executor_id: options.executor_id.clone(),
            epoch: options.epoch,
            token: endpoint.token.reveal().to_owned(),
            events_received,
            version: PROTOCOL_VERSION,
        };
        let body = Body::new(conversation.clone(), connection, attach);
        let mut client = SandboxServiceClient::new(channel(endpoint, WINDOW).await?)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let mut responses = client.link(body).await?.into_inner();
        let first = responses.message().await?.ok_or(ConnectError::Senseless("it ended the link"))?;
        let Some(link_response::Message::Attached(attached)) = first.message else {
            return Err(ConnectError::Senseless("its first answer is not `attached`"));
        };
        if attached.container_id != container.as_str() {
            return Err(ConnectError::Another(attached.container_id));
        }
        if !(PROTOCOL_VERSION - 1..=PROTOCOL_VERSION).contains(&attached.version) {
            return Err(ConnectError::Version(attached.version));
        }
        if attached.isolation.len() > MAX_ISOLATION_BYTES {
            return Err(ConnectError::Senseless("no level of isolation has such a name"));
        }
        let said = attached.limits.iter().map(|limit| limit.name.len() + limit.value.len() + limit.mechanism.len() + 1);
        if said.sum::<usize>() > MAX_LIMITS_BYTES {
            return Err(ConnectError::Senseless("it says too much of its slots' limits"));
        }
        let slots = u32::try_from(attached.slots.len()).map_err(|_| ConnectError::Senseless("too many slots"))?;
        let used = (0..).zip(&attached.slots).filter(|(_, slot)| slot.state() != pb::SlotState::Clean);
        Ok(Attachment {
            horizons: attached.slots.iter().map(horizon).collect(),
            attached: Attached {
                vacant: (0..).zip(&attached.slots).filter_map(|(index, slot)| vacant_slot(index, slot)).collect(),
                used: used.map(|(index, slot)| used_slot(index, slot)).collect(),
                is_old: attached.version < PROTOCOL_VERSION,
                is_exact: attached.version >= EXACT,
                isolation: attached.isolation,
                network_isolated: attached.network_isolated,
                slots,
                limits: wire::to_limits(attached.limits),
            },
            requests_received: attached.requests_received,
            events_acknowledged: attached.events_acknowledged,
            responses,
        })
    };
    tokio::time::timeout(ATTEMPT, attempt).await.unwrap_or(Err(ConnectError::Silent))
}

fn used_slot(index: u32, slot: &pb::SlotSnapshot) -> UsedSlot {
    UsedSlot {
        slot: index,
        owner: slot.owner.clone(),
        held: match slot.state() {
            pb::SlotState::Assigned => Ok(()),
            pb::SlotState::Lost => Err("the slot's processes have died"),
            pb::SlotState::Kept => Err("the slot was given back"),
            pb::SlotState::Quarantined => Err("the slot could not be emptied"),
            pb::SlotState::Resetting => {
                Err("the slot does not answer in time: it is busy with what it was asked before")
            }
            pb::SlotState::Clean | pb::SlotState::Unspecified => Err("the slot is nobody's"),
        },
        generation: Generation(slot.generation),
        calls: slot.ended_calls.iter().chain(&slot.running_calls).map(|call| CallNumber(*call)).collect(),
    }
}

fn vacant_slot(index: u32, slot: &pb::SlotSnapshot) -> Option<VacantSlot> {
    let last = slot.last_assignment.as_ref().filter(|_| slot.state() == pb::SlotState::Clean)?;
    Some(VacantSlot {
        slot: index,
        last_owner: last.owner.clone(),
        last_generation: Generation(last.generation),
        last_opening: Opening(last.opening),
    })
}

fn horizon(slot: &pb::SlotSnapshot) -> Horizon {
    Horizon { of_others: slot.events_of_others, known: slot.last_event }
}

/// `window`: in bytes, of what has come and was not read yet.
pub(super) async fn channel(endpoint: &Endpoint, window: u32) -> Result<transport::Channel, ConnectError> {
    let channel = match &endpoint.address {
        Address::Unix(_) => transport::Endpoint::from_static("http://agent"),
        Address::Tcp(authority) => transport::Endpoint::from_shared(match endpoint.tls() {
            Some(_) => format!("https://{authority}"),
            None => format!("http://{authority}"),
        })
        .map_err(ConnectError::Unreachable)?,
    };
    let channel = match endpoint.tls() {
        Some(tls) => channel.tls_config(tls.clone()).map_err(ConnectError::Unreachable)?,
        None => channel,
    };
    let channel = channel
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    let connected = match endpoint.address.clone() {
        Address::Tcp(_) => channel.connect().await,
        Address::Unix(path) => {
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { connect_unix(&path).await.map(TokioIo::new) }
            });
            channel.connect_with_connector(connector).await
        }
    };
    connected.map_err(|error| match shows_another_certificate(&error) {
        true => ConnectError::Stranger(error),
        false => ConnectError::Unreachable(error),
    })
}

fn shows_another_certificate(error: &transport::Error) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| (*cause).source());
    let tls = |cause: &(dyn std::error::Error + 'static)| {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some_and(is_of_certificate)
            || cause.downcast_ref::<rustls::Error>().is_some_and(is_of_certificate)
    };
    causes.into_iter().any(tls)
}

fn is_of_certificate(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(_))
}

/// A socket's address has 108 bytes, which a state directory may fill by itself: its directory is named by a
/// descriptor instead.
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    use std::os::fd::AsRawFd;
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory =
        rustix::fs::openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name)).await
}
