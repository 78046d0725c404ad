//! What a slot sees of an image: each test is in a root file system that it has made itself, as in a container.

use std::{
    env, fs,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{
    mount::{MountFlags, UnmountFlags},
    process::{chdir, pivot_root},
    thread::{CapabilitySet, CapabilitySets},
};
use tool_executor::{
    sandbox::slot::{self, Isolation, Slot, SlotConfig, SlotError, Step, View, empty_trash, trash_beside},
    tool::job::Exit,
};

use super::{
    bed::{self, Bed, has_program, level, own_ids},
    lifetime::rerun,
};

/// Where a test may make its image.
pub(crate) const ROOT: &str = "TOOL_EXECUTOR_TEST_ROOT";

/// Below a tree that slots see, as a container's state may be.
const SLOT: &str = "/opt/state/slots/0";

const ON_VOLUME: &str = "/alloc/state/slots/0";

/// Runs these tests, each as root of a mount namespace of its own.
fn run_in_images(tests: &[&str]) {
    run_in_images_at(level(), tests);
}

fn run_in_images_at(level: Isolation, tests: &[&str]) {
    if !["unshare", "git", "ldd"].iter().all(|program| has_program(program)) {
        return;
    }
    let mut through = vec!["unshare", "--mount"];
    if !rustix::process::geteuid().is_root() {
        through.push("--map-root-user");
    }
    for test in tests {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut run = rerun(&format!("slot::image::{test}"), &through);
        let run = run.env(ROOT, home.path()).env("TMPDIR", "/tmp").env(bed::LEVEL, level.name()).output().unwrap();
        let output = String::from_utf8_lossy(&run.stdout);
        let stderr = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success() && output.contains("1 passed"), "{test}: {output}{stderr}");
    }
}

#[test]
fn images_are_shown_as_they_are() {
    run_in_images(&["an_image_with_the_hosts_programs", "an_image_in_an_overlay", "an_image_of_its_own"]);
}

#[test]
fn what_is_hidden_cannot_be_reached() {
    run_in_images(&["a_socket_that_is_hidden", "hiding_what_is_not_there_and_what_cannot_be_entered"]);
}

/// An image in the making, before it is this process's root.
pub(crate) struct Image {
    pub(crate) root: PathBuf,
}

impl Image {
    pub(crate) fn new() -> Self {
        Self::at(env::var_os(ROOT).unwrap().into())
    }

    fn in_overlay() -> Self {
        let home = PathBuf::from(env::var_os(ROOT).unwrap());
        let layer = |name| {
            fs::create_dir(home.join(name)).unwrap();
            home.join(name).display().to_string()
        };
        let options = format!("lowerdir={},upperdir={},workdir={}", layer("lower"), layer("upper"), layer("work"));
        // Only a host's root may do without the last option.
        let options = std::ffi::CString::new(options + ",userxattr").unwrap();
        let root = PathBuf::from(layer("root"));
        rustix::mount::mount("overlay", &root, "overlay", MountFlags::empty(), &*options).unwrap();
        Self::at(root)
    }

    /// What every container has, Nomad's directories included.
    fn at(root: PathBuf) -> Self {
        let image = Self { root };
        for directory in ["proc", "dev", "tmp", "run", "etc", "root", "var/tmp", "opt/state"] {
            image.directory(directory);
        }
        for directory in ["alloc", "local", "secrets"] {
            image.file(&format!("{directory}/token"), "secret", 0o777);
        }
        image.file("file", "", 0o644);
        image.file("opt/tools/tool", "#!/bin/sh\necho tool\n", 0o755);
        fs::write(image.root.join("program"), "").unwrap();
        image.bind(&fs::canonicalize(bed::program()).unwrap(), "program");
        image.bind("/proc".as_ref(), "proc");
        image.bind("/dev".as_ref(), "dev");
        image
    }

    /// With the host's programs.
    fn of_host() -> Self {
        let image = Self::new();
        image.show_host();
        image
    }

