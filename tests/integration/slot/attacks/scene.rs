//! Where attacks are made: slots, with all about them that is worth an attack; and the same without slots, where nothing
//! stops anybody.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    net::{TcpListener, UdpSocket},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{PermissionsExt, chown},
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use rustix::{io::FdFlags, process::geteuid};
use tempfile::TempDir;
use tool_executor::{
    sandbox::slot::{Runner, RunnerEnd, Slot},
    tool::job::{Exit, Process, Program},
};

use super::{
    super::bed::{self, config, level, run, start_and_wait_for_output},
    program::{Attack, made_for_everybody},
    rows::Row,
};

/// Without slots: whom attackers and their victims are.
const ANYBODY: u32 = 65_531;
const OPEN_TO_ALL: u32 = 0o777;

pub(super) struct Scene {
    /// What stands for a name in braces.
    places: Vec<(&'static str, String)>,
    attackers: Attackers,
    bystander: Bystander,
    pub(super) mark: String,
    home: TempDir,
    /// Anybody who is started inherits it, unless that is prevented.
    _inherited: File,
}

/// A process of this process's user, or of anybody; with files in places that everybody uses.
struct Bystander {
    process: Child,
    files: [String; 2],
}

enum Attackers {
    /// The directory that they begin in.
    Free(PathBuf),
    Slots {
        offline: Box<Cell>,
        online: Box<Cell>,
        other: Box<Cell>,
    },
}

/// A slot with the program in it.
struct Cell {
    slot: Slot,
    runner: Runner,
    program: String,
    workspace: PathBuf,
}

impl Scene {
    /// Anybody may do anything that its user may.
    pub(super) fn free(attack: &Attack) -> Self {
        let mut scene = Self::begin(attack, Some(ANYBODY));
        let place = scene.home.path().join("free");
        made_for_everybody(&place);
        scene.plant("other");
        listen(&scene.home.path().join("other/socket"), &scene.mark);
        let other = scene.home.path().join("other");
        let (key, mark) = (scene.place("key"), scene.mark.clone());
        scene.add("other-tmp", other.to_str().unwrap());
        scene.add("other-pid", scene.bystander.process.id());
        scene.add("other-key", key);
        scene.add("other-mark", mark);
        let pids = format!("{} {}", std::process::id(), scene.bystander.process.id());
        scene.add("pids", pids);
        scene.add("root-program", attack.root_program.to_str().unwrap());
        scene.add("capable-program", attack.capable_program.to_str().unwrap());
        scene.attackers = Attackers::Free(place);
        scene
    }

    /// From inside of slots of the level that is tested.
    pub(super) async fn slots(attack: &Attack) -> Self {
        let mut scene = Self::begin(attack, None);
        let home = scene.home.path().to_owned();
        let offline = Cell::new(&home, 0, false, attack).await;
        let online = Cell::new(&home, 1, true, attack).await;
        let mut other = Cell::new(&home, 2, false, attack).await;

        let (mark, key) = (format!("{}-of-another-slot", scene.mark), fastrand::u32(1..1 << 30));
        let tmp = if level().has_namespaces() { "/tmp" } else { "$TMPDIR" };
        let victim = format!(
            "umask 0; chmod 777 .; echo {0} | tee secret > {tmp}/secret; SECRET={0} ./attack listen socket & \
             exec ./attack victim {mark} {key} x",
            scene.mark
        );
        drop(start_and_wait_for_output(&mut other.runner, &victim).await);
        let pid = bed::process_with(&mark);
        scene.add("other", other.workspace.to_str().unwrap());
        scene.add(
            "other-tmp",
            match level().has_namespaces() {
                true => format!("/proc/{pid}/root/tmp"),
                false => other.workspace.with_file_name("tmp").to_str().unwrap().to_owned(),
            },
        );
        scene.add("other-pid", pid);
        scene.add("other-key", key);
        scene.add("other-mark", mark);
        scene.add("pids", format!("{} {} {pid}", std::process::id(), scene.bystander.process.id()));

        // Nobody but root can make such files, but they may be there.
        let mut privileged = |name, from: &Path| match geteuid().is_root() {
            true => {
                let own = offline.workspace.join(name);
                attack.copy_privileges(from, &own);
                scene.add(name, format!("./{name}"));
            }
            false => scene.add(name, from.to_str().unwrap()),
        };
        privileged("root-program", &attack.root_program);
        privileged("capable-program", &attack.capable_program);
        scene.attackers = Attackers::Slots { offline: offline.into(), online: online.into(), other: other.into() };
        scene
    }

