//! A call of the shell that keeps its state: one script, from its coming until it is answered.

use std::time::Instant;

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use super::{
    SessionCall, Sessions,
    feed::Feed,
    lock,
    shell::{Answer, Run, Shell, ToCall, Word},
};
use crate::{
    sandbox::{
        agent::{
            call::Control,
            calls::agent_failed,
            gauge::{INTERVAL, Mark},
        },
        slot::Runner,
    },
    tool::{
        Executed, chain,
        job::{End, Exceeded, LimitKind, ProcessEnd, Stop},
        session::{self, Input},
    },
};

impl Sessions {
    /// In the shell that keeps its state, which is made where there is none.
    pub(super) async fn run(
        &self,
        call: &SessionCall,
        command: String,
        input: Input,
        runner: &mut Option<Runner>,
        mut control: mpsc::UnboundedReceiver<Control>,
        began: &mut Instant,
    ) -> End {
        let shell = lock(&self.shell).words();
        let shell = match (shell, runner.take()) {
            (Some(shell), unused) => {
                *runner = unused;
                shell
            }
            (None, None) => return lost(Executed::No),
            (None, Some(new)) => match Shell::begin(new, call).await {
                Ok((driver, words)) => {
                    lock(&self.shell).put(words.clone());
                    self.tasks.spawn(driver.run(self.end.clone(), self.shell.clone()));
                    words
                }
                Err(error) => return agent_failed(chain(&error), Executed::No),
            },
        };
        let (done, ended) = oneshot::channel();
        let (begun, begins) = oneshot::channel();
        // A shell that has ended meanwhile drops `done`.
        let before = lock(&self.shell).take_loss();
        let _ = shell.send(Word::Run(Run {
            call: call.number,
            command,
            limits: call.limits,
            before,
            typed: input.0.into(),
            max_typed: call.max_pending_input,
            feed: call.stream_output.then(|| Feed::new(call)),
            begun,
            done,
        }));
        let tell = |what| _ = shell.send(Word::ToCall { call: call.number, what });
        let (timer, look) = (sleep(call.timeout), sleep(INTERVAL));
        tokio::pin!(timer, look, ended, begins);
        let mut mark: Option<Mark> = None;
        let (mut timed_out, mut exceeded) = (false, None);
        loop {
            let runs = mark.is_some();
            // Each fails only where the shell is gone, which `ended` tells.
            tokio::select! {
                // A script may have ended before anybody has looked.
                biased;
                begin = &mut begins, if !runs => match begin {
                    // Until then it waits for the shell, or for another script.
                    Ok(begin) => {
                        mark = Some(begin);
                        *began = Instant::now();
                        timer.as_mut().reset(tokio::time::Instant::now() + call.timeout);
                    }
                    // Its turn does not come.
                    Err(_) => return (&mut ended).await.map_or_else(|_| lost(Executed::No), |answer| answer.end),
                },
                answer = &mut ended => {
                    let Ok(answer) = answer else { return lost(Executed::Unknown) };
                    return conclude(answer, mark, exceeded).await;
                }
                Some(control) = control.recv() => tell(match control {
                    Control::Cancel => ToCall::Stop(Stop::Cancelled),
                    Control::InputLost => ToCall::Stop(Stop::InputLimit),
                    Control::Input { data, end_of_file } => ToCall::Type(session::typed(&data, end_of_file)),
                    Control::Grant(bytes) => ToCall::Grant(bytes),
                    Control::Anew => ToCall::Anew,
                }),
                () = &mut timer, if runs && !timed_out => {
                    timed_out = true;
                    tell(ToCall::Stop(Stop::TimedOut));
                }
                () = &mut look, if runs && exceeded.is_none() && !timed_out => {
                    look.as_mut().reset(tokio::time::Instant::now() + INTERVAL);
                    exceeded = mark.as_ref().and_then(Mark::look);
                    match exceeded.as_ref().map(|exceeded: &Exceeded| exceeded.kind) {
                        // What it has started would leave nobody a process, and is no part of what is interrupted.
                        Some(LimitKind::Processes) => tell(ToCall::End(Stop::Exceeded)),
                        Some(_) => tell(ToCall::Stop(Stop::Exceeded)),
                        None => {}
                    }
                }
            }
        }
    }
}

fn lost(executed: Executed) -> End {
    agent_failed("the shell ended as it was asked".to_owned(), executed)
}

/// Names the limit that the script ran into.
async fn conclude(answer: Answer, mark: Option<Mark>, exceeded: Option<Exceeded>) -> End {
    let Answer { end, seen } = answer;
    match (end, mark) {
        (End::Process(end), Some(mark)) => {
            let exceeded = match exceeded {
                // What it has written is not known.
                None => mark.conclude(end.exit, seen, None).await,
                exceeded => exceeded,
            };
            End::Process(ProcessEnd { exceeded: exceeded.map(Box::new), ..end })
        }
        (end, _) => end,
    }
}