    pub(crate) fn show_host(&self) {
        self.directory("usr");
        self.bind("/usr".as_ref(), "usr");
        for name in ["bin", "sbin", "lib", "lib64"] {
            if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
                symlink(target, self.root.join(name)).unwrap();
            }
        }
    }

    fn fill_for_writing(&self) {
        for name in ["sh", "cat", "ls", "rm", "mkdir", "chmod", "mv"] {
            self.install(&Path::new("/bin").join(name), &format!("bin/{name}"));
        }
        self.install(&bed::program(), "unused");
        self.file("etc/settings", "old\n", 0o644);
        self.file("etc/bound", "its own\n", 0o644);
        self.file("opt/library", "old\n", 0o644);
        self.file("opt/nomad/file", "", 0o644);
        self.file("opt/nomad/secrets/secret.txt", "secret", 0o644);
        self.directory("usr/local/bin");
        self.bind(&self.root.join("etc/settings"), "etc/bound");
    }

    pub(crate) fn directory(&self, path: &str) {
        fs::create_dir_all(self.root.join(path)).unwrap();
    }

    pub(crate) fn file(&self, path: &str, content: &str, mode: u32) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn bind(&self, from: &Path, to: &str) {
        rustix::mount::mount_bind_recursive(from, self.root.join(to)).unwrap();
    }

    /// Copies a program of the host and the libraries that it needs.
    pub(crate) fn install(&self, program: &Path, place: &str) {
        let listed = Command::new("ldd").arg(program).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let libraries = listed.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
        for (from, to) in libraries.map(|path| (path, path.to_str().unwrap())).chain([(program, place)]) {
            let to = self.root.join(to.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        }
    }

    /// A repository with one commit, of this process's user.
    fn repository(&self, path: &str) {
        self.file(&format!("{path}/package/module.py"), "print('as it was')\n", 0o644);
        self.file(&format!("{path}/run.sh"), "#!/bin/sh\necho ran\n", 0o755);
        symlink("run.sh", self.root.join(path).join("link")).unwrap();
        let git = |arguments: &[&str]| {
            let identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"];
            let mut git = Command::new("git");
            git.args(identity).args(arguments).current_dir(self.root.join(path));
            assert!(git.output().unwrap().status.success(), "{arguments:?}");
        };
        git(&["init"]);
        git(&["add", "."]);
        git(&["commit", "-m", "first"]);
    }

    /// Makes it the root of this process, and lets go of the host's.
    pub(crate) fn enter(self) {
        // Only a mount can become the root.
        rustix::mount::mount_bind_recursive(&self.root, &self.root).unwrap();
        chdir(&self.root).unwrap();
        pivot_root(".", ".").unwrap();
        rustix::mount::unmount(".", UnmountFlags::DETACH).unwrap();
        chdir("/").unwrap();
    }
}

/// As root is in a container that is not privileged.
fn give_up_mounting() {
    let mounting = CapabilitySet::SYS_ADMIN;
    rustix::thread::remove_capability_from_bounding_set(mounting).unwrap();
    let CapabilitySets { effective, permitted, inheritable } = rustix::thread::capabilities(None).unwrap();
    let (effective, permitted) = (effective - mounting, permitted - mounting);
    rustix::thread::set_capabilities(None, CapabilitySets { effective, permitted, inheritable }).unwrap();
    assert!(rustix::mount::unmount("/proc", UnmountFlags::DETACH).is_err());
}

fn is_overlay(path: &Path) -> bool {
    rustix::fs::statfs(path).unwrap().f_type == 0x794c_7630
}

fn in_image(view: View) -> SlotConfig {
    SlotConfig { view, program: "/program".into(), ..bed::config(SLOT.into()) }
}

async fn bed(view: View, change: impl FnOnce(&mut SlotConfig)) -> Bed {
    Bed::with(|config| {
        *config = in_image(view);
        change(config);
    })
    .await
}

#[tokio::test]
#[ignore = "run by images_are_shown_as_they_are"]
async fn an_image_with_the_hosts_programs() {
    let image = Image::of_host();
    let layered = !is_overlay(&image.root);
    work_on_a_repository(image, layered).await;
}

/// As a container is, and its state unless that is on a volume. The kernel does not layer more over that.
#[tokio::test]
#[ignore = "run by images_are_shown_as_they_are"]
async fn an_image_in_an_overlay() {
    let image = Image::in_overlay();
    image.show_host();
    work_on_a_repository(image, false).await;
}

