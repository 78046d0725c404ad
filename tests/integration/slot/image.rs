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
};
use tool_executor::{
    sandbox::slot::{self, Isolation, Slot, SlotConfig, SlotError, Step, View, empty_trash, trash_beside},
    tool::job::Exit,
};

use super::{
    bed::{self, Bed, has_program},
    lifetime::rerun,
};

/// Where a test may make its image.
const ROOT: &str = "TOOL_EXECUTOR_TEST_ROOT";

/// Below a tree that slots see, as a container's state may be.
const SLOT: &str = "/opt/state/slots/0";

/// Runs these tests, each as root of a mount namespace of its own.
fn run_in_images(tests: &[&str]) {
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
        let run = run.env(ROOT, home.path()).env("TMPDIR", "/tmp").output().unwrap();
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
struct Image {
    root: PathBuf,
}

impl Image {
    /// What every container has, Nomad's directories included.
    fn new() -> Self {
        let image = Self { root: env::var_os(ROOT).unwrap().into() };
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
        image.directory("usr");
        image.bind("/usr".as_ref(), "usr");
        for name in ["bin", "sbin", "lib", "lib64"] {
            if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
                symlink(target, image.root.join(name)).unwrap();
            }
        }
        image
    }

    fn directory(&self, path: &str) {
        fs::create_dir_all(self.root.join(path)).unwrap();
    }

    fn file(&self, path: &str, content: &str, mode: u32) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn bind(&self, from: &Path, to: &str) {
        rustix::mount::mount_bind_recursive(from, self.root.join(to)).unwrap();
    }

    /// Copies a program of the host and the libraries that it needs.
    fn install(&self, program: &Path, place: &str) {
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
    fn enter(self) {
        // Only a mount can become the root.
        rustix::mount::mount_bind_recursive(&self.root, &self.root).unwrap();
        chdir(&self.root).unwrap();
        pivot_root(".", ".").unwrap();
        rustix::mount::unmount(".", UnmountFlags::DETACH).unwrap();
        chdir("/").unwrap();
    }
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
    let in_overlay = rustix::fs::statfs(&image.root).unwrap().f_type == OVERLAY;
    work_on_a_repository(image, !in_overlay).await;
}

/// As a container's state is, unless it is on a volume. The kernel does not layer more over that.
#[tokio::test]
#[ignore = "run by images_are_shown_as_they_are"]
async fn an_image_in_an_overlay() {
    let image = Image::of_host();
    for directory in ["lower", "upper", "work"] {
        image.directory(&format!("mnt/{directory}"));
    }
    let layer = |name| image.root.join("mnt").join(name).display().to_string();
    let options =
        format!("lowerdir={},upperdir={},workdir={},userxattr", layer("lower"), layer("upper"), layer("work"));
    let options = std::ffi::CString::new(options).unwrap();
    let place = image.root.join("opt/state");
    rustix::mount::mount("overlay", place, "overlay", MountFlags::empty(), &*options).unwrap();
    work_on_a_repository(image, false).await;
}

const OVERLAY: rustix::fs::FsWord = 0x794c_7630;

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
    image.file("srv/work/notes", "as they were\n", 0o600);
    image.directory("empty");
    symlink("srv/work", image.root.join("link")).unwrap();
    fs::set_permissions(image.root.join("root"), fs::Permissions::from_mode(0o700)).unwrap();
    image.enter();

    let mut bed = bed(View::Image, |config| config.workspace_source = Some("/srv/work".into())).await;
    assert_eq!(bed.out("cat notes /srv/work/notes /link/notes").await, ["as they were"; 3].join("\n"));
    bed.out("echo new > /link/notes").await;
    assert_eq!(bed.out("cat notes; ls /empty; /opt/tools/tool").await, "new\ntool");
    for hidden in ["/alloc", "/local", "/secrets"] {
        assert_ne!(bed.sh(&format!("ls {hidden}")).await.exit(), Exit::Code(0), "{hidden}");
    }
    assert_eq!(bed.out("ls /opt/state/slots").await, "");
    bed.slot.destroy().await.unwrap();
    assert_eq!(fs::read_to_string("/srv/work/notes").unwrap(), "as they were\n");
}

