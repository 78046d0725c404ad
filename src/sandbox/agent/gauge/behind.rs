//! Looks at what goes on behind calls: background processes, and the jobs and programs that shells and terminals have
//! left running. What happens while calls run is put down to those; what happens between them, to these. So a workspace
//! is held to its limit also while nobody calls.

use std::time::Duration;

use super::{Gauge, INTERVAL, Since, Space, lock};
use crate::{
    sandbox::slot::LimitHit,
    tool::job::{Exceeded, Exit},
};

/// How often a shell is looked at, which mostly does nothing.
const SHELL_INTERVAL: Duration = Duration::from_millis(500);

/// What lasts behind calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Lasting {
    /// A background process. Calls are not alone beside it.
    Process,
    /// A shell or a terminal. It is taken to do nothing between its calls, unless the workspace grows meanwhile and there
    /// is nothing else that can have done it.
    Shell,
}

/// One of them; dropped with its end.
pub(in super::super) struct Behind {
    since: Since,
    what: Lasting,
}

impl Gauge {
    pub(in super::super) fn begin_behind(&self, what: Lasting) -> Behind {
        let number = {
            let mut calls = lock(&self.shared.calls);
            match what {
                Lasting::Process => {
                    calls.processes += 1;
                    calls.begun += 1;
                }
                Lasting::Shell => calls.shells += 1,
            }
            calls.begun
        };
        Behind { since: self.since(number), what }
    }
}

impl Behind {
    /// How long until it is to be looked at; `None` where there is nothing to be seen.
    pub(in super::super) fn interval(&self) -> Option<Duration> {
        match (self.what, &self.since.space) {
            (Lasting::Process, _) => Some(INTERVAL),
            (Lasting::Shell, Some(Space::Measured(_))) => Some(SHELL_INTERVAL),
            (Lasting::Shell, _) => None,
        }
    }

    /// Looks at it while it runs: why it is to be ended.
    pub(in super::super) fn look(&mut self) -> Option<Exceeded> {
        let (quiet, others) = self.surroundings();
        if !quiet {
            self.begin_anew();
            return None;
        }
        // To count all of a workspace now and then would be too much for what does nothing most of the time.
        self.since.measure_if_need_be(false);
        match (self.what, others) {
            (Lasting::Process, false) => self.since.counted().or_else(|| self.since.filled()),
            (Lasting::Process, true) | (Lasting::Shell, false) => self.since.filled(),
            (Lasting::Shell, true) => None,
        }
    }

    /// As [`Mark::conclude`](super::Mark::conclude).
    pub(in super::super) async fn conclude(self, exit: Exit, seen: Option<LimitHit>, written: u64) -> Option<Exceeded> {
        self.since.conclude(exit, seen, Some(written), || self.surroundings() == (true, false)).await
    }

    /// Whether no call has run since, and whether anything else goes on that may be to blame: for a shell, only the
    /// background processes.
    fn surroundings(&self) -> (bool, bool) {
        let calls = lock(&self.since.gauge.shared.calls);
        let others = match self.what {
            Lasting::Process => calls.processes > 1 || calls.shells > 0,
            Lasting::Shell => calls.processes > 0,
        };
        (calls.running == 0 && calls.begun == self.since.number, others)
    }

    /// What happened until now was seen to by the calls that ran.
    fn begin_anew(&mut self) {
        let number = lock(&self.since.gauge.shared.calls).begun;
        let had_room = self.since.had_room;
        self.since = Since { had_room, ..self.since.gauge.since(number) };
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        let mut calls = lock(&self.since.gauge.shared.calls);
        match self.what {
            Lasting::Process => calls.processes -= 1,
            Lasting::Shell => calls.shells -= 1,
        }
    }
}