    /// All but the attackers. `user`: of the bystander, if that is not this process's.
    fn begin(attack: &Attack, user: Option<u32>) -> Self {
        assert_eq!(std::process::id(), 1, "this must run in a private pid namespace");
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let mark = format!("attacked-{}", fastrand::u64(..));
        let key = fastrand::u32(1..1 << 30);

        made_for_everybody(&home.path().join("outside"));
        let signalled = home.path().join("signals");
        made_for_everybody(&signalled);
        let signalled = signalled.join("came");
        let mut command = Command::new(&attack.program);
        command.args(["victim", &mark, &key.to_string()]).arg(&signalled).env("SECRET", &mark);
        command.current_dir(home.path().join("outside")).stdout(Stdio::piped());
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let files = [format!("/dev/shm/{mark}"), format!("/var/tmp/{mark}")];
        files.iter().for_each(|file| write_for_everybody(Path::new(file), &mark));
        let mut bystander = Bystander { process: command.spawn().unwrap(), files };
        let mut ready = String::new();
        BufReader::new(bystander.process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let numbers: Vec<String> = ready.split_whitespace().skip(1).map(str::to_owned).collect();

        let inherited = File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&inherited, FdFlags::empty()).unwrap();
        let device = rustix::fs::stat("/").unwrap().st_dev;
        let mut scene = Self {
            places: Vec::new(),
            attackers: Attackers::Free(PathBuf::new()),
            bystander,
            mark: mark.clone(),
            home,
            _inherited: inherited,
        };
        for name in ["state", "outside"] {
            scene.plant(name);
        }
        let state = scene.home.path().join("state");
        fs::rename(state.join("secret"), state.join("agent.json")).unwrap();
        for (name, file) in ["shm", "var-tmp"].into_iter().zip(scene.bystander.files.clone()) {
            scene.add(name, file);
        }
        scene.add("mark", &mark);
        scene.add("key", key);
        for (name, number) in ["spare", "queue", "semaphore"].into_iter().zip(numbers) {
            scene.add(name, number);
        }
        scene.add("bystander", scene.bystander.process.id());
        scene.add("signalled", signalled.to_str().unwrap());
        scene.add("disk", format!("{} {}", rustix::fs::major(device), rustix::fs::minor(device)));
        listen(&state.join("agent.sock"), &mark);
        listen_on_ports(&mark);
        scene
    }

    /// A directory, and a secret in it, that everybody may do everything with.
    fn plant(&mut self, name: &'static str) {
        let directory = self.home.path().join(name);
        if !directory.exists() {
            made_for_everybody(&directory);
        }
        write_for_everybody(&directory.join("secret"), &self.mark);
        if geteuid().is_root() {
            let _ = chown(&directory, Some(ANYBODY), None);
            let _ = chown(directory.join("secret"), Some(ANYBODY), None);
        }
        self.add(name, directory.to_str().unwrap());
    }

    fn add(&mut self, name: &'static str, place: impl ToString) {
        self.places.push((name, place.to_string()));
    }

    fn place(&self, name: &str) -> String {
        self.places.iter().find(|(known, _)| *known == name).map(|(_, place)| place.clone()).unwrap()
    }

    /// The words of an attack, as they are said here.
    fn words(&self, attack: &str) -> Vec<String> {
        let said = self
            .places
            .iter()
            .fold(attack.to_owned(), |said, (name, place)| said.replace(&format!("{{{name}}}"), place));
        assert!(!said.contains(['{', '}']), "{said}");
        said.split(' ').map(str::to_owned).collect()
    }

    /// What an attack says of itself.
    pub(super) async fn attack(&mut self, program: &Attack, row: &Row) -> String {
        let words = self.words(row.attack);
        let said = match &mut self.attackers {
            Attackers::Free(place) => {
                let mut command = Command::new(&program.program);
                // A stream that takes descriptors.
                let (ours, theirs) = UnixStream::pair().unwrap();
                command.args(&words).current_dir(place).stdin(OwnedFd::from(theirs));
                if !row.by_root {
                    command.uid(ANYBODY).gid(ANYBODY);
                }
                let run = command.output().unwrap();
                drop(ours);
                String::from_utf8_lossy(&run.stdout).into_owned()
            }
            Attackers::Slots { offline, online, .. } => {
                let attacker = if row.online { online } else { offline };
                attacker.attack(&words).await
            }
        };
        let said = said.trim_end().to_owned();
        assert!(said.starts_with("succeeded: ") || said.starts_with("failed: "), "{} says {said:?}", row.attack);
        said
    }

