//! The static program as the agent in roots like those of images: of Debian, of Alpine, and of one that has neither shell
//! nor C library. The roots are made here; each agent is brought into its root from outside, as Nomad does.
//!
//! `TOOL_EXECUTOR_STATIC_AGENT` names the program, `TOOL_EXECUTOR_BUSYBOX` a static busybox.

use std::{
    env, fs,
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use tempfile::TempDir;
use tool_executor::pb::toolexecutor::{Attribution, CallResult, Executed, Outcome};

use crate::{
    slot::{
        bed::{PROGRAM, has_program},
        image::{Image, ROOT},
    },
    support::{
        client::{Stream, argv, command, shell, tool},
        nomad::Nomad,
        server::Server,
        skip,
    },
};

const STATIC: &str = "TOOL_EXECUTOR_STATIC_AGENT";
const BUSYBOX: &str = "TOOL_EXECUTOR_BUSYBOX";
/// Which root is to be entered, and with which arguments the agent is to be started there.
const KIND: &str = "TOOL_EXECUTOR_TEST_KIND";
const ARGUMENTS: &str = "TOOL_EXECUTOR_TEST_ARGUMENTS";

/// An executor whose one container is such a root.
struct Bed {
    server: Server,
    _home: TempDir,
}

impl Bed {
    /// None where something that it needs is missing.
    fn start(kind: &str) -> Option<Self> {
        let agent = named(STATIC)?;
        if !rustix::process::geteuid().is_root() {
            return skip("root, who may mount");
        }
        let home = TempDir::new().expect("a directory");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("it can be opened to slots");
        let root = home.path().join("root");
        fs::create_dir(&root).expect("it can be made");
        let enter = home.path().join("enter");
        let this = env::current_exe().expect("this program has a file");
        let busybox = env::var_os(BUSYBOX).unwrap_or_default();
        let script = format!(
            "#!/bin/sh\nexport {ROOT}={} {PROGRAM}={} {KIND}={kind} {BUSYBOX}={} {ARGUMENTS}=\"$*\"\nexec unshare --mount {} --ignored --exact deploy::roots::enter\n",
            root.display(),
            agent.display(),
            fs::canonicalize(&busybox).unwrap_or_default().display(),
            this.display(),
        );
        fs::write(&enter, script).expect("it can be written");
        fs::set_permissions(&enter, fs::Permissions::from_mode(0o755)).expect("it can be made a program");
        let enter = enter.to_str().expect("it is text");
        let settings = [("AGENT_PATH", enter), ("VIEW", "image"), ("SLOTS", "2"), ("MAX_CONTAINERS", "1")];
        Some(Self { server: Server::on(&Nomad::start(), &settings), _home: home })
    }

    async fn open(&self) -> Stream {
        Stream::open(&self.server, "trajectory").await
    }
}

fn named(variable: &str) -> Option<PathBuf> {
    match env::var_os(variable) {
        Some(path) => Some(fs::canonicalize(&path).unwrap_or_else(|error| panic!("{variable}: {error}"))),
        None => skip(variable),
    }
}

/// Not a test: becomes the agent, in the root that it makes.
#[test]
#[ignore = "run in a mount namespace of its own, by the others"]
fn enter() {
    let image = Image::new();
    match env::var(KIND).expect("it is told").as_str() {
        "debian" => debian(&image),
        "alpine" => alpine(&image),
        "distroless" => distroless(&image),
        other => panic!("{other}"),
    }
    // Nomad's directories of the task, at the paths that it is told.
    let task = PathBuf::from(env::var_os("NOMAD_TASK_DIR").expect("it is a task of Nomad's"));
    let allocation = task.ancestors().nth(2).expect("it is two above");
    let inside = allocation.to_str().expect("it is text").trim_start_matches('/');
    image.directory(inside);
    image.bind(allocation, inside);
    image.enter();
    let arguments = env::var(ARGUMENTS).expect("it is told");
    let mut agent = Command::new("/program");
    agent.args(arguments.split(' '));
    for variable in [ROOT, PROGRAM, KIND, BUSYBOX, ARGUMENTS] {
        agent.env_remove(variable);
    }
    panic!("{}", agent.exec());
}

/// With this machine's programs, and its C library.
fn debian(image: &Image) {
    image.show_host();
    image.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644);
}

