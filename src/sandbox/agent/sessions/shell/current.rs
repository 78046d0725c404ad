//! The script that runs: what it prints, how it is ended, and where in the terminal's output it ends.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use super::{
    super::{super::capture::Capture, feed::Feed},
    keeping::Answer,
    steps::{STEPS, Step},
    texts::{process_end, seen_in},
};
use crate::tool::job::{Captured, Exit, OutputLimits, Stop, Usage};

/// How long the mark may take to arrive: the terminal may be held up.
const MARK_PATIENCE: Duration = Duration::from_millis(500);

/// Whoever has the script run.
pub(super) struct Asker {
    pub(super) call: u64,
    pub(super) done: oneshot::Sender<Answer>,
}

/// See the module.
pub(super) struct Current {
    pub(super) sequence: u64,
    /// Of preparation, nobody.
    pub(super) asker: Option<Asker>,
    capture: Capture,
    feed: Option<Feed>,
    /// What may be the begin of the mark.
    held: Vec<u8>,
    mark: Mark,
    code: Option<i32>,
    usage: Option<Usage>,
    stop: Option<Stop>,
    /// What is done next to end it, or when the mark is not waited for any more.
    next_step: usize,
    pub(super) due: Option<Instant>,
}

/// Bytes that stand in the terminal's output where a script's ends.
struct Mark {
    bytes: [u8; 16],
    written: usize,
}

/// What is to be done now that its time has come.
pub(super) enum Due {
    Step(Option<Step>),
    /// The mark is not waited for.
    Finish,
}

impl Current {
    pub(super) fn new(sequence: u64, limits: OutputLimits, asker: Option<Asker>, feed: Option<Feed>) -> Self {
        Self {
            sequence,
            asker,
            capture: Capture::new(limits),
            feed,
            held: Vec::new(),
            mark: Mark { bytes: fastrand::u128(..).to_ne_bytes(), written: 0 },
            code: None,
            usage: None,
            stop: None,
            next_step: 0,
            due: None,
        }
    }

    /// Nobody's. If it takes longer than this, its only step is the last one: scripts wait for it.
    pub(super) fn preparing(patience: Duration) -> Self {
        let due = Some(Instant::now() + patience);
        let next_step = STEPS.len() - 1;
        Self { due, next_step, ..Self::new(0, OutputLimits { head: 0, tail: 0 }, None, None) }
    }

    /// It was preparation, and was ended.
    pub(super) fn came_too_late(&self) -> bool {
        self.asker.is_none() && self.code.is_none() && self.next_step == STEPS.len()
    }

    pub(super) fn is_of(&self, call: u64) -> bool {
        self.asker.as_ref().is_some_and(|asker| asker.call == call)
    }

    /// Of its output, whatever it is made of.
    pub(super) fn print(&mut self, data: &[u8]) {
        self.capture.push(data);
        if let Some(feed) = &mut self.feed {
            feed.push(data);
        }
    }

    pub(super) fn feed(&mut self) -> Option<&mut Feed> {
        self.feed.as_mut()
    }

    /// Until when the terminal is not to be read. One that is being stopped is held up by nobody.
    pub(super) fn held_up(&self) -> Option<Instant> {
        self.feed.as_ref().filter(|_| self.stop.is_none()).and_then(Feed::held_up)
    }

    pub(super) fn max_read(&self) -> usize {
        self.feed.as_ref().map_or(usize::MAX, Feed::max_read)
    }

    /// The first cause stands.
    pub(super) fn stop(&mut self, stop: Stop) {
        if self.stop.is_none() && self.code.is_none() {
            self.stop = Some(stop);
            self.due = Some(Instant::now());
        }
    }

    pub(super) fn on_due(&mut self) -> Due {
        if self.code.is_some() {
            let Some(until) = self.held_up() else { return Due::Finish };
            self.due = Some(until + MARK_PATIENCE);
            return Due::Step(None);
        }
        let step = STEPS.get(self.next_step).map(|(_, step)| *step);
        self.next_step += 1;
        self.due = STEPS.get(self.next_step).map(|(after, _)| Instant::now() + *after);
        Due::Step(step)
    }

    /// The shell has said how it ended, and what it has used; whether that is news.
    pub(super) fn on_code(&mut self, code: i32, usage: Option<Usage>) -> bool {
        if self.code.is_some() {
            return false;
        }
        self.code = Some(code);
        self.usage = usage;
        self.due = Some(Instant::now() + MARK_PATIENCE);
        true
    }

    /// What of the mark is to be written to the terminal, now that the script has ended.
    pub(super) fn mark(&self) -> &[u8] {
        if self.code.is_some() { &self.mark.bytes[self.mark.written..] } else { &[] }
    }

    pub(super) fn mark_written(&mut self, bytes: usize) {
        self.mark.written += bytes;
    }

    /// The terminal's output; whether the mark was in it.
    pub(super) fn on_output(&mut self, data: &[u8]) -> bool {
        if self.code.is_none() {
            self.print(data);
            return false;
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(data);
        let mark = &self.mark.bytes;
        let found = held.windows(mark.len()).position(|window| window == mark);
        let sure = found.unwrap_or_else(|| held.len().saturating_sub(mark.len() - 1));
        self.print(&held[..sure]);
        if found.is_none() {
            held.drain(..sure);
            self.held = held;
        }
        found.is_some()
    }

    /// The script has ended, and all that it printed is here.
    pub(super) fn finish(mut self) {
        let held = std::mem::take(&mut self.held);
        self.print(&held);
        if let (Some(asker), Some(code)) = (self.asker, self.code) {
            let end = process_end(Exit::Code(code), self.stop, self.capture.finish(), self.usage);
            let _ = asker.done.send(Answer { end, seen: seen_in(code) });
        }
    }

    /// The shell has ended under it: who asked, why it was to be stopped, and what it printed.
    pub(super) fn cut_short(mut self) -> (Option<Asker>, Option<Stop>, Captured) {
        let held = std::mem::take(&mut self.held);
        self.print(&held);
        (self.asker, self.stop, self.capture.finish())
    }
}