/// `layered`: the repository is copied but once.
async fn work_on_a_repository(image: Image, layered: bool) {
    image.repository("testbed");
    image.file("data/deep/file", "shown", 0o644);
    image.enter();

    let mut bed = bed(View::Image, |config| config.workspace_source = Some("/testbed".into())).await;
    for place in ["/workspace", "/testbed"] {
        assert_eq!(bed.out(&format!("cd {place} && git status --porcelain && git log --format=%s")).await, "first");
        assert_eq!(bed.out(&format!("cd {place} && ./link")).await, "ran");
    }
    assert_eq!(bed.out("/opt/tools/tool; cat /data/deep/file").await, "tool\nshown");
    for hidden in ["/alloc", "/local", "/secrets", "/sys", "/file", "/program"] {
        assert_eq!(bed.sh(&format!("ls {hidden}")).await.exit(), Exit::Code(2), "{hidden}");
    }
    assert_eq!(bed.out("ls -A /opt/state /run").await, "/opt/state:\nslots\n\n/run:");
    assert_eq!(bed.out("ls -A /opt/state/slots").await, "");
    for place in ["/", "/data/deep", "/opt", "/etc", "/var"] {
        assert_ne!(bed.sh(&format!("echo > {place}/new")).await.exit(), Exit::Code(0), "{place}");
    }
    assert_eq!(bed.out("echo x > /var/tmp/f; cat /tmp/f").await, "x");

    bed.out("cd /testbed && sed -i 's/as it was/changed/' package/module.py && echo > new && git rm -q run.sh").await;
    assert_eq!(bed.out("git status --porcelain").await, " M package/module.py\nD  run.sh\n?? new");
    let files = bed.slot.workspace();
    assert_eq!(files.read("/workspace/package/module.py", 1000).unwrap(), "print('changed')\n");
    assert_eq!(files.read("/testbed/package/module.py", 1000).unwrap(), "print('changed')\n");
    assert!(files.read("/testbeds", 1000).is_err() && files.read("/opt/tools/tool", 1000).is_err());
    assert_eq!(files.write("package/another.py", b"x"), Ok(1));
    assert_eq!(bed.out("cat /testbed/package/another.py; stat -c %u package/another.py").await, "x0");

    // The next generation.
    let Bed { slot, config, .. } = bed;
    slot.destroy().await.unwrap();
    let slot = Slot::create(&config).await.unwrap();
    let mut runner = slot.runner().await.unwrap();
    let state = bed::sh(&mut runner, "git -C /testbed status --porcelain; cat package/module.py").await;
    assert_eq!(state.succeeded(), "print('as it was')");
    bed::sh(&mut runner, "mv package renamed && rm -rf renamed .git").await.succeeded();
    slot.destroy().await.unwrap();
    empty_trash(&trash_beside(&config.directory)).unwrap();
    assert_eq!(fs::read_to_string("/testbed/package/module.py").unwrap(), "print('as it was')\n");
    assert_eq!(fs::read_dir(&config.directory).unwrap().count(), usize::from(layered), "what generations share");
}

/// Not merged: /bin and /lib are directories, and there is no /usr but for what the programs need.
#[tokio::test]
#[ignore = "run by images_are_shown_as_they_are"]
async fn an_image_of_its_own() {
    let image = Image::new();
    for name in ["sh", "cat", "ls"] {
        image.install(&Path::new("/bin").join(name), &format!("bin/{name}"));
    }
    image.install(&bed::program(), "opt/unused");
    image.file("srv/repository/notes", "as they were\n", 0o600);
    image.directory("empty");
    symlink("srv/repository", image.root.join("link")).unwrap();
    fs::set_permissions(image.root.join("root"), fs::Permissions::from_mode(0o700)).unwrap();
    image.enter();

    let mut bed = bed(View::Image, |config| config.workspace_source = Some("/srv/repository".into())).await;
    assert_eq!(bed.out("cat notes /srv/repository/notes /link/notes").await, ["as they were"; 3].join("\n"));
    bed.out("echo new > /link/notes").await;
    assert_eq!(bed.out("cat notes; ls /empty; /opt/tools/tool").await, "new\ntool");
    for hidden in ["/alloc", "/local", "/secrets"] {
        assert_ne!(bed.sh(&format!("ls {hidden}")).await.exit(), Exit::Code(0), "{hidden}");
    }
    assert_eq!(bed.out("ls /opt/state/slots").await, "");
    bed.slot.destroy().await.unwrap();
    assert_eq!(fs::read_to_string("/srv/repository/notes").unwrap(), "as they were\n");
}

#[test]
fn a_root_can_be_writable() {
    run_in_images(&["a_writable_root", "a_writable_root_in_an_overlay", "a_root_that_cannot_be_writable"]);
}

