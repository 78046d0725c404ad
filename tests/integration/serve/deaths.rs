//! Whatever dies, whoever waits hears of it in time and with evidence, no call runs in a silently empty workspace, and
//! nothing is left: no process, no mount, no file.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tool_executor::pb::toolexecutor::{
    Attribution, Evidence, Executed, Outcome, Reason, Reset, notice::Event, trajectory_request::Message,
    trajectory_response,
};

use crate::support::{
    client::{PATIENCE, Stream, bash},
    dying::{kill, stop},
    process,
    server::Server,
};

/// How soon a death is told.
const SOON: Duration = Duration::from_secs(2);

async fn until(what: &str, done: impl Fn() -> bool) {
    let asked = Instant::now();
    while !done() {
        assert!(asked.elapsed() < PATIENCE, "waiting until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn containers(server: &Server) -> Vec<PathBuf> {
    let containers = fs::read_dir(server.state.path().join("containers")).expect("there are containers");
    containers.flatten().map(|entry| entry.path()).collect()
}

/// What the trajectory is told of the loss.
async fn lost(stream: &mut Stream) -> Evidence {
    let lost = stream.until(|message| match message {
        trajectory_response::Message::Notice(notice) => match notice.event {
            Some(Event::SandboxLost(lost)) => Some(lost),
            _ => None,
        },
        _ => None,
    });
    lost.await.evidence.expect("the notice has evidence")
}

async fn reset(stream: &mut Stream, generation: u64) {
    stream.send(Message::Reset(Reset { generation })).await;
    let new = stream.until(|message| match message {
        trajectory_response::Message::WorkspaceReset(reset) => Some(reset.generation),
        _ => None,
    });
    assert_eq!(new.await, generation + 1);
}

/// Nothing runs in the trajectory until it says that it knows, and then in an empty workspace.
async fn goes_on_after_a_reset(stream: &mut Stream) {
    stream.batch(vec![bash("refused", "touch ran")]).await;
    let refused = stream.result().await;
    assert_eq!((refused.outcome(), refused.reason()), (Outcome::SandboxLost, Reason::WorkspaceGone));
    assert_eq!((refused.executed(), refused.sequence), (Executed::No, 0));
    reset(stream, 1).await;
    let after = stream.bash("after", "ls -A . /tmp").await;
    assert_eq!((&*after.output, after.generation), (".:\n\n/tmp:", 2), "{after:?}");
}

/// What one container has on this machine, to be gone.
struct Traces {
    processes: Vec<u32>,
    /// Where containers are this machine's own.
    directory: Option<PathBuf>,
}

impl Traces {
    fn of_the_only_container(server: &Server) -> Self {
        let agents = server.agents();
        assert_eq!(agents.len(), 1);
        let processes = process::tree(agents[0]);
        assert!(processes.len() > 4, "an agent and the processes of its slots: {processes:?}");
        let directory = server.nomad.is_none().then(|| containers(server).remove(0));
        Self { processes, directory }
    }

    async fn are_gone(&self) {
        until("no process is left", || !self.processes.iter().any(|pid| process::is_alive(*pid))).await;
        let Some(directory) = &self.directory else { return };
        until("no file is left", || !directory.exists()).await;
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("it can be read");
        assert!(!mounts.contains(directory.to_str().expect("it is text")), "{mounts}");
    }
}

/// As when a container's cgroup is killed, or the memory of its node runs out.
#[tokio::test]
async fn a_container_whose_processes_all_die_at_once() {
    let server = Server::with(&[("MAX_CONTAINERS", "1")]);
    let mut stream = Stream::open(&server, "all").await;
    assert!(stream.bash("before", "touch file").await.success);
    stream.batch(vec![bash("running", "sleep 600.25")]).await;
    until("it runs", || !process::marked("sleep 600.25").is_empty()).await;
    let traces = Traces::of_the_only_container(&server);
    let killed = Instant::now();
    for pid in &traces.processes {
        // Some die with those that were killed before them.
        let _ = kill_process(Pid::from_raw(pid.cast_signed()).expect("it is a pid"), Signal::KILL);
    }
    let result = stream.result().await;
    let evidence = lost(&mut stream).await;
    assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
    assert!(evidence.cause.contains("signal 9"), "{evidence:?}");
    assert_eq!((result.outcome(), result.executed()), (Outcome::SandboxLost, Executed::Unknown));
    goes_on_after_a_reset(&mut stream).await;
    traces.are_gone().await;
}

/// It is no death, and is not taken for one before its time; then it is made one.
#[tokio::test]
async fn an_agent_that_stands_still() {
    const GRACE: Duration = Duration::from_secs(2);
    let server = Server::with(&[("MAX_CONTAINERS", "1"), ("AGENT_GRACE", "2s")]);
    let mut stream = Stream::open(&server, "still").await;
    assert!(stream.bash("before", "touch file").await.success);
    let mut running = bash("running", "echo begun; sleep 600");
    running.stream_output = true;
    stream.batch(vec![running]).await;
    stream.until(|message| matches!(message, trajectory_response::Message::Output(_)).then_some(())).await;
    let traces = Traces::of_the_only_container(&server);
    let stopped = Instant::now();
    stop(server.agents()[0]);
    let result = stream.result().await;
    let evidence = lost(&mut stream).await;
    assert!(stopped.elapsed() >= GRACE, "{:?}", stopped.elapsed());
    assert!(!evidence.cause.is_empty() && evidence.location.is_some(), "{evidence:?}");
    assert_eq!((result.outcome(), result.executed()), (Outcome::SandboxLost, Executed::Yes));
    goes_on_after_a_reset(&mut stream).await;
    traces.are_gone().await;
}

/// The workspace lives, so that it is no loss of the sandbox: of the call alone, which is told so.
#[tokio::test]
async fn a_runner_dies_and_the_workspace_lives() {
    let server = Server::with(&[("MAX_CONTAINERS", "1")]);
    let mut stream = Stream::open(&server, "runner").await;
    assert!(stream.bash("before", "echo mine > file").await.success);
    let marker = format!("4322.{}", std::process::id());
    for (id, noise, executed) in [("told", "echo begun;", Executed::Yes), ("silent", "", Executed::Unknown)] {
        stream.batch(vec![bash(id, &format!("{noise} exec sleep {marker}"))]).await;
        until("it runs", || !process::marked(&marker).is_empty()).await;
        let call = process::marked(&marker)[0];
        let runner = process::parent(call).expect("it has a parent");
        // What it has said is in its pipe by now, but must be read before the end.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let killed = Instant::now();
        kill(runner);
        let result = stream.result().await;
        assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
        assert_eq!((result.outcome(), result.executed()), (Outcome::Internal, executed), "{result:?}");
        assert_eq!(result.attribution(), Attribution::Infrastructure);
        assert!(result.error.contains("runner process has ended"), "{}", result.error);
        until("its processes have died with it", || !process::is_alive(call)).await;
        let after = stream.bash(&format!("after-{id}"), "cat file").await;
        assert_eq!((&*after.output, after.generation), ("mine", 1), "{after:?}");
    }
}

/// A slot that is not clean is nobody's, though it was asked for by its own holder: that is said, and counted.
#[tokio::test]
async fn a_slot_that_is_not_clean_is_set_aside_and_counted() {
    let server = Server::with(&[("MAX_CONTAINERS", "1"), ("SLOTS", "2")]);
    if !tool_executor::sandbox::slot::can_assign_ids(100_000..100_001) {
        return eprintln!("skipped: slots have no users of their own here");
    }
    let mut stream = Stream::open(&server, "unclean").await;
    let marker = format!("4323.{}", std::process::id());
    stream.batch(vec![bash("a", &format!("touch file; exec sleep {marker}"))]).await;
    until("it runs", || !process::marked(&marker).is_empty()).await;
    let user = process::user(process::marked(&marker)[0]).expect("it has a user").to_string();
    let mut left = Command::new("setpriv");
    left.args(["--reuid", &user, "--regid", &user, "--clear-groups", "sleep", "1000"]);
    let mut left = left.spawn().expect("it starts");
    until("it is the slot's user's", || process::user(left.id()).is_some_and(|id| id.to_string() == user)).await;

    // Its holder goes on in another slot.
    reset(&mut stream, 1).await;
    let pool = server.pool_until("a slot is set aside", |pool| pool.quarantined_slots == 1).await;
    assert_eq!((pool.total_slots, pool.available_slots), (2, 1));
    let after = stream.bash("b", "ls -A").await;
    assert_eq!((&*after.output, after.generation), ("", 2), "{after:?}");
    left.kill().expect("it can be killed");
    left.wait().expect("it can be waited for");
}

/// Two executors of one machine count from the same id on, and share none.
#[tokio::test]
async fn executors_share_no_users() {
    if !tool_executor::sandbox::slot::can_assign_ids(100_000..100_001) {
        return eprintln!("skipped: slots have no users of their own here");
    }
    let base = crate::support::agent::user_ids(1_000).to_string();
    let settings = [("UID_BASE", &*base), ("SLOTS", "2"), ("MAX_CONTAINERS", "1")];
    let mut users = Vec::new();
    let mut servers = Vec::new();
    for id in ["one", "two"] {
        let server = Server::with(&settings);
        let mut stream = Stream::open(&server, id).await;
        assert!(stream.bash("a", "true").await.success);
        for pid in process::without_makers(server.agents()[0]).into_iter().skip(1) {
            users.push((id, process::user(pid)));
        }
        servers.push(server);
    }
    users.sort_unstable();
    users.dedup();
    assert!(users.len() >= 4, "{users:?}");
    let of_one: Vec<_> = users.iter().filter(|(id, _)| *id == "one").map(|(_, user)| user).collect();
    assert!(!users.iter().any(|(id, user)| *id == "two" && of_one.contains(&user)), "{users:?}");
}