/// A busybox, and no C library but what is in it.
fn alpine(image: &Image) {
    let busybox = env::var_os(BUSYBOX).expect("it is named");
    image.directory("bin");
    image.directory("lib");
    let place = image.root.join("bin/busybox");
    fs::copy(&busybox, &place).expect("it can be copied");
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).expect("it can be made a program");
    for name in ["sh", "cat", "echo", "id", "ls", "sleep", "head"] {
        symlink("busybox", image.root.join("bin").join(name)).expect("it can be made");
    }
    image.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644);
    image.file("etc/alpine-release", "3\n", 0o644);
}

/// One program with what it is linked to, and no shell.
fn distroless(image: &Image) {
    image.install(Path::new("/bin/cat"), "app/cat");
    image.file("etc/passwd", "nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n", 0o644);
}

fn output(result: &CallResult) -> &str {
    assert!(result.success, "{result:?}");
    &result.output
}

/// What works in every root that has a shell.
async fn works_with_a_shell(stream: &mut Stream) {
    assert_eq!(output(&stream.bash("a", "echo hello; id -u").await), "hello\n0");
    assert!(stream.bash("b", "echo kept > file; sleep 60 & cat file").await.success);
    stream.batch(vec![tool("c", "read_file", json!({ "path": "file" }))]).await;
    assert_eq!(output(&stream.result().await), "kept\n");
    stream.batch(vec![tool("d", "write_file", json!({ "path": "deep/file", "content": "written" }))]).await;
    assert!(stream.result().await.success);
    assert_eq!(
        output(&stream.bash("e", "cat deep/file; ls -A /local /alloc /secrets 2>/dev/null | head -1").await),
        "written"
    );
    stream.batch(vec![tool("f", "bash", json!({ "command": "sleep 60", "timeout": 1 }))]).await;
    assert_eq!(stream.result().await.outcome(), Outcome::TimedOut);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_root_like_debians() {
    let Some(bed) = Bed::start("debian") else { return };
    let mut stream = bed.open().await;
    works_with_a_shell(&mut stream).await;
    assert!(output(&stream.bash("libc", "ls /usr/lib/*/libc.so.6").await).ends_with("libc.so.6"));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_root_like_alpines() {
    if named(BUSYBOX).is_none() {
        return;
    }
    let Some(bed) = Bed::start("alpine") else { return };
    let mut stream = bed.open().await;
    works_with_a_shell(&mut stream).await;
    assert_eq!(output(&stream.bash("root", "cat /etc/alpine-release; ls /lib").await), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_root_without_a_shell() {
    if !has_program("ldd") {
        return;
    }
    let Some(bed) = Bed::start("distroless") else { return };
    let mut stream = bed.open().await;
    stream.batch(vec![command("a", argv(&["/app/cat", "/etc/passwd"]))]).await;
    let result = stream.result().await;
    assert!(result.success, "{result:?}");
    assert!(result.stdout.expect("it has output").data.starts_with(b"nonroot:x:65532"));
    stream.batch(vec![tool("b", "write_file", json!({ "path": "file", "content": "written" }))]).await;
    assert!(stream.result().await.success);
    stream.batch(vec![command("c", argv(&["/app/cat", "file"]))]).await;
    assert_eq!(&stream.result().await.stdout.expect("it has output").data[..], b"written");

    // The client chose a shell where there is none; a model did not choose the image.
    stream.batch(vec![command("d", shell("echo hello"))]).await;
    let result = stream.result().await;
    assert_eq!((result.outcome(), result.attribution()), (Outcome::Failed, Attribution::Client), "{result:?}");
    assert!(result.error.contains("/bin/sh"), "{}", result.error);
    let result = stream.bash("e", "echo hello").await;
    assert_eq!((result.outcome(), result.executed()), (Outcome::Internal, Executed::No), "{result:?}");
    assert!(
        result.error.contains("the shell could not be started") && result.error.contains("/bin/sh"),
        "{}",
        result.error
    );
}

/// Else these tests would show nothing.
#[test]
fn the_static_agent_needs_no_library() {
    let Some(agent) = named(STATIC) else { return };
    let program = fs::read(agent).expect("it can be read");
    // ELF, with no program header of the kind INTERP.
    assert_eq!(&program[..4], b"\x7fELF");
    let number = |at: usize, bytes: usize| {
        program[at..at + bytes].iter().rev().fold(0, |all, byte| all << 8 | usize::from(*byte))
    };
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let kinds: Vec<_> = (0..count).map(|index| number(table + index * size, 4)).collect();
    assert!(kinds.contains(&1) && !kinds.contains(&3), "{kinds:?}");
}
