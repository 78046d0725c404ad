//! Running cases, and seeing whether what they were thrown at is still well.

use std::{
    fmt::Debug,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Mutex, Once, PoisonError},
};

use proptest::{
    strategy::Strategy,
    test_runner::{Config, TestCaseError, TestError, TestRunner},
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tool_executor::pb::toolexecutor::{ListTrajectoriesRequest, ReleaseRequest};

use crate::support::{
    client::{bash, execute},
    process,
    server::Server,
};

/// The most memory that a peer may make a process have, in bytes. With kind ones it has some 30 MiB.
pub(super) const MEMORY: u64 = 256 << 20;

/// Of a thread that runs code under test: what panics there is a finding.
const UNDER_TEST: &str = "under test";

/// So many cases, unless `PROPTEST_CASES` says how many. A case fails by a panic.
pub(crate) fn cases<S: Strategy>(few: u32, strategy: &S, case: impl Fn(S::Value))
where
    S::Value: Debug,
{
    // Each costs a conversation, and a smaller case is worth no more than a few seconds.
    let mut config = Config { failure_persistence: None, max_shrink_iters: 100, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = few;
    }
    let done = TestRunner::new(config).run(strategy, |value| {
        case(value);
        Ok::<(), TestCaseError>(())
    });
    match done {
        Ok(()) => {}
        Err(TestError::Fail(why, value)) => panic!("{why}\nwith {value:#?}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

/// A field of a message: a length and so many bytes.
pub(super) fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    prost::encoding::encode_varint(content.len() as u64, &mut field);
    [field, content.to_vec()].concat()
}

pub(super) fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A runtime for code under test: see [`no_panics`].
pub(super) fn watched_runtime() -> Runtime {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name() == Some(UNDER_TEST) {
                panics().lock().unwrap_or_else(PoisonError::into_inner).push(panic.to_string());
            }
            print(panic);
        }));
    });
    Builder::new_multi_thread().worker_threads(1).thread_name(UNDER_TEST).enable_all().build().expect("a runtime")
}

fn panics() -> &'static Mutex<Vec<String>> {
    static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
    &PANICS
}

/// A task that panics takes nobody along, and would go unseen.
pub(super) fn no_panics() {
    let panics = std::mem::take(&mut *panics().lock().unwrap_or_else(PoisonError::into_inner));
    assert!(panics.is_empty(), "{panics:?}");
}

/// A server that is looked after.
pub(super) struct Watched {
    pub(super) server: Server,
    log: PathBuf,
    _logs: TempDir,
}

impl Watched {
    /// In which a trajectory that nobody attends to is soon over, and so is a call.
    pub(super) fn start() -> Self {
        Self::with(|_| ())
    }

    pub(super) fn with(change: impl FnOnce(&mut std::process::Command)) -> Self {
        let state = TempDir::new().expect("a directory for the state");
        let logs = TempDir::new().expect("a directory for the log");
        let log = logs.path().join("log");
        let mut command = Server::command(&state);
        command
            .env("TOOL_EXECUTOR_MAX_TIMEOUT", "1s")
            .env("TOOL_EXECUTOR_DEFAULT_TIMEOUT", "1s")
            .stderr(File::create(&log).expect("the log can be written"));
        change(&mut command);
        Self { server: Server::run(command, state), log, _logs: logs }
    }

    /// It serves whoever comes with good intentions, has not panicked, and has not too much memory.
    pub(super) async fn is_well(&self) {
        self.no_panics();
        self.release_all().await;
        let id = fastrand::u64(..).to_string();
        let result = execute(&self.server, "good", bash(&id, "echo well")).await;
        assert_eq!((result.success, &*result.output), (true, "well"), "{result:?}");
        let peak = process::peak_memory(self.server.pid().as_raw_pid().cast_unsigned());
        assert!(peak < MEMORY, "it has had {} MiB", peak >> 20);
    }

    /// Neither the server nor its agents; a task of theirs that panics takes nobody along, and would go unseen.
    pub(super) fn no_panics(&self) {
        let agents = self.server.state.path().join("containers");
        let logs = fs::read_dir(agents).into_iter().flatten().flatten().map(|entry| entry.path().join("stderr.log"));
        for log in logs.chain([self.log.clone()]) {
            never_panicked(&log);
        }
    }

    /// Gives back the slots that peers hold.
    async fn release_all(&self) {
        let mut client = self.server.client().await;
        let all = ListTrajectoriesRequest { page_size: 1000, ..ListTrajectoriesRequest::default() };
        for trajectory in client.list_trajectories(all).await.expect("a list").into_inner().trajectories {
            let request = ReleaseRequest { trajectory_id: trajectory.trajectory_id, keep_workspace: false };
            client.release(request).await.expect("it is released");
        }
    }
}

/// As this log tells. One that is not there tells nothing.
pub(super) fn never_panicked(log: &Path) {
    let said = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    assert!(!said.contains("panicked at"), "{said}");
}
