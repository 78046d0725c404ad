//! An agent that dies on cue: at a moment in the life of calls that is observed, never waited out.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tool_executor::pb::toolexecutor::{Call, trajectory_response::Message};

use super::{
    client::{PATIENCE, Stream, bash},
    process,
    server::Server,
};

/// When it dies, as the executor sees the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cue {
    /// They are accepted and wait behind a call that runs, [`BLOCKER`].
    BeforeHandOver,
    /// They were handed over, to an agent that stands still: not one of them can have run, which nobody knows.
    AfterHandOver,
    /// Each has printed something.
    AfterOutput,
    /// Each has its result in the log.
    AfterResult,
}

/// What the others wait for, where they must wait. It is answered, too.
pub(crate) const BLOCKER: &str = "blocker";

/// Sends the calls, and kills the server's agents on the cue. The trajectory must have its slot, and nothing else may
/// happen in the service. What the client hears of it is left to be read, but for live output.
pub(crate) async fn kill_agents(cue: Cue, server: &Server, stream: &mut Stream, mut calls: Vec<Call>) {
    let agents = server.agents();
    let count = u32::try_from(calls.len()).expect("a few calls");
    match cue {
        Cue::BeforeHandOver => {
            stream.batch(vec![bash(BLOCKER, "exec sleep 600")]).await;
            stream.batch(calls).await;
            until(server, "they wait", |status| (status.running_calls, status.queue_size) == (1, count)).await;
        }
        Cue::AfterHandOver => {
            agents.iter().for_each(|agent| stop(*agent));
            calls.iter_mut().for_each(|call| call.concurrent = true);
            stream.batch(calls).await;
            until(server, "they are handed over", |status| status.running_calls == count).await;
        }
        Cue::AfterOutput => {
            calls.iter_mut().for_each(|call| (call.concurrent, call.stream_output) = (true, true));
            let mut silent: Vec<String> = calls.iter().map(|call| call.call_id.clone()).collect();
            stream.batch(calls).await;
            while !silent.is_empty() {
                let heard = stream.until(|message| match message {
                    Message::Output(output) => Some(output.call_id),
                    _ => None,
                });
                let heard = heard.await;
                silent.retain(|call| *call != heard);
            }
        }
        Cue::AfterResult => {
            let before = server.status().await.total_requests;
            stream.batch(calls).await;
            until(server, "they have ended", |status| status.total_requests == before + u64::from(count)).await;
        }
    }
    agents.into_iter().for_each(kill);
}

pub(crate) fn kill(pid: u32) {
    send(pid, Signal::KILL);
}

/// Stops a process, and returns once it stands still.
pub(crate) fn stop(pid: u32) {
    send(pid, Signal::STOP);
    let asked = Instant::now();
    while !process::is_stopped(pid) {
        assert!(asked.elapsed() < PATIENCE, "{pid} should stand still");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("it is a pid")).expect("it is not 0");
    kill_process(pid, signal).expect("it can be signalled");
}

async fn until(
    server: &Server,
    what: &str,
    done: impl Fn(&tool_executor::pb::toolexecutor::GetStatusResponse) -> bool,
) {
    let asked = Instant::now();
    loop {
        let status = server.status().await;
        if done(&status) {
            return;
        }
        assert!(asked.elapsed() < PATIENCE, "waiting until {what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
