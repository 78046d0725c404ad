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
    mount::UnmountFlags,
    process::{chdir, pivot_root},
};
use tool_executor::{
    sandbox::slot::{Slot, SlotConfig, View, empty_trash, trash_beside},
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
    run_in_images(&["an_image_with_the_hosts_programs", "an_image_of_its_own"]);
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
    slot.destroy().await.unwrap();
    empty_trash(&trash_beside(&config.directory)).unwrap();
    assert_eq!(fs::read_to_string("/testbed/package/module.py").unwrap(), "print('as it was')\n");
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
    bed.end().await;
    assert_eq!(fs::read_to_string("/srv/work/notes").unwrap(), "as they were\n");
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
