//! A terminal with a screen: an interactive shell in a runner of its own, its terminal, and an emulation of what a person
//! would see. What is printed is read for as long as it runs, whether or not anybody looks.

mod history;
mod keys;
mod screen;
mod sending;

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::{
    process::Pid,
    termios::{LocalModes, Winsize},
};
use tokio::{
    io::unix::AsyncFd,
    sync::{Notify, watch},
    task::coop::consume_budget,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::screen::{Entire, Screen};
use super::{
    super::{
        gauge::{Behind, Lasting},
        stdio::pipe_of,
    },
    SessionCall, at,
    feed::Feed,
    lock, next_look,
    pace::Pace,
    shell::{ShellError, how, tty::watched},
    with_limit,
};
use crate::{
    sandbox::slot::{DEATH, LimitHit, Runner, RunnerEnd, SlotError, Terminal},
    tool::{
        MAX_CAPTURED_BYTES,
        job::{Exceeded, Process, Program},
        session::Told,
    },
};

/// The terminal is the stderr that it begins with.
const BEGIN: &str =
    "command -v bash >/dev/null 2>&1 && exec bash --norc --noprofile -i <&2 >&2; exec /bin/sh -i <&2 >&2";
const ENVIRONMENT: [(&str, &str); 3] = [("TERM", "xterm-256color"), ("PS1", "$ "), ("HISTFILE", "/dev/null")];

/// Nothing was printed for so long: what is on the screen will stay for now.
const QUIET: Duration = Duration::from_millis(100);
/// How often a prompt that is waited for is looked for.
const LOOK: Duration = Duration::from_millis(10);
/// How long the shell may take to show its prompt.
const PROMPT: Duration = Duration::from_secs(5);
/// Of one read.
const READ: usize = 64 << 10;
/// What is printed takes up the emulation for one part in so many of the time, at most.
const SHARE: u32 = 4;
/// Of what was typed and no program has read; then nothing more is typed, in bytes.
const MAX_UNREAD: usize = 1 << 20;
/// What a capture answers at most, in bytes: with what is said beside it, no more than a result has.
const MAX_CAPTURE: usize = MAX_CAPTURED_BYTES - 1024;

/// See the module.
pub(super) struct Tmux {
    screen: Mutex<Screen>,
    terminal: Arc<AsyncFd<OwnedFd>>,
    /// Of the shell as it waits at its prompt.
    home: Mutex<Option<Holder>>,
    /// What is still to be written to the terminal.
    typed: Mutex<VecDeque<u8>>,
    /// Calls whose output is read live.
    feeds: Mutex<Vec<Feed>>,
    /// The driver looks at both of them again.
    changed: Notify,
    end: CancellationToken,
    ended: watch::Sender<Option<Ended>>,
}

/// How it ended.
#[derive(Debug, Clone)]
struct Ended {
    how: String,
    /// A limit that its runner saw it run into.
    seen: Option<LimitHit>,
}

/// Who has the terminal: which process group, and whether it is read by lines. A shell that edits its line has it by
/// keys, and gives that up as soon as it runs something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holder {
    group: Pid,
    lines: bool,
}

/// What must be driven for it to go on.
pub(super) struct Driver {
    shared: Arc<Tmux>,
    runner: Runner,
    pace: Pace,
    behind: Behind,
    /// Why it was ended, if for a limit.
    exceeded: Option<Exceeded>,
    buffer: Vec<u8>,
}

