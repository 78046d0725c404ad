//! One transfer of files: on a connection of its own, and on a thread of its own for as long as it takes, since file
//! systems block. What it has in memory is a few chunks, whatever the size of the file.

use std::{
    cell::RefCell,
    io::{self, Read},
    rc::Rc,
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use sha2::{Digest, Sha256};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{
    admission::{Admitted, Asking},
    handle::SlotHandle,
    state::Holder,
};
use crate::{
    pb::sandbox::{BeginTransfer, TransferRequest, TransferResponse, transfer_request::Message},
    sandbox::{slot::Listing, wire::transfer as wire},
    tool::artifact::{Failure, FailureKind, Format, Piece, Request, Summary},
};

/// Chunks on their way, in each direction.
const CHUNKS: usize = 4;
/// How long a transfer waits for its slot to become its trajectory's.
const ASSIGNED_WITHIN: Duration = Duration::from_secs(5);

pub(super) type Responses = ReceiverStream<Result<TransferResponse, Status>>;
type Answers = mpsc::Sender<Result<TransferResponse, Status>>;

/// The first message of a transfer, which says what it is.
pub(super) async fn introduction(
    requests: &mut Streaming<TransferRequest>,
    within: Duration,
) -> Result<BeginTransfer, Status> {
    let first = timeout(within, requests.message()).await;
    match first.map_err(|_| Status::deadline_exceeded("there was no `begin`"))?? {
        Some(TransferRequest { message: Some(Message::Begin(begin)) }) => Ok(begin),
        _ => Err(Status::invalid_argument("the first request is `begin`")),
    }
}

/// Begins the transfer that a trusted executor asks for.
pub(super) async fn run(
    begin: BeginTransfer,
    slot: &SlotHandle,
    requests: Streaming<TransferRequest>,
) -> Result<Responses, Status> {
    let request = wire::to_request(begin.action).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let (answer, admitted) = oneshot::channel();
    slot.transfer(Asking { holder: Holder { owner: begin.owner, generation: begin.generation }, answer });
    let (answers, responses) = mpsc::channel(CHUNKS);
    match timeout(ASSIGNED_WITHIN, admitted).await {
        Ok(Ok(Ok(admitted))) => start(request, admitted, requests, answers),
        Ok(Ok(Err(failure))) => tell(&answers, Err(failure)),
        Ok(Err(_)) | Err(_) => tell(&answers, Err(Failure::workspace_ended())),
    }
    Ok(ReceiverStream::new(responses))
}

/// The channel is new, so that there is room for one.
fn tell(answers: &Answers, answer: Result<Piece, Failure>) {
    let _ = answers.try_send(Ok(wire::from_answer(answer)));
}

fn start(request: Request, admitted: Admitted, requests: Streaming<TransferRequest>, answers: Answers) {
    let handle = Handle::current();
    let content = match &request {
        Request::Write { .. } => Some(receive(requests, answers.clone(), admitted.end.clone())),
        Request::Read { .. } | Request::List { .. } | Request::Archive { .. } => None,
    };
    tokio::task::spawn_blocking(move || {
        let end = admitted.end.clone();
        let mut send = |piece| send(&handle, &answers, &end, Ok(piece));
        let done = transfer(request, &admitted, content, &handle, &mut send);
        if let Err(failure) = done {
            let failure = if end.is_cancelled() { Failure::workspace_ended() } else { failure };
            // Whoever has gone away needs no telling; of a workspace that ends the news is not waited with.
            let answer = Ok(wire::from_answer(Err(failure)));
            match end.is_cancelled() {
                true => drop(answers.try_send(answer)),
                false => drop(handle.block_on(answers.send(answer))),
            }
        }
    });
}

/// Hands one piece on, at the pace of whoever receives it.
fn send(
    handle: &Handle,
    answers: &Answers,
    end: &CancellationToken,
    answer: Result<Piece, Failure>,
) -> Result<(), Failure> {
    let gone = || Failure::new(FailureKind::Aborted, "whoever asked has gone away");
    match answers.try_send(Ok(wire::from_answer(answer))) {
        Ok(()) => Ok(()),
        Err(mpsc::error::TrySendError::Closed(_)) => Err(gone()),
        Err(mpsc::error::TrySendError::Full(answer)) => handle.block_on(async {
            tokio::select! {
                sent = answers.send(answer) => sent.map_err(|_| gone()),
                () = end.cancelled() => Err(Failure::workspace_ended()),
            }
        }),
    }
}

fn transfer(
    request: Request,
    admitted: &Admitted,
    content: Option<mpsc::Receiver<Content>>,
    handle: &Handle,
    send: &mut dyn FnMut(Piece) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Admitted { workspace, allowance, limits, end, .. } = admitted;
    match request {
        Request::Read { path, offset, max_bytes } => workspace.fetch(&path, offset, max_bytes, send),
        Request::List { path, recursive, include_hidden, page_size, after } => {
            let listing = Listing { recursive, include_hidden, most: page_size as usize, after: &after };
            let (artifacts, more) = workspace.list(&path, listing)?;
            send(Piece::Page { artifacts, more })
        }
        Request::Archive { path, format, max_bytes } => workspace.pack(&path, format, max_bytes, limits, send),
        Request::Write { path, format, mode } => {
            let Some(chunks) = content else { return Err(lost()) };
            let fault = Rc::new(RefCell::new(None));
            let mut content = Incoming {
                handle: handle.clone(),
                chunks,
                end: end.clone(),
                chunk: Bytes::new(),
                is_whole: false,
                hash: Sha256::new(),
                bytes: 0,
                fault: fault.clone(),
            };
            let written = match format {
                Format::Raw => workspace.bring(&path, mode, *allowance, &mut content).map(|_| 1),
                Format::Packed(packing) => workspace.unpack(&path, packing, *allowance, limits, &mut content),
            };
            // In its own words, however it was passed on.
            let entries = written.map_err(|failure| fault.take().unwrap_or(failure))?;
            let bytes = content.bytes;
            let sha256 = content.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            send(Piece::Summary(Summary { bytes, entries, sha256, truncated: false }))
        }
    }
}

/// `None`: all of it has come.
type Content = Option<Bytes>;

/// Reads the content at the pace of whoever writes it. Ends when that has ended, too.
fn receive(
    mut requests: Streaming<TransferRequest>,
    answers: Answers,
    end: CancellationToken,
) -> mpsc::Receiver<Content> {
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                message = requests.message() => message,
                () = answers.closed() => return,
                () = end.cancelled() => return,
                () = chunks.closed() => return,
            };
            let content = match message {
                Ok(Some(TransferRequest { message: Some(Message::Chunk(chunk)) })) => Some(chunk),
                Ok(Some(TransferRequest { message: Some(Message::End(_)) })) => None,
                // Whoever writes finds that there is no end.
                Ok(_) | Err(_) => return,
            };
            if chunks.send(content).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// The content, as whoever writes it reads it.
struct Incoming {
    handle: Handle,
    chunks: mpsc::Receiver<Content>,
    end: CancellationToken,
    chunk: Bytes,
    is_whole: bool,
    hash: Sha256,
    bytes: u64,
    fault: Rc<RefCell<Option<Failure>>>,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.is_whole {
            let Self { handle, chunks, end, .. } = self;
            let next = match chunks.try_recv() {
                Ok(content) => Some(content),
                Err(_) => handle.block_on(async {
                    tokio::select! {
                        content = chunks.recv() => content,
                        () = end.cancelled() => None,
                    }
                }),
            };
            match next {
                Some(Some(chunk)) => {
                    self.hash.update(&chunk);
                    self.bytes += chunk.len() as u64;
                    self.chunk = chunk;
                }
                Some(None) => self.is_whole = true,
                None => {
                    self.fault.replace(Some(lost()));
                    return Err(io::Error::other(lost()));
                }
            }
        }
        let read = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}

fn lost() -> Failure {
    Failure::new(FailureKind::Aborted, "the content ended before it was whole")
}
