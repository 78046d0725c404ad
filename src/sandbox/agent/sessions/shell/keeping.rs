//! The way to the shell: what is asked of it, and what has become of it.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot};

use super::super::{super::gauge::Mark, feed::Feed};
use crate::{
    sandbox::slot::LimitHit,
    tool::job::{End, OutputLimits, Stop},
};

/// A script to run.
pub(in super::super) struct Run {
    pub(in super::super) call: u64,
    pub(in super::super) command: String,
    pub(in super::super) limits: OutputLimits,
    /// How the shell before this one was lost: it is told first.
    pub(in super::super) before: Option<String>,
    /// What it is to read first.
    pub(in super::super) typed: VecDeque<u8>,
    /// Of what was typed and it has not read, in bytes.
    pub(in super::super) max_typed: usize,
    /// For whoever reads its output live.
    pub(in super::super) feed: Option<Feed>,
    /// Told when its turn comes, just before it begins.
    pub(in super::super) begun: oneshot::Sender<Mark>,
    pub(in super::super) done: oneshot::Sender<Answer>,
}

/// How a script ended.
pub(in super::super) struct Answer {
    pub(in super::super) end: End,
    /// A limit that it was seen to run into.
    pub(in super::super) seen: Option<LimitHit>,
}

impl From<End> for Answer {
    fn from(end: End) -> Self {
        Self { end, seen: None }
    }
}

pub(in super::super) enum Word {
    Run(Run),
    /// Means nothing to a call that has ended.
    ToCall {
        call: u64,
        what: ToCall,
    },
}

/// What a script is told while it waits or runs.
pub(in super::super) enum ToCall {
    Stop(Stop),
    /// With the shell, and all that it has started.
    End(Stop),
    Type(Vec<u8>),
    /// More live output, in bytes.
    Grant(u32),
    /// Another executor listens.
    Anew,
}

/// The shell that there is, and what has become of the one before.
#[derive(Default)]
pub(in super::super) struct Keeping {
    words: Option<mpsc::UnboundedSender<Word>>,
    lost: Option<String>,
}

impl Keeping {
    pub(in super::super) fn is_alive(&self) -> bool {
        self.words.is_some()
    }

    pub(in super::super) fn words(&self) -> Option<mpsc::UnboundedSender<Word>> {
        self.words.clone()
    }

    pub(in super::super) fn put(&mut self, words: mpsc::UnboundedSender<Word>) {
        self.words = Some(words);
    }

    /// It has ended so.
    pub(in super::super) fn lose(&mut self, how: String) {
        *self = Self { words: None, lost: Some(how) };
    }

    pub(in super::super) fn take_loss(&mut self) -> Option<String> {
        self.lost.take()
    }
}
