//! A slot to test on, and short ways to run things in it.

use std::{
    fs,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tool_executor::{
    sandbox::slot::{Isolation, Runner, RunnerEnd, Slot, SlotConfig, Stdio, can_assign_ids, empty_trash, trash_beside},
    tool::job::{Exit, Process, Program, Usage},
};

/// Overrides the program, where the built one cannot be reached.
pub(crate) const PROGRAM: &str = "TOOL_EXECUTOR_TEST_PROGRAM";

pub(crate) fn program() -> PathBuf {
    std::env::var_os(PROGRAM).map_or_else(|| env!("CARGO_BIN_EXE_tool-executor").into(), PathBuf::from)
}

/// The level that is tested, where that is not the best; whoever sets it has made the conditions for it.
pub(crate) const LEVEL: &str = "TOOL_EXECUTOR_TEST_LEVEL";

pub(crate) fn level() -> Isolation {
    std::env::var(LEVEL).map_or(Isolation::L0, |level| level.parse().unwrap())
}

/// Set where the kernel refuses a /proc of one's own.
pub(crate) const MASKED: &str = "TOOL_EXECUTOR_TEST_MASKED";

/// Calls see the processes of their runner's pid namespace alone.
pub(crate) fn own_proc() -> bool {
    matches!(level(), Isolation::L0 | Isolation::L1B) && std::env::var_os(MASKED).is_none()
}

/// Whether slots get users of their own here.
pub(crate) fn own_ids() -> bool {
    can_assign_ids(FIRST_ID..FIRST_ID + 3_000_100)
}

/// Above what anybody else is likely to use.
const FIRST_ID: u32 = 200_000;

pub(crate) fn config(directory: PathBuf) -> SlotConfig {
    // No two slots of a machine may share an id, whatever else is being tested on it: a block for each process.
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| (FIRST_ID + fastrand::u32(..30_000) * 100).into());
    let id = || NEXT.fetch_add(1, Ordering::Relaxed);
    SlotConfig {
        host_id: own_ids().then(id),
        isolation: level(),
        // It may have to be opened for the slot's user.
        hidden: if level().has_namespaces() { Vec::new() } else { vec![home_of(&directory)] },
        program: program(),
        ..SlotConfig::new(directory)
    }
}

/// The test's own directory, as if it were the executor's.
fn home_of(directory: &Path) -> PathBuf {
    let temporary = std::env::temp_dir();
    let home = directory.strip_prefix(&temporary).unwrap().components().next().unwrap();
    temporary.join(home)
}

pub(crate) struct Bed {
    pub(crate) slot: Slot,
    pub(crate) runner: Runner,
    pub(crate) config: SlotConfig,
    _home: TempDir,
}

impl Bed {
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut SlotConfig)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut config = config(home.path().join("slots/0"));
        change(&mut config);
        let slot = Slot::create(&config).await.unwrap();
        let runner = slot.runner().await.unwrap();
        Self { slot, runner, config, _home: home }
    }

    /// The workspace, as calls see it.
    pub(crate) fn home(&self) -> String {
        if level().has_namespaces() {
            return "/workspace".to_owned();
        }
        self.config.directory.canonicalize().unwrap().join("workspace").to_str().unwrap().to_owned()
    }

    /// The slot's user, as calls see it.
    pub(crate) fn user(&self) -> u32 {
        match level() {
            Isolation::L0 | Isolation::L1 => 0,
            Isolation::L1B | Isolation::L2 | Isolation::L2Minus => {
                self.config.host_id.unwrap_or(rustix::process::geteuid().as_raw())
            }
        }
    }

    /// Proves that nothing runs in the slot but what must.
    pub(crate) async fn is_quiet(&mut self) {
        if own_proc() {
            assert_eq!(self.out(PROCESSES).await, "2");
        }
    }

    pub(crate) async fn sh(&mut self, script: &str) -> Done {
        sh(&mut self.runner, script).await
    }

    /// Standard output of a script that must succeed, without its last newline.
    pub(crate) async fn out(&mut self, script: &str) -> String {
        self.sh(script).await.succeeded()
    }

    /// Ends the slot and proves that nothing of it is left.
    pub(crate) async fn end(self) {
        let Self { slot, runner, config, _home } = self;
        slot.destroy().await.unwrap();
        assert!(runner.ended().await.is_err());
        empty_trash(&trash_beside(&config.directory)).unwrap();
        let left: Vec<_> = fs::read_dir(&config.directory).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(config.directory.to_str().unwrap()));
        if let Some(id) = config.host_id {
            assert_eq!(processes_of(id), Vec::<String>::new());
        }
    }
}

