//! The way to the shell: what is asked of it, and what has become of it.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::tool::job::{End, OutputLimits, Stop};

/// A script to run.
pub(in super::super) struct Run {
    pub(in super::super) call: u64,
    pub(in super::super) command: String,
    pub(in super::super) limits: OutputLimits,
    /// How the shell before this one was lost: it is told first.
    pub(in super::super) before: Option<String>,
    pub(in super::super) done: oneshot::Sender<End>,
}

pub(in super::super) enum Word {
    Run(Run),
    /// Means nothing to a call that has ended.
    Stop {
        call: u64,
        stop: Stop,
    },
    Type {
        call: u64,
        data: Bytes,
    },
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