impl Tmux {
    /// `size`: columns and rows.
    pub(super) async fn begin(
        mut runner: Runner,
        call: &SessionCall,
        size: (u16, u16),
    ) -> Result<(Arc<Self>, Driver), ShellError> {
        let (_, stdout) = pipe_of(call.user)?;
        let environment = ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let process = Process { program: Program::Shell(BEGIN.to_owned()), environment, ..Process::default() };
        let started = runner.start_in_terminal(&process, None, stdout).await?;
        // The side of the processes is theirs alone: the terminal ends with them.
        let Terminal { master, .. } = started.map_err(ShellError::Terminal)?;
        let (width, height) = size;
        set_size(&master, width, height)?;
        let shared = Arc::new(Self {
            screen: Mutex::new(Screen::new(width, height)),
            terminal: Arc::new(watched(master)?),
            home: Mutex::new(None),
            typed: Mutex::default(),
            feeds: Mutex::default(),
            changed: Notify::new(),
            end: CancellationToken::new(),
            ended: watch::Sender::new(None),
        });
        let behind = call.gauge.begin_behind(Lasting::Shell);
        let driver =
            Driver { shared: shared.clone(), runner, pace: Pace::new(), behind, exceeded: None, buffer: vec![0; READ] };
        Ok((shared, driver))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// "has exited with code 0", and the like, once it has ended.
    pub(super) fn how_ended(&self) -> Option<String> {
        self.ended.borrow().as_ref().map(|ended| ended.how.clone())
    }

    /// Ends it, and waits until nothing of it is left.
    pub(super) async fn stop(&self) {
        self.end.cancel();
        let mut ended = self.ended.subscribe();
        // It ends within that, or nothing ends it.
        let _ = timeout(2 * DEATH, ended.wait_for(Option::is_some)).await;
    }

    /// Until the shell shows its prompt.
    pub(super) async fn until_prompt(&self) {
        let asked = Instant::now();
        while !self.is_quiet(asked) && asked.elapsed() < PROMPT && !self.has_ended() {
            sleep(LOOK).await;
        }
        *lock(&self.home) = self.holder();
    }

    /// Types, if no more than so many bytes are then still to be read, these among them.
    pub(super) fn type_in(&self, bytes: &[u8], max_unread: usize) -> bool {
        let mut typed = lock(&self.typed);
        let is_read = typed.len() + bytes.len() <= max_unread;
        if is_read {
            typed.extend(bytes);
            self.changed.notify_one();
        }
        is_read
    }

    /// The feed of a call, if it has one.
    pub(super) fn tell_feed(&self, call: u64, tell: impl FnOnce(&mut Feed)) {
        if let Some(feed) = lock(&self.feeds).iter_mut().find(|feed| feed.is_of(call)) {
            tell(feed);
            self.changed.notify_one();
        }
    }

    /// Columns and rows, where they are to change. The kernel tells whoever has the terminal.
    pub(super) fn resize(&self, width: Option<u16>, height: Option<u16>) -> Told {
        let mut screen = lock(&self.screen);
        let (old_width, old_height) = screen.size();
        let (width, height) = (width.unwrap_or(old_width), height.unwrap_or(old_height));
        if let Err(error) = set_size(self.terminal.get_ref(), width, height) {
            return Told::failed(format!("The terminal cannot be resized: {error}"));
        }
        screen.resize(width, height);
        Told::new(format!("The terminal has {width} columns and {height} rows"))
    }

    pub(super) fn capture(&self, entire: bool) -> Told {
        let mut screen = lock(&self.screen);
        if !entire {
            return Told::new(screen.text());
        }
        let Entire { text, left_out, has_dropped } = screen.entire(MAX_CAPTURE);
        let mut notes = String::new();
        if has_dropped {
            notes.push_str("[earlier lines are not kept]\n");
        }
        if left_out > 0 {
            notes.push_str(&format!("[{left_out} lines are left out: an answer has the last {MAX_CAPTURE} bytes]\n"));
        }
        let told = Told::new(format!("{notes}{text}"));
        told.with("history_full", has_dropped).with("left_out_lines", left_out)
    }

    pub(super) fn stream(&self, max: usize, reset: bool) -> Told {
        let lines = lock(&self.screen).lines(max, reset);
        Told::new(lines.text).with("next_offset", lines.next).with("dropped_bytes", lines.dropped)
    }

    /// Something was printed since, and nothing for a while.
    fn is_quiet(&self, since: Instant) -> bool {
        lock(&self.screen).last_output.is_some_and(|last| last > since && last.elapsed() >= QUIET)
    }

    fn holder(&self) -> Option<Holder> {
        let terminal = self.terminal.get_ref();
        let modes = rustix::termios::tcgetattr(terminal).ok()?;
        let group = rustix::termios::tcgetpgrp(terminal).ok()?;
        Some(Holder { group, lines: modes.local_modes.contains(LocalModes::ICANON) })
    }
}

impl Driver {
    /// Until it ends, by itself, by a stop, or by `end`.
    pub(super) async fn run(mut self, end: CancellationToken) {
        let terminal = self.shared.terminal.clone();
        let mut death: Option<tokio::time::Instant> = None;
        let mut hung_up = false;
        let mut look = next_look(&self.behind);
        let ended = loop {
            let (held_up, max) = self.may_read();
            // What is always ready must let others have their turn.
            consume_budget().await;
            let has_typed = !lock(&self.shared.typed).is_empty();
            // Cancel-safe: nothing is read or written before the choice is made.
            tokio::select! {
                ended = self.runner.ended() => break ended,
                () = at(held_up), if held_up.is_some() => {}
                ready = terminal.readable(), if held_up.is_none() && !hung_up => {
                    // An error means that the runtime is gone.
                    let Ok(mut ready) = ready else { return };
                    match rustix::io::read(ready.get_inner(), &mut self.buffer[..max]) {
                        Ok(read) if read > 0 => self.on_output(read),
                        Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                        // Nobody has the other side open.
                        _ => hung_up = true,
                    }
                }
                ready = terminal.writable(), if has_typed => {
                    let Ok(mut ready) = ready else { return };
                    let mut typed = lock(&self.shared.typed);
                    match rustix::io::write(ready.get_inner(), typed.as_slices().0) {
                        Ok(written) => _ = typed.drain(..written),
                        Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                        Err(_) => typed.clear(),
                    }
                }
                () = self.shared.changed.notified() => {}
                () = at(look), if self.exceeded.is_none() => {
                    look = next_look(&self.behind);
                    self.exceeded = self.behind.look();
                    if self.exceeded.is_some() {
                        self.runner.cancel();
                        death = Some(tokio::time::Instant::now() + DEATH);
                    }
                }
                () = at(death) => break Err(SlotError::Undying("terminal")),
                () = either(&end, &self.shared.end), if death.is_none() => {
                    self.runner.cancel();
                    death = Some(tokio::time::Instant::now() + DEATH);
                }
            }
        };
        let seen = match &ended {
            Ok(RunnerEnd::Ended { limit, .. }) => *limit,
            _ => None,
        };
        let how = with_limit(how(&ended), self.exceeded.as_ref());
        self.shared.ended.send_replace(Some(Ended { how, seen }));
    }

    /// Until when nothing is to be read, and how much at a time: by the pace, and by those who read it live.
    fn may_read(&self) -> (Option<tokio::time::Instant>, usize) {
        let feeds = lock(&self.shared.feeds);
        let until = feeds.iter().filter_map(Feed::held_up).chain(self.pace.held_up()).max();
        (until, feeds.iter().map(Feed::max_read).fold(READ, usize::min))
    }

    /// So many bytes of the buffer.
    fn on_output(&mut self, read: usize) {
        let data = &self.buffer[..read];
        lock(&self.shared.feeds).iter_mut().for_each(|feed| feed.push(data));
        let begun = Instant::now();
        lock(&self.shared.screen).push(data);
        self.pace.spend(begun.elapsed() * SHARE);
    }
}

fn set_size(terminal: &OwnedFd, width: u16, height: u16) -> std::io::Result<()> {
    let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

async fn either(one: &CancellationToken, other: &CancellationToken) {
    tokio::select! {
        () = one.cancelled() => {}
        () = other.cancelled() => {}
    }
}
