//! Attacks from inside a slot. Each is shown to fail at every level that promises so, and to succeed where nothing stands
//! against it: so that what made it fail was the slot, and not a mistake in the attack.
//!
//! ```text
//! program/   the attacks, in C: one run of the program is one attack
//! rows       which of them there are, and where it is promised that they fail
//! scene      who is attacked: the agent, another slot, somebody else on the machine
//! files      attacks on the agent's own reading and writing of files
//! ```
//!
//! All of it runs in private pid, network and ipc namespaces, of which the test's process is process 1.

use std::process::Command;

use tool_executor::sandbox::slot::Isolation;

use self::{program::Attack, rows::ROWS, scene::Scene};
use super::{
    bed::{LEVEL, has_program, level, own_ids},
    conditions::{self, ARGUMENTS, Refused},
    lifetime::Outside,
};

mod files;
mod program;
mod rows;
mod scene;

/// Addresses that clouds tell instances about themselves at, which here are this machine's; and ports that anybody may
/// listen on.
const NETWORK: &str = "ip link set lo up && ip addr add 169.254.169.254/32 dev lo && \
                       ip addr add fd00:ec2::254/128 dev lo nodad && \
                       echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Run where nothing stops anybody.
const FREE: [&str; 3] =
    ["succeed", "files::planted_files_lead_out_of_a_plain_directory", "files::races_are_won_in_a_plain_directory"];
/// Run at each level.
const HELD: [&str; 4] = [
    "fail",
    "files::planted_files_lead_nowhere",
    "files::races_are_lost",
    "files::a_file_that_grows_is_read_up_to_the_limit",
];

/// Runs these tests, which fail if anything does that should not. `before`: a script of what root does first; `through`:
/// what makes the conditions of a level.
fn passes(tests: &[&str], level: Isolation, before: &str, through: &[String], refused: Option<Refused>) {
    let script = format!("{NETWORK} && {before} exec \"$@\"");
    let private = ["unshare", "--pid", "--net", "--ipc", "--fork", "--mount-proc", "sh", "-c", &script, "sh"];
    let through: Vec<&str> = private.into_iter().chain(through.iter().map(String::as_str)).collect();
    let (attack, outside) = (Attack::compiled(), Outside::new());
    let mut command: Command = outside.tests(&through);
    attack.tell(&mut command);
    command.env(LEVEL, level.name()).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("SECRET", "the agent's");
    let names = tests.iter().map(|test| format!("slot::attacks::{test}"));
    let options = ["--exact", "--ignored", "--nocapture", "--test-threads=1"].map(str::to_owned);
    let arguments: Vec<String> = options.into_iter().chain(names).collect();
    match refused {
        None => {
            command.args(arguments);
        }
        Some(refused) => {
            conditions::confine(&mut command, refused);
            command.env(ARGUMENTS, arguments.join("\n"));
        }
    }
    let run = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    println!("{tests:?} at {level}:\n{stdout}");
    assert!(run.status.success() && stdout.contains(&format!("{} passed", tests.len())), "{stderr}");
}

/// Whether there can be attacks: they take somebody who could succeed.
fn possible() -> bool {
    let root = rustix::process::geteuid().is_root() && own_ids() && level() == Isolation::L0;
    root && ["unshare", "setpriv"].iter().all(|program| has_program(program)) && has_ip()
}

fn has_ip() -> bool {
    let found =
        ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"].iter().any(|path| std::fs::exists(path).unwrap());
    if !found {
        eprintln!("skipped: no ip on this machine");
    }
    found
}

#[test]
fn attacks_succeed_where_nothing_stops_them() {
    if possible() {
        passes(&FREE, Isolation::L0, "", &[], None);
    }
}

#[test]
fn attacks_fail_at_l0() {
    if possible() {
        passes(&HELD, Isolation::L0, "", &[], None);
    }
}

#[test]
fn attacks_fail_at_l0_of_an_ordinary_user() {
    if possible() {
        passes(&HELD, Isolation::L0, "", &conditions::through(Isolation::L2Minus).unwrap(), None);
    }
}

#[test]
fn attacks_fail_at_l1() {
    if possible() {
        passes(&HELD, Isolation::L1, "mount -t tmpfs none /proc/tty &&", &[], None);
    }
}

#[test]
fn attacks_fail_at_l1b() {
    fail_at(Isolation::L1B);
}

#[test]
fn attacks_fail_at_l2() {
    fail_at(Isolation::L2);
}

#[test]
fn attacks_fail_at_l2_minus() {
    fail_at(Isolation::L2Minus);
}

fn fail_at(level: Isolation) {
    if possible()
        && let Some(through) = conditions::through(level)
    {
        passes(&HELD, level, "", &through, Some(Refused::at(level)));
    }
}

/// What succeeds nowhere proves nothing by failing in a slot. It is said, and must have a reason.
#[tokio::test]
#[ignore = "run by attacks_succeed_where_nothing_stops_them"]
async fn succeed() {
    let attack = Attack::known();
    let mut scene = Scene::free(&attack);
    let (mut proven, mut unexplained) = (0, Vec::new());
    for row in ROWS {
        let said = scene.attack(&attack, row).await;
        match (said.starts_with("succeeded"), row.lacking(&said)) {
            (true, _) => proven += 1,
            (false, Some(reason)) => println!("NOT PROVABLE HERE  {}: {said}, since {reason}", row.attack),
            (false, None) => unexplained.push(format!("{}: {said}", row.attack)),
        }
    }
    println!("{proven} of {} attacks are proven to be some", ROWS.len());
    assert!(unexplained.is_empty(), "these should have succeeded:\n{}", unexplained.join("\n"));
}

#[tokio::test]
#[ignore = "run by the attacks of each level"]
async fn fail() {
    let attack = Attack::known();
    let mut scene = Scene::slots(&attack).await;
    let mut broken = Vec::new();
    for row in ROWS {
        let said = scene.attack(&attack, row).await;
        let succeeded = said.starts_with("succeeded");
        if !row.promised.contains(&level()) {
            println!("NOT PROMISED  {}: {said}", row.attack);
        } else if succeeded {
            broken.push(format!("{}{}: {said}", row.attack, if row.online { " (online)" } else { "" }));
        } else {
            println!("{}: {said}", row.attack);
        }
    }
    assert!(broken.is_empty(), "these should have failed:\n{}", broken.join("\n"));
    scene.prove_unharmed().await;
}