/// Owners are mapped by a user namespace; without one, the slot's user has copies.
#[test]
fn a_root_can_be_writable_at_l1b() {
    if rustix::process::geteuid().is_root() && own_ids() && level() == Isolation::L0 {
        run_in_images_at(Isolation::L1B, &["a_writable_root"]);
    }
}

#[tokio::test]
#[ignore = "run by a_root_can_be_writable"]
async fn a_writable_root() {
    let image = Image::new();
    let mapped = level() == Isolation::L0 && is_hosts_root() && !is_overlay(&image.root);
    image.fill_for_writing();
    image.directory("alloc/state");
    image.bind(&image.root.join("alloc"), "alloc");
    image.enter();
    write_to_root(if mapped { SLOT } else { ON_VOLUME }, mapped).await;
}

/// As in most containers: nobody's file can be anybody else's there. What is written goes to a volume.
#[tokio::test]
#[ignore = "run by a_root_can_be_writable"]
async fn a_writable_root_in_an_overlay() {
    let volume = Path::new(&env::var_os(ROOT).unwrap()).join("volume");
    fs::create_dir(&volume).unwrap();
    let image = Image::in_overlay();
    image.directory("alloc/state");
    image.fill_for_writing();
    image.bind(&volume, "alloc");
    image.enter();
    give_up_mounting();
    write_to_root(ON_VOLUME, false).await;
}

/// Nor is there a place for what is written.
#[tokio::test]
#[ignore = "run by a_root_can_be_writable"]
async fn a_root_that_cannot_be_writable() {
    let image = Image::in_overlay();
    image.fill_for_writing();
    image.enter();
    for view in [View::Image, View::Host] {
        let mut config = in_image(view);
        config.writable_root = true;
        let error = Slot::create(&config).await.unwrap_err();
        assert!(matches!(error, SlotError::Step { step: Step::WritableRoot, .. }), "{error:?}");
        let error = slot::probe(&config, Isolation::L1B).await.unwrap_err();
        assert!(error.remedies().join("").contains("on a volume"), "{error}");
    }
}

/// Not in a user namespace, where owners cannot be mapped again.
fn is_hosts_root() -> bool {
    fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295")
}

/// `mapped`: root's files are the slot's user's; else it has but copies of directories.
async fn write_to_root(directory: &str, mapped: bool) {
    let mut config = in_image(View::Image);
    config.directory = directory.into();
    config.writable_root = true;
    config.hidden = vec!["/opt/nomad/secrets".into()];
    if level() == Isolation::L0 {
        let found = slot::probe(&config, Isolation::L1B).await;
        assert_eq!(found.unwrap_or_else(|error| panic!("{error}")), Isolation::L0);
        assert!(!config.directory.exists());
    }

    let second = SlotConfig { directory: config.directory.with_file_name("1"), ..config.clone() };
    let second = SlotConfig { host_id: in_image(View::Image).host_id, ..second };
    let second = Slot::create(&second).await.unwrap();
    let mut bed = bed(View::Image, |changed| *changed = config).await;
    bed.out("echo new >> /etc/settings && rm /opt/tools/tool && mkdir /opt/tools/more && echo > /var/new").await;
    bed.out("printf '#!/bin/sh\\necho mine' > /usr/local/bin/own && chmod 755 /usr/local/bin/own").await;
    assert_eq!(bed.out("own; cat /etc/settings; ls /opt/tools").await, "mine\nold\nnew\nmore");
    bed.out("echo x > /root/x && mv /etc/settings /etc/moved && rm /opt/nomad/file; ls /opt/nomad").await;
    // The image is this process's user's. Where the slot's is another one, a file is replaced or not changed at all.
    let in_place = mapped || bed.config.host_id.is_none();
    assert_eq!(bed.sh("echo >> /opt/library").await.exit() == Exit::Code(0), in_place);
    assert_eq!(
        bed.out("cat /opt/library > /tmp/x && rm /opt/library && mv /tmp/x /opt/library; ls /opt/library").await,
        "/opt/library"
    );
    // What is mounted over a file is not the image's, but a copy of it may be the slot's.
    assert_eq!(bed.sh("echo > /etc/bound").await.exit() == Exit::Code(0), !mapped);

    bed.sh("rm -r /opt/nomad; mv /opt/nomad /opt/moved; rm -r /opt/state").await;
    let hidden = bed.sh("ls -R /opt /alloc /secrets").await.stdout;
    assert!(!hidden.contains("secret.txt") && !hidden.contains("workspace"), "{hidden}");
    assert_ne!(bed.sh("ls /alloc").await.exit(), Exit::Code(0));

    let look = "cat /etc/settings && ls /opt/tools /usr/local/bin /root /opt/nomad";
    let as_before = "old\n/opt/nomad:\nfile\nsecrets\n\n/opt/tools:\ntool\n\n/root:\n\n/usr/local/bin:";
    assert_eq!(bed::sh(&mut second.runner().await.unwrap(), look).await.succeeded(), as_before);
    second.destroy().await.unwrap();
    let Bed { slot, config, .. } = bed;
    slot.destroy().await.unwrap();
    let slot = Slot::create(&config).await.unwrap();
    assert_eq!(bed::sh(&mut slot.runner().await.unwrap(), look).await.succeeded(), as_before);
    slot.destroy().await.unwrap();
    empty_trash(&trash_beside(&config.directory)).unwrap();
    assert_eq!(fs::read_dir(&config.directory).unwrap().count(), usize::from(!mapped), "what generations share");
    assert_eq!(fs::read_to_string("/etc/settings").unwrap(), "old\n");
    assert!(Path::new("/opt/tools/tool").exists());
}

