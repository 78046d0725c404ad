//! Transfers of files: each on a connection of its own, so that a large or a slow one holds up nothing else.

use std::sync::Arc;

use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{
    Endpoint, MAX_MESSAGE_BYTES,
    attach::{ATTEMPT, channel},
};
use crate::{
    id::Generation,
    pb::sandbox::{
        BeginTransfer, EndOfContent, TransferRequest, TransferResponse, sandbox_service_client::SandboxServiceClient,
        transfer_request::Message,
    },
    sandbox::wire::transfer as wire,
    tool::artifact::{Failure, FailureKind, Piece, Request},
};

/// Of one transfer, in bytes: what its reader has not taken yet.
const WINDOW: u32 = 1 << 20;
/// Chunks of content that wait to be sent.
const CHUNKS: usize = 2;

/// To an agent, for the executor of this epoch.
pub(super) struct Way {
    pub(super) endpoint: Endpoint,
    pub(super) epoch: u64,
}

/// The way to the files of one workspace. Cheap to clone; it leads nowhere once the workspace has ended.
#[derive(Clone)]
pub struct Files {
    way: Arc<Way>,
    slot: u32,
    owner: String,
    generation: Generation,
}

impl Files {
    pub(super) fn new(way: Arc<Way>, slot: u32, owner: String, generation: Generation) -> Self {
        Self { way, slot, owner, generation }
    }

    /// Begins a transfer.
    ///
    /// # Errors
    /// If the agent cannot be reached, or refuses it.
    pub async fn begin(&self, request: Request) -> Result<Transfer, Failure> {
        let (requests, receiver) = mpsc::channel(CHUNKS);
        let begin = BeginTransfer {
            token: self.way.endpoint.token.reveal().to_owned(),
            epoch: self.way.epoch,
            slot: self.slot,
            owner: self.owner.clone(),
            generation: self.generation.0,
            action: Some(wire::from_request(request)),
        };
        // There is room for it.
        let _ = requests.try_send(TransferRequest { message: Some(Message::Begin(begin)) });
        let unreachable = || Failure::new(FailureKind::Aborted, "the slot's agent could not be reached");
        let channel = timeout(ATTEMPT, channel(&self.way.endpoint, WINDOW)).await.map_err(|_| unreachable())?;
        let channel = channel.map_err(|_| unreachable())?;
        let mut client = SandboxServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let responses = client.transfer(ReceiverStream::new(receiver)).await.map_err(|status| broken(&status))?;
        Ok(Transfer { requests, responses: responses.into_inner() })
    }
}

/// One transfer. Dropped, it is ended, and nothing is kept of what was brought.
pub struct Transfer {
    requests: mpsc::Sender<TransferRequest>,
    responses: Streaming<TransferResponse>,
}

impl Transfer {
    /// The next answer; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Piece>, Failure> {
        match self.responses.message().await {
            Ok(Some(response)) => wire::to_answer(response).map(Some),
            Ok(None) => Ok(None),
            Err(status) => Err(broken(&status)),
        }
    }

    /// Sends content, at the pace of whoever writes it. False if no more is taken: the next answer says why.
    pub async fn send(&self, chunk: Bytes) -> bool {
        self.requests.send(TransferRequest { message: Some(Message::Chunk(chunk)) }).await.is_ok()
    }

    /// All of the content has been sent.
    pub async fn finish(&self) -> bool {
        self.requests.send(TransferRequest { message: Some(Message::End(EndOfContent {})) }).await.is_ok()
    }
}

fn broken(status: &Status) -> Failure {
    match status.code() {
        Code::Unimplemented => {
            Failure::new(FailureKind::Other, "the slot's agent is of a version that has no transfers")
        }
        _ => Failure::new(FailureKind::Aborted, format!("the slot's agent is gone: {}", status.message())),
    }
}
