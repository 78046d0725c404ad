//! A call that types into the terminal and waits: what it answers, and what it has run into.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{Ended, MAX_UNREAD, Tmux, keys};
use crate::{
    sandbox::agent::{
        gauge::{INTERVAL, Mark},
        sessions::{SessionCall, feed::Feed, lock},
    },
    tool::{
        job::{Exceeded, Exit, LimitKind},
        session::Told,
    },
};

/// How often a command that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(10);

impl Tmux {
    /// Types, waits, and answers with the screen. `wait`: at least, and at most where it blocks.
    pub(in super::super) async fn send(
        &self,
        call: &SessionCall,
        keys: &[String],
        input: &[u8],
        block: bool,
        wait: (Duration, Duration),
    ) -> Told {
        let application_cursor = lock(&self.screen).application_cursor();
        let mut bytes: Vec<u8> = keys.iter().flat_map(|key| keys::typed(key, application_cursor)).collect();
        bytes.extend_from_slice(input);
        let _listener = call.stream_output.then(|| Listener::new(self, call));
        let asked = Instant::now();
        let mark = call.gauge.begin();
        if !self.type_in(&bytes, bytes.len() + MAX_UNREAD) {
            return Told::failed(format!("More than {MAX_UNREAD} bytes that were typed before have not been read"));
        }
        let mut exceeded = None;
        let done = tokio::select! {
            // A terminal that is ended for a limit has ended, too.
            biased;
            hit = self.limit_hit(&mark) => {
                exceeded = Some(hit);
                true
            }
            done = self.wait(asked, block, wait) => done,
        };
        let ended = self.ended.borrow().clone();
        if exceeded.is_none() {
            // How the command ended is not known: what others may have done is not put down to it.
            exceeded = mark.conclude(Exit::Code(0), ended.as_ref().and_then(|ended| ended.seen), Some(0)).await;
        }
        let mut told = self.capture(false).naming(exceeded.as_ref());
        if let Some(Ended { how, .. }) = ended {
            told.output.push_str(&format!("\n[the terminal has ended: its shell {how}]"));
        } else if !done {
            told.output.push_str(&format!("\n[the command has not ended after {:.1} s]", wait.1.as_secs_f64()));
        }
        Told { exceeded: exceeded.map(Box::new), ..told }
    }

    /// At least, and at most where it blocks; whether the command has ended, then, or is not waited for.
    async fn wait(&self, asked: Instant, block: bool, (min, max): (Duration, Duration)) -> bool {
        sleep(min).await;
        let mut done = !block;
        while !done && !self.has_ended() && asked.elapsed() < max {
            sleep(LOOK).await;
            done = self.holder() == *lock(&self.home) && self.is_quiet(asked);
        }
        done
    }

    /// A limit that is hit meanwhile. What goes on after that would be no use to anybody, and the kernel ends a process
    /// for memory alone: for any other, the terminal is ended.
    async fn limit_hit(&self, mark: &Mark) -> Exceeded {
        loop {
            sleep(INTERVAL).await;
            match mark.look() {
                Some(hit) if matches!(hit.kind, LimitKind::Memory | LimitKind::MachineMemory) => {
                    std::future::pending().await
                }
                Some(hit) => {
                    self.stop().await;
                    return hit;
                }
                None => {}
            }
        }
    }
}

/// A call that reads live, for as long as it waits.
struct Listener<'a> {
    tmux: &'a Tmux,
    call: u64,
}

impl<'a> Listener<'a> {
    fn new(tmux: &'a Tmux, call: &SessionCall) -> Self {
        lock(&tmux.feeds).push(Feed::new(call));
        Self { tmux, call: call.number }
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        lock(&self.tmux.feeds).retain(|feed| !feed.is_of(self.call));
        // It may have held up the terminal.
        self.tmux.changed.notify_one();
    }
}