/// All processes of a user, zombies included.
pub(crate) fn processes_of(id: u32) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let process = |path: &Path| {
        let status = fs::read_to_string(path.join("status")).ok()?;
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().next()?;
        (fs::metadata(path).ok()?.uid() == id || uid.parse() == Ok(id)).then_some(status)
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| process(&entry.path())).collect()
}

#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) end: RunnerEnd,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    pub(crate) fn exit(&self) -> Exit {
        match &self.end {
            RunnerEnd::Ended { exit, .. } => *exit,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn usage(&self) -> (Usage, Duration) {
        match &self.end {
            RunnerEnd::Ended { usage, execution, .. } => (*usage, *execution),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.exit(), Exit::Code(0), "{self:?}");
        self.stdout.trim_end_matches('\n').to_owned()
    }
}

pub(crate) fn shell(script: &str) -> Process {
    Process { program: Program::Shell(script.into()), ..Process::default() }
}

pub(crate) fn argv<const N: usize>(arguments: [&str; N]) -> Process {
    Process { program: Program::Argv(arguments.map(String::from).to_vec()), ..Process::default() }
}

pub(crate) async fn sh(runner: &mut Runner, script: &str) -> Done {
    run(runner, &shell(script)).await
}

pub(crate) async fn run(runner: &mut Runner, process: &Process) -> Done {
    let (stdio, stdout, stderr) = pipes(None);
    runner.start(process, stdio).unwrap();
    let end = runner.ended().await.unwrap();
    Done { end, stdout: stdout.await.unwrap(), stderr: stderr.await.unwrap() }
}

pub(crate) type Output = tokio::task::JoinHandle<String>;

/// Standard streams whose output is read to its end meanwhile.
pub(crate) fn pipes(stdin: Option<OwnedFd>) -> (Stdio, Output, Output) {
    let (stdout, stdout_write) = io::pipe().unwrap();
    let (stderr, stderr_write) = io::pipe().unwrap();
    let read = |mut pipe: io::PipeReader| {
        tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    (Stdio { stdin, stdout: stdout_write.into(), stderr: stderr_write.into() }, read(stdout), read(stderr))
}

/// Streams of a call that says when it has started, by its first byte of output.
pub(crate) async fn start_and_wait_for_output(runner: &mut Runner, script: &str) -> io::PipeReader {
    let (mut stdout, write) = io::pipe().unwrap();
    let stderr = write.try_clone().unwrap();
    let stdio = Stdio { stdin: None, stdout: write.into(), stderr: stderr.into() };
    runner.start(&shell(script), stdio).unwrap();
    tokio::task::spawn_blocking(move || {
        stdout.read_exact(&mut [0]).unwrap();
        stdout
    })
    .await
    .unwrap()
}

/// A number of seconds which nobody else sleeps for.
pub(crate) fn long() -> u32 {
    fastrand::u32(100_000_000..1_000_000_000)
}

/// How many processes have this in their arguments.
pub(crate) fn running(mark: u32) -> usize {
    let (mark, mut count) = (mark.to_string(), 0);
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        count += usize::from(String::from_utf8_lossy(&arguments).split('\0').any(|argument| argument == mark));
    }
    count
}

/// The process that has this among its arguments.
pub(crate) fn process_with(argument: &str) -> i32 {
    let has_it = |entry: fs::DirEntry| {
        let arguments = fs::read(entry.path().join("cmdline")).ok()?;
        let number = entry.file_name().to_str()?.parse().ok()?;
        String::from_utf8_lossy(&arguments).split('\0').any(|one| one == argument).then_some(number)
    };
    fs::read_dir("/proc").unwrap().flatten().find_map(has_it).expect("it runs")
}

/// Waits until so many have.
pub(crate) async fn until_running(mark: u32, count: usize) {
    while running(mark) != count {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// How many processes a call sees: where nothing else runs, its runner and its shell.
pub(crate) const PROCESSES: &str = "set -- /proc/[0-9]*; echo $#";

pub(crate) fn has_program(name: &str) -> bool {
    let found = Path::new("/usr/bin").join(name).exists();
    if !found {
        eprintln!("skipped: no {name} on this machine");
    }
    found
}
