//! A process that outlives its call, in a runner of its own: with it ends all that it started. What it prints is read for
//! as long as it runs, whether or not anybody asks for it.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    net::unix::pipe,
    sync::{mpsc, oneshot, watch},
    task::coop::consume_budget,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        gauge::{Behind, Gauge, Lasting},
        stdio::{Input, pipe_of},
    },
    at, lock,
    log::{Log, Part},
    next_look,
    pace::Pace,
    with_limit,
};
use crate::{
    sandbox::slot::{DEATH, Runner, RunnerEnd, SlotError, Stdio},
    tool::{
        chain,
        job::{Exceeded, Exit, Process, Program},
    },
};

/// Of what it printed, the last.
const LOG_BYTES: usize = 256 << 10;
/// Of input that it has not read.
const MAX_PENDING_INPUT: usize = 1 << 20;
/// How fast it is read, in bytes each second.
const RATE: u32 = 16 << 20;
/// Of one read.
const READ: usize = 16 << 10;
/// What is in a pipe at the end, at most. If more comes, somebody else has it.
const LARGEST_PIPE: usize = 1 << 20;

/// How it ended, once it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    /// "exited with code 0", and the like.
    pub(super) how: String,
    pub(super) exceeded: Option<Exceeded>,
    pub(super) after: Duration,
}

/// What is asked of one that runs.
enum Word {
    Write { data: Vec<u8>, end_of_input: bool, done: oneshot::Sender<Result<(), &'static str>> },
    Kill,
}

/// See the module.
pub(super) struct Background {
    pub(super) command: String,
    pub(super) started: Instant,
    log: Mutex<Log>,
    /// Where the last one to read the log without an offset ended.
    cursor: Mutex<u64>,
    ended: watch::Sender<Option<Ended>>,
    words: mpsc::UnboundedSender<Word>,
}

/// What must be driven for it to go on.
pub(super) struct Driver {
    shared: Arc<Background>,
    runner: Runner,
    output: Option<pipe::Receiver>,
    input: Input,
    words: mpsc::UnboundedReceiver<Word>,
    pace: Pace,
    behind: Behind,
    /// Why it was ended, if for a limit.
    exceeded: Option<Exceeded>,
    /// It was asked to end, so that its end says nothing of limits.
    is_stopped: bool,
    buffer: Vec<u8>,
}

/// Why one was not begun.
#[derive(Debug, thiserror::Error)]
pub(super) enum BeginError {
    #[error("no pipes could be made")]
    Pipes(#[from] io::Error),
    #[error("it could not be handed over")]
    Start(#[from] SlotError),
}

impl Background {
    /// `user`: the slot's, where that is not the agent's own.
    pub(super) fn begin(
        command: String,
        mut runner: Runner,
        user: Option<u32>,
        gauge: &Gauge,
    ) -> Result<Driver, BeginError> {
        let (input, stdin) = Input::new(bytes::Bytes::new(), true, MAX_PENDING_INPUT, user)?;
        let (output, stdout): (OwnedFd, OwnedFd) = pipe_of(user)?;
        let output = Some(pipe::Receiver::from_owned_fd(output)?);
        // One pipe for both, so that their order is kept.
        let stderr = stdout.try_clone()?;
        let process = Process { program: Program::Shell(command.clone()), ..Process::default() };
        let behind = gauge.begin_behind(Lasting::Process);
        runner.start(&process, Stdio { stdin, stdout, stderr })?;
        // Bounded by the calls that run: each waits for its answer.
        let (words, heard) = mpsc::unbounded_channel();
        let shared = Arc::new(Self {
            command,
            started: Instant::now(),
            log: Mutex::new(Log::new(LOG_BYTES)),
            cursor: Mutex::new(0),
            ended: watch::Sender::new(None),
            words,
        });
        Ok(Driver {
            shared,
            runner,
            output,
            input,
            words: heard,
            pace: Pace::new(),
            behind,
            exceeded: None,
            is_stopped: false,
            buffer: vec![0; READ],
        })
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        self.ended.borrow().clone()
    }

    pub(super) fn printed(&self) -> u64 {
        lock(&self.log).end()
    }

    /// Without an offset, from where the last such reader ended.
    pub(super) fn log(&self, offset: Option<u64>, max: usize) -> Part {
        let mut cursor = lock(&self.cursor);
        let part = lock(&self.log).read(offset.unwrap_or(*cursor), max);
        if offset.is_none() {
            *cursor = part.next();
        }
        part
    }

    /// Its end, if it ends within this time.
    pub(super) async fn wait(&self, patience: Duration) -> Option<Ended> {
        let mut ended = self.ended.subscribe();
        let ended = timeout(patience, ended.wait_for(Option::is_some)).await;
        ended.ok()?.ok()?.clone()
    }

    /// Why it takes no input, if it takes none.
    pub(super) async fn write(&self, data: Vec<u8>, end_of_input: bool) -> Result<(), &'static str> {
        let (done, answer) = oneshot::channel();
        // Both fail where it has ended.
        let _ = self.words.send(Word::Write { data, end_of_input, done });
        answer.await.unwrap_or(Err("it has ended"))
    }

    pub(super) fn kill(&self) {
        let _ = self.words.send(Word::Kill);
    }
}

impl Driver {
    pub(super) fn shared(&self) -> Arc<Background> {
        self.shared.clone()
    }

