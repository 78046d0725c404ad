//! How the shell is begun, and made ready for scripts.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::{net::unix::pipe, sync::mpsc};

use super::{Current, READ, Shell, ShellError, Word, tty};
use crate::{
    sandbox::{
        agent::{
            gauge::Lasting,
            sessions::{SessionCall, pace::Pace},
            stdio::{Input, pipe_of},
        },
        slot::{Runner, Terminal},
    },
    tool::job::{Process, Program},
};

const BEGIN: &str = "read -r _; if command -v bash >/dev/null 2>&1; then exec bash --norc --noprofile --noediting -i; fi; exec /bin/sh -i";

const PREPARE: &str = "exec 7>&1 8>&2 >/dev/null 2>&1; PS1= PS2=; unset HISTFILE; ";

/// That a shell which finds one of them is dumb, and that nothing waits for a key.
const ENVIRONMENT: [(&str, &str); 5] =
    [("TERM", "dumb"), ("PAGER", "cat"), ("GIT_PAGER", "cat"), ("PS1", ""), ("PS2", "")];

impl Shell {
    pub(in super::super) async fn begin(
        mut runner: Runner,
        call: &SessionCall,
    ) -> Result<(Self, mpsc::UnboundedSender<Word>), ShellError> {
        let user = call.user;
        let (commands, stdin) = Input::new(Bytes::new(), true, usize::MAX, user)?;
        let (status, stdout) = pipe_of(user)?;
        let environment = ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let process = Process { program: Program::Shell(BEGIN.to_owned()), environment, ..Process::default() };
        let started = runner.start_in_terminal(&process, stdin, stdout).await?;
        let Terminal { master, slave } = started.map_err(ShellError::Terminal)?;
        tty::plain(&master)?;
        // Bounded by what may be sent to calls before they have received it: it is always read.
        let (sender, words) = mpsc::unbounded_channel();
        let mut shell = Self {
            runner,
            terminal: tty::watched(master)?,
            slave,
            commands,
            status: pipe::Receiver::from_owned_fd(status)?,
            said: Vec::new(),
            times: Vec::new(),
            lines: 0,
            typed: VecDeque::new(),
            max_typed: 0,
            words,
            current: None,
            waiting: VecDeque::new(),
            sequence: 0,
            pace: Pace::new(),
            gauge: call.gauge.clone(),
            patience: call.shell_start,
            behind: call.gauge.begin_behind(Lasting::Shell),
            exceeded: None,
            death: None,
            buffer: vec![0; READ],
        };
        // It has waited until the terminal is as it is to stay: it goes back to what it has found.
        shell.say("\n");
        shell.start(PREPARE, Current::preparing(call.shell_start));
        Ok((shell, sender))
    }
}