    /// Nobody has been harmed, whatever the attacks said of themselves; and the slot that they came from serves on, also
    /// after everything that can be seen in it has been killed.
    pub(super) async fn prove_unharmed(mut self) {
        let Attackers::Slots { offline, online, other } = self.attackers else { panic!("nothing was protected") };
        let Cell { mut runner, program, slot, .. } = *offline;
        let mut again = slot.runner().await.unwrap();
        let killed = run(&mut runner, &argv(&[program, "kill-all".to_owned()])).await;
        // The kernel says that it has killed process 1 of a pid namespace, and does not.
        assert!(killed.stdout.starts_with("killed "), "{killed:?}");
        for runner in [&mut runner, &mut again] {
            assert_eq!(bed::sh(runner, "echo on").await.succeeded(), "on");
        }
        assert!(matches!(self.bystander.process.try_wait(), Ok(None)), "the bystander is alive");
        let state = self.home.path().join("state");
        for secret in
            [state.join("agent.json"), self.home.path().join("outside/secret"), other.workspace.join("secret")]
        {
            assert_eq!(fs::read_to_string(&secret).unwrap().trim_end(), self.mark, "{}", secret.display());
        }
        let mut names: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["agent.json", "agent.sock"]);
        assert_eq!(fs::read_dir(self.home.path().join("signals")).unwrap().count(), 0, "a signal came");
        other.runner.cancel();
        let ended = other.runner.ended().await.unwrap();
        assert!(matches!(ended, RunnerEnd::Ended { exit: Exit::Signal(9), .. }), "it ran until now: {ended:?}");
        for slot in [slot, online.slot, other.slot] {
            slot.destroy().await.unwrap();
        }
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
    }
}

impl Cell {
    async fn new(home: &Path, index: u32, network: bool, attack: &Attack) -> Self {
        let mut config = config(home.join(format!("slots/{index}")));
        config.network = network;
        config.hidden = vec![home.to_owned()];
        let slot = Slot::create(&config).await.unwrap();
        let mut runner = slot.runner().await.unwrap();
        let workspace = config.directory.canonicalize().unwrap().join("workspace");
        slot.workspace().write("attack", &fs::read(&attack.program).unwrap()).unwrap();
        let program = bed::sh(&mut runner, "chmod 755 attack; echo $HOME/attack").await.succeeded();
        Self { slot, runner, program, workspace }
    }

    async fn attack(&mut self, words: &[String]) -> String {
        let arguments: Vec<String> = [self.program.clone()].into_iter().chain(words.iter().cloned()).collect();
        let done = run(&mut self.runner, &argv(&arguments)).await;
        assert_eq!(done.exit(), Exit::Code(0), "{words:?}: {done:?}");
        done.stdout
    }
}

fn argv(arguments: &[String]) -> Process {
    Process { program: Program::Argv(arguments.to_vec()), ..Process::default() }
}

fn write_for_everybody(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
}

/// Says the secret to everybody who connects to a socket of the file system.
fn listen(path: &Path, secret: &str) {
    let (socket, secret) = (UnixListener::bind(path).unwrap(), secret.to_owned());
    fs::set_permissions(path, fs::Permissions::from_mode(OPEN_TO_ALL)).unwrap();
    thread::spawn(move || socket.incoming().for_each(|guest| drop(guest.unwrap().write_all(secret.as_bytes()))));
}

/// And to everybody who connects to port 80, or asks on port 53.
fn listen_on_ports(secret: &str) {
    let (web, names) = (TcpListener::bind("[::]:80").unwrap(), UdpSocket::bind("[::]:53").unwrap());
    let (one, two) = (secret.to_owned(), secret.to_owned());
    thread::spawn(move || web.incoming().for_each(|guest| drop(guest.unwrap().write_all(one.as_bytes()))));
    thread::spawn(move || {
        while let Ok((_, guest)) = names.recv_from(&mut [0; 64]) {
            let _ = names.send_to(two.as_bytes(), guest);
        }
    });
}
