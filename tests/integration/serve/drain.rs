//! The end of an executor: what is taken no more, what may finish, what is cut, and what is left.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt;
use tool_executor::pb::toolexecutor::{
    Attribution, Call, CallResult, ExecuteRequest, Executed, Input, Outcome, Reason, ReleaseCause, notice::Event,
    trajectory_request::Message, trajectory_response,
};

use crate::support::{
    client::{PATIENCE, Stream, bash, command, open, shell},
    process,
    server::Server,
};

fn released(message: trajectory_response::Message) -> Option<ReleaseCause> {
    match message {
        trajectory_response::Message::Released(released) => Some(released.cause()),
        _ => None,
    }
}

/// Runs until it is sent a line.
fn waiting(id: &str) -> Call {
    let mut script = shell("echo begun; read line; echo \"$line\"");
    script.interactive = true;
    Call { stream_output: true, ..command(id, script) }
}

async fn begun(stream: &mut Stream) {
    stream.until(|message| matches!(message, trajectory_response::Message::Output(_)).then_some(())).await;
}

fn draining(result: &CallResult) {
    assert_eq!((result.outcome(), result.reason()), (Outcome::NoCapacity, Reason::Draining), "{result:?}");
    let marks = (result.sequence, result.executed(), result.attribution());
    assert_eq!(marks, (0, Executed::No, Attribution::Infrastructure));
}

fn unavailable(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_executor_takes_nothing_new_and_finishes_what_it_has() {
    let mut server = Server::start();
    let mut stream = Stream::open(&server, "open").await;
    stream.batch(vec![waiting("a"), bash("b", "echo queued")]).await;
    begun(&mut stream).await;
    let mut idle = Stream::open(&server, "idle").await;
    assert!(idle.bash("a", "true").await.success);
    let channel = server.channel().await;
    let client = &mut server.client().await;
    server.signal(Signal::TERM);

    let notice = stream
        .until(|message| match message {
            trajectory_response::Message::Notice(notice) => match notice.event {
                Some(Event::Draining(draining)) => Some(draining),
                _ => None,
            },
            _ => None,
        })
        .await;
    assert!(notice.deadline.is_some(), "it says until when");
    assert_eq!(idle.until(released).await, ReleaseCause::Drained, "who has nothing to wait for is let go at once");
    idle.end().await.expect("the stream ends well");
    let mut health = HealthClient::new(channel);
    for service in ["", "toolexecutor.v1.ToolExecutor"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let asked = Instant::now();
        while health.check(request.clone()).await.expect("it answers").into_inner().status()
            != ServingStatus::NotServing
        {
            assert!(asked.elapsed() < PATIENCE, "it still says that it serves");
        }
    }
    let status = client.get_status(tool_executor::pb::toolexecutor::GetStatusRequest {}).await.expect("it answers");
    assert!(status.into_inner().draining);

    // New trajectories, by either way in, even of a name that was known.
    for id in ["new", "idle"] {
        unavailable(&Stream::try_open(&server, open(id)).await.err().expect("it is refused"));
    }
    let execute =
        |id: &str, call| ExecuteRequest { trajectory_id: id.to_owned(), call: Some(call), ..ExecuteRequest::default() };
    unavailable(&client.execute(execute("new", bash("a", "true"))).await.expect_err("it is refused"));
    // New calls of an open one.
    stream.batch(vec![bash("c", "true")]).await;
    draining(&stream.result().await);
    let unary = client.execute(execute("open", bash("d", "true"))).await.expect("it answers").into_inner();
    draining(&unary.result.expect("it has a result"));
    // What was accepted is another matter, whoever asks: a stream that breaks now is resumed.
    let mut again = open("open");
    again.take_over = true;
    let mut stream = Stream::try_open(&server, again).await.expect("it resumes");
    let line = Input { call_id: "a".to_owned(), data: b"go on\n".as_slice().into(), end_of_file: false };
    stream.send(Message::Input(line)).await;
    let finished = stream.result().await;
    assert_eq!(finished.stdout.map(|stdout| stdout.data), Some(b"begun\ngo on\n".as_slice().into()));
    assert_eq!(stream.result().await.output, "queued");
    assert_eq!(stream.until(released).await, ReleaseCause::Drained);
    stream.end().await.expect("the stream ends well");
    assert!(server.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once_and_leaves_nothing() {
    let mut server = Server::with(&[("DRAIN_TIMEOUT", "10min")]);
    let mut stream = Stream::open(&server, "cut").await;
    let mut call = bash("a", "setsid sleep 5858 & echo begun; sleep 5858");
    call.stream_output = true;
    stream.batch(vec![call, bash("b", "true")]).await;
    begun(&mut stream).await;
    let agents = server.agents();
    let tree: Vec<u32> = agents.iter().flat_map(|agent| process::tree(*agent)).collect();
    assert!(tree.len() > agents.len() + 2, "a call is running: {tree:?}");
    let state = server.state.path().to_string_lossy().into_owned();
    server.signal(Signal::TERM);
    stream.until(|message| matches!(message, trajectory_response::Message::Notice(_)).then_some(())).await;
    let asked = Instant::now();
    server.signal(Signal::TERM);
    for (id, executed) in [("b", Executed::No), ("a", Executed::Yes)] {
        let result = stream.result().await;
        let cut = (&*result.call_id, result.outcome(), result.reason(), result.executed(), result.attribution());
        assert_eq!(cut, (id, Outcome::Cancelled, Reason::Drained, executed, Attribution::Infrastructure));
    }
    assert_eq!(stream.until(released).await, ReleaseCause::Drained);
    stream.end().await.expect("the stream ends well");
    assert!(server.wait().success());
    assert!(asked.elapsed() < Duration::from_secs(10), "nobody waited for the call: {:?}", asked.elapsed());
    while tree.iter().any(|pid| process::is_alive(*pid)) {
        assert!(asked.elapsed() < PATIENCE, "a process is left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("there are mounts");
    assert!(!mounts.contains(&state), "a mount is left: {mounts}");
    let containers = std::fs::read_dir(server.state.path().join("containers")).map_or(0, Iterator::count);
    assert_eq!(containers, 0, "no directory of a container is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_waits_for_no_agent() {
    let mut server = Server::with(&[("ORPHAN_TIMEOUT", "1s")]);
    let mut stream = Stream::open(&server, "hung").await;
    stream.batch(vec![waiting("a")]).await;
    begun(&mut stream).await;
    let agents = server.agents();
    let tree: Vec<u32> = agents.iter().flat_map(|agent| process::tree(*agent)).collect();
    let tell_agents = |signal| {
        for agent in &agents {
            let pid = i32::try_from(*agent).ok().and_then(rustix::process::Pid::from_raw).expect("it is a pid");
            // One that has ended needs no telling.
            let _ = rustix::process::kill_process(pid, signal);
        }
    };
    tell_agents(Signal::STOP);
    let asked = Instant::now();
    server.signal(Signal::TERM);
    stream.until(|message| matches!(message, trajectory_response::Message::Notice(_)).then_some(())).await;
    server.signal(Signal::TERM);
    let status = server.wait();
    tell_agents(Signal::CONT);
    assert!(status.success());
    assert!(asked.elapsed() < Duration::from_secs(9), "an agent's grace is longer: {:?}", asked.elapsed());
    while tree.iter().any(|pid| process::is_alive(*pid)) {
        assert!(asked.elapsed() < PATIENCE, "a process is left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