#[test]
fn a_root_can_be_writable() {
    run_in_images(&["a_writable_root"]);
}

#[tokio::test]
#[ignore = "run by a_root_can_be_writable"]
async fn a_writable_root() {
    let image = Image::new();
    for name in ["sh", "cat", "ls", "rm", "mkdir", "chmod", "mv"] {
        image.install(&Path::new("/bin").join(name), &format!("bin/{name}"));
    }
    image.install(&bed::program(), "opt/unused");
    image.file("etc/settings", "old\n", 0o644);
    image.file("etc/bound", "its own\n", 0o644);
    image.file("opt/nomad/secrets/file", "secret", 0o644);
    image.directory("usr/local/bin");
    image.bind(&image.root.join("etc/settings"), "etc/bound");
    let owners_can_be_mapped = fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295")
        && rustix::fs::statfs(&image.root).unwrap().f_type != OVERLAY;
    image.enter();
    let mut config = in_image(View::Image);
    config.writable_root = true;
    config.hidden = vec!["/opt/nomad/secrets".into()];
    if !owners_can_be_mapped {
        let error = Slot::create(&config).await.unwrap_err();
        assert!(matches!(error, SlotError::Step { step: Step::WritableRoot, .. }), "{error:?}");
        let error = slot::probe(&config).await.unwrap_err();
        assert!(error.remedies().join("").contains("read-only root"), "{error}");
        return;
    }
    assert_eq!(slot::probe(&config).await.unwrap_or_else(|error| panic!("{error}")), Isolation::L0);

    let mut bed = bed(View::Image, |changed| *changed = config).await;
    let mut other = SlotConfig { directory: "/opt/state/slots/1".into(), ..bed::config(SLOT.into()) };
    (other.view, other.writable_root, other.program) = (View::Image, true, "/program".into());
    let other = Slot::create(&other).await.unwrap();
    bed.out("echo new >> /etc/settings && rm /opt/tools/tool && mkdir /opt/tools/more && echo > /var/new").await;
    bed.out("printf '#!/bin/sh\\necho mine' > /usr/local/bin/own && chmod 755 /usr/local/bin/own").await;
    assert_eq!(bed.out("own; cat /etc/settings; ls /opt/tools").await, "mine\nold\nnew\nmore");
    bed.out("echo x > /root/x && mv /etc/settings /etc/moved && rm -r /opt/nomad/* ; ls /opt/nomad").await;
    assert_eq!(
        bed.out("cat /etc/bound; ls /opt/nomad /opt/nomad/secrets /opt/state/slots").await.lines().next(),
        Some("old")
    );
    assert!(!bed.out("ls /opt/nomad/secrets /opt/state/slots").await.contains("file"));
    assert_ne!(bed.sh("echo > /etc/bound").await.exit(), Exit::Code(0), "a mount is not the image's");
    assert_ne!(bed.sh("ls /alloc").await.exit(), Exit::Code(0));
    let untouched = "cat /etc/settings && ls /opt/tools /usr/local/bin /root";
    let as_before = "old\n/opt/tools:\ntool\n\n/root:\n\n/usr/local/bin:";
    assert_eq!(bed::sh(&mut other.runner().await.unwrap(), untouched).await.succeeded(), as_before);
    other.destroy().await.unwrap();

    let Bed { slot, config, .. } = bed;
    slot.destroy().await.unwrap();
    let slot = Slot::create(&config).await.unwrap();
    assert_eq!(bed::sh(&mut slot.runner().await.unwrap(), untouched).await.succeeded(), as_before);
    slot.destroy().await.unwrap();
    empty_trash(&trash_beside(&config.directory)).unwrap();
    assert_eq!(fs::read_dir(&config.directory).unwrap().count(), 0);
    assert_eq!(fs::read_to_string("/etc/settings").unwrap(), "old\n");
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