#[tokio::test]
#[ignore = "run by what_is_hidden_cannot_be_reached"]
async fn a_socket_that_is_hidden() {
    if !has_program("perl") {
        return;
    }
    let image = Image::of_host();
    image.file("opt/nomad/alloc/secrets/file", "secret", 0o644);
    symlink("/opt/nomad", image.root.join("etc/link")).unwrap();
    image.enter();
    let path = "/opt/nomad/alloc/secrets/api.sock";
    let _listening = UnixListener::bind(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    let connect = |path: &str| {
        format!(
            "perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0); print connect(S, sockaddr_un(\"{path}\")) ? \
             \"connected\" : $!+0'"
        )
    };
    for view in [View::Host, View::Image] {
        let mut seen = bed(view, |_| ()).await;
        assert_eq!(seen.out(&connect(path)).await, "connected");
        seen.end().await;

        // By a link; and the socket itself.
        for hidden in ["/etc/link/alloc", "/opt/nomad/alloc/secrets/", path] {
            let mut unseen = bed(view, |config| config.hidden = vec![hidden.into()]).await;
            assert_ne!(unseen.out(&connect(path)).await, "connected", "{view:?}, {hidden}");
            assert_ne!(unseen.out(&connect("/etc/link/alloc/secrets/api.sock")).await, "connected");
            unseen.sh("rm -rf /opt/nomad; umount -l /opt/nomad/alloc; umount -l /opt/nomad/alloc/secrets").await;
            unseen.sh("mv /opt/nomad/alloc /tmp; mount --bind /tmp /opt/nomad/alloc/secrets").await;
            let mut another = unseen.slot.runner().await.unwrap();
            assert_ne!(bed::sh(&mut another, &connect(path)).await.succeeded(), "connected", "{view:?}, {hidden}");
            unseen.end().await;
        }
    }
}

#[tokio::test]
#[ignore = "run by what_is_hidden_cannot_be_reached"]
async fn hiding_what_is_not_there_and_what_cannot_be_entered() {
    let image = Image::of_host();
    image.file("opt/locked/inner/file", "secret", 0o644);
    image.file("shown/inner/file", "secret", 0o644);
    fs::set_permissions(image.root.join("opt/locked"), fs::Permissions::from_mode(0o700)).unwrap();
    image.enter();
    let hidden =
        ["/none/such", "/opt/none", "/file/none", "/opt/locked/inner", "/alloc", "/shown", "/shown/inner/file"];
    for view in [View::Host, View::Image] {
        let mut bed = bed(view, |config| config.hidden = hidden.map(PathBuf::from).to_vec()).await;
        // Should it be opened later, it is hidden all the same.
        fs::set_permissions("/opt/locked", fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(bed.sh("cat /opt/locked/inner/file").await.exit(), Exit::Code(1));
        assert_eq!(bed.sh("ls /shown").await.exit(), Exit::Code(2));
        fs::set_permissions("/opt/locked", fs::Permissions::from_mode(0o700)).unwrap();
        bed.end().await;
    }
    let mut wrong = in_image(View::Image);
    wrong.hidden = vec!["relative".into()];
    let error = Slot::create(&wrong).await.unwrap_err().to_string();
    assert_eq!(error, "could not hide what the slot is not to see (relative)");
}
