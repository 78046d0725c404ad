//! Executors that come after others, and beside them.

use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::{live, nomad, only_container, running, works};
use crate::support::{
    client::{Stream, bash, execute},
    nomad::Nomad,
    server::Server,
};

/// Kills the executor; its state.
fn kill(mut server: Server) -> TempDir {
    server.signal(Signal::KILL);
    server.wait();
    std::mem::replace(&mut server.state, TempDir::new().expect("a directory"))
}

#[tokio::test]
async fn a_successor_without_the_journal_adopts_what_runs_and_wipes_it() {
    let nomad = nomad();
    let settings = [("SLOTS", "2"), ("MIN_CONTAINERS", "2"), ("MAX_CONTAINERS", "3")];
    let server = Server::on(&nomad, &settings);
    server.pool_until("both are ready", |pool| pool.available_slots == 4).await;
    let mut stream = Stream::open(&server, "before").await;
    assert!(stream.bash("1", "touch file").await.success);
    stream.batch(vec![bash("2", "sleep 600")]).await;
    let ids = |nomad: &Nomad| {
        let mut ids: Vec<_> = running(nomad).into_iter().map(|allocation| allocation.id).collect();
        ids.sort();
        ids
    };
    let before = ids(&nomad);
    let state = kill(server);
    std::fs::remove_dir_all(state.path().join("journal")).expect("it is there");

    let server = Server::on_with(&nomad, state, &settings);
    let pool = server.pool_until("both are ready again", |pool| pool.available_slots == 4).await;
    let mut adopted: Vec<_> = pool.containers.into_iter().map(|container| container.container_id).collect();
    adopted.sort();
    assert_eq!((adopted, ids(&nomad)), (before.clone(), before), "nothing was started, nothing stopped");
    for trajectory in ["a", "b", "c", "d"] {
        let found = execute(&server, trajectory, bash("1", "ls -A; ps -e -o args= | grep -c '[s]leep'")).await;
        assert_eq!(found.output, "0", "no file and no process of before: {found:?}");
    }
}

#[tokio::test]
async fn the_secret_alone_is_enough_to_adopt() {
    let nomad = nomad();
    let settings = [("SECRET", "shared"), ("EXECUTOR_ID", "trainer-7")];
    let server = Server::on(&nomad, &settings);
    let before = only_container(&server).await.container_id;
    kill(server);
    // Another machine, another state.
    let server = Server::on(&nomad, &settings);
    assert_eq!(only_container(&server).await.container_id, before);
    works(&server, "a", "1").await;
}

#[tokio::test]
async fn without_the_secret_what_runs_is_replaced() {
    let nomad = nomad();
    let server = Server::on(&nomad, &[("EXECUTOR_ID", "e")]);
    let before = only_container(&server).await.container_id;
    kill(server);
    let server = Server::on(&nomad, &[("EXECUTOR_ID", "e")]);
    let pool = server.pool_until("there is another", |pool| pool.available_slots == 4).await;
    assert_ne!(pool.containers[0].container_id, before);
    nomad.until("the old one is ended", |nomad| running(nomad).iter().all(|other| other.id != before)).await;
}

#[tokio::test]
async fn what_is_too_much_or_of_another_pool_is_ended() {
    let nomad = nomad();
    let settings = [("SLOTS", "1"), ("MIN_CONTAINERS", "3"), ("MAX_CONTAINERS", "3")];
    let server = Server::on(&nomad, &settings);
    server.pool_until("all are ready", |pool| pool.available_slots == 3).await;
    let state = kill(server);
    let server = Server::on_with(&nomad, state, &[("SLOTS", "1"), ("MAX_CONTAINERS", "1")]);
    nomad.until("two are ended", |nomad| running(nomad).len() == 1 && live(nomad) == 1).await;
    works(&server, "a", "1").await;
}

#[tokio::test]
async fn on_purpose_a_start_ends_what_is_left() {
    let nomad = nomad();
    let server = Server::on(&nomad, &[]);
    let before = only_container(&server).await.container_id;
    let state = kill(server);
    let server = Server::on_with(&nomad, state, &[("PURGE_JOB_ON_START", "true")]);
    assert_ne!(only_container(&server).await.container_id, before);
    nomad.until("the old one is ended", |nomad| running(nomad).iter().all(|other| other.id != before)).await;
}

#[tokio::test]
async fn another_executors_containers_are_left_alone() {
    let nomad = nomad();
    let one = Server::on(&nomad, &[("EXECUTOR_ID", "one")]);
    let two = Server::on(&nomad, &[("EXECUTOR_ID", "two")]);
    let mine = only_container(&one).await.container_id;
    works(&two, "a", "1").await;
    // Both look again, and neither finds something that is not its own.
    nomad.cut_streams();
    drop(two);
    nomad.until("the other's are gone", |nomad| running(nomad).len() == 1).await;
    works(&one, "a", "1").await;
    assert_eq!(only_container(&one).await.container_id, mine);
    let parent = |nomad: &Nomad| {
        nomad.requests().iter().any(|request| {
            request.method == "DELETE" && request.path.starts_with("/v1/job/atropos-sandbox-tool-executor?")
        })
    };
    assert!(!parent(&nomad), "the template has another's containers");
    drop(one);
    assert!(parent(&nomad), "the last one takes it away");
}

#[tokio::test]
async fn of_two_with_one_name_the_later_is_obeyed_and_the_earlier_ends() {
    let nomad = nomad();
    let settings = [("SECRET", "shared"), ("EXECUTOR_ID", "twin")];
    let mut first = Server::on(&nomad, &settings);
    let container = only_container(&first).await.container_id;
    let second = Server::on(&nomad, &settings);
    let status = first.wait();
    assert_eq!(status.code(), Some(1), "it says so and ends");
    assert_eq!(only_container(&second).await.container_id, container, "and leaves what runs to the other");
    works(&second, "a", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_a_nomad_that_is_away() {
    let nomad = nomad();
    let server = Server::on(&nomad, &[]);
    let before = only_container(&server).await.container_id;
    let state = kill(server);
    nomad.no_leader(true);
    let (asked, again) = (nomad.requests().len(), nomad.clone());
    let lifting = std::thread::spawn(move || {
        let refused = |nomad: &Nomad| nomad.requests()[asked..].iter().any(|request| request.path.contains("/v1/jobs"));
        while !refused(&again) {
            std::thread::sleep(Duration::from_millis(5));
        }
        again.no_leader(false);
    });
    let server = tokio::task::block_in_place(|| Server::on_with(&nomad, state, &[]));
    assert_eq!(only_container(&server).await.container_id, before);
    lifting.join().expect("it is lifted");
}

/// The template is theirs together, and the program is each one's own.
#[tokio::test]
async fn an_executor_delivers_its_own_program_when_another_is_gone() {
    let nomad = nomad();
    let settings = |name| [("EXECUTOR_ID", name), ("AGENT", "artifact"), ("SLOTS", "1"), ("START_TIMEOUT", "60s")];
    let one = Server::on(&nomad, &settings("one"));
    works(&one, "first", "1").await;
    let other = Server::on(&nomad, &settings("other"));
    works(&other, "first", "1").await;
    // Its address goes with it.
    drop(other);
    works(&one, "second", "1").await;
}