    /// Until it has ended, and nothing of it is left; or until `end`, which ends it.
    pub(super) async fn run(mut self, end: CancellationToken) {
        let mut deadline: Option<tokio::time::Instant> = None;
        let mut look = next_look(&self.behind);
        let ended = loop {
            let output = self.output.as_ref();
            let held_up = self.pace.held_up();
            // What is always ready must let others have their turn.
            consume_budget().await;
            // Cancel-safe: nothing is read or written before the choice is made.
            tokio::select! {
                ended = self.runner.ended() => break ended,
                () = at(held_up), if held_up.is_some() => {}
                () = readable(output), if held_up.is_none() => { self.read(|output, buffer| output.try_read(buffer)); }
                () = self.input.writable() => self.input.write(),
                Some(word) = self.words.recv() => self.on_word(word),
                () = at(look), if self.exceeded.is_none() => {
                    look = next_look(&self.behind);
                    self.exceeded = self.behind.look();
                    if self.exceeded.is_some() {
                        self.runner.cancel();
                    }
                }
                () = end.cancelled(), if deadline.is_none() => {
                    self.is_stopped = true;
                    self.runner.cancel();
                    deadline = Some(tokio::time::Instant::now() + DEATH);
                }
                () = at(deadline) => break Err(SlotError::Undying("background process")),
            }
        };
        // All of it is in the pipe.
        let mut left = LARGEST_PIPE;
        while left > 0 {
            match self.read(|output, buffer| Ok(rustix::io::read(output, buffer)?)) {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        let after = self.shared.started.elapsed();
        let exceeded = match (self.exceeded, &ended) {
            (None, Ok(RunnerEnd::Ended { exit, limit, written, .. })) if !self.is_stopped => {
                self.behind.conclude(*exit, *limit, *written).await
            }
            (exceeded, _) => exceeded,
        };
        self.shared.ended.send_replace(Some(end_of(ended, exceeded, after)));
    }

    fn on_word(&mut self, word: Word) {
        match word {
            Word::Kill => {
                self.is_stopped = true;
                self.runner.cancel();
            }
            Word::Write { data, end_of_input, done } => {
                let taken = if !self.input.is_open() {
                    Err("its input is closed")
                } else {
                    self.input.push(&data, end_of_input).map_err(|_| "it has left too much of its input unread")
                };
                // Whoever asked may be gone.
                let _ = done.send(taken);
            }
        }
    }

    /// Reads once, if there is something; how much.
    fn read(&mut self, read: impl FnOnce(&pipe::Receiver, &mut [u8]) -> io::Result<usize>) -> usize {
        let Some(output) = &self.output else { return 0 };
        match read(output, &mut self.buffer) {
            Ok(count) if count > 0 => {
                lock(&self.shared.log).push(&self.buffer[..count]);
                self.pace.spend_bytes(count, RATE);
                return count;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => self.output = None,
        }
        0
    }
}

async fn readable(output: Option<&pipe::Receiver>) {
    match output {
        // An error is found again by the read.
        Some(output) => drop(output.readable().await),
        None => std::future::pending().await,
    }
}

fn end_of(ended: Result<RunnerEnd, SlotError>, exceeded: Option<Exceeded>, after: Duration) -> Ended {
    let (code, how) = match ended {
        Ok(RunnerEnd::NotStarted { message, .. }) => (None, format!("could not be started: {message}")),
        Ok(RunnerEnd::Ended { exit: Exit::Code(code), .. }) => (Some(code), format!("exited with code {code}")),
        Ok(RunnerEnd::Ended { exit: Exit::Signal(signal), .. }) => {
            (Some(128 + signal), format!("was killed by signal {signal}"))
        }
        Err(error) => (None, format!("was lost: {}", chain(&error))),
    };
    Ended { code, how: with_limit(how, exceeded.as_ref()), exceeded, after }
}
