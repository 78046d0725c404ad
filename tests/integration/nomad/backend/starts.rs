//! Containers that do not come to be: why, and how soon it is told.

use std::time::{Duration, Instant};

use tonic::{Code, Status};
use tool_executor::pb::toolexecutor::{Open, TrajectoryOptions};

use super::{SINGLE, live, no_capacity, nomad, only_container, quick, running, works, works_in_a_while};
use crate::support::{
    client::{Stream, bash, execute, open},
    nomad::{NodeSpec, Nomad, TaskFailure},
    server::Server,
    shared_place,
};

#[tokio::test]
async fn a_container_is_an_allocation() {
    let nomad = nomad();
    let server = Server::on(&nomad, &[]);
    let container = only_container(&server).await;
    let [allocation] = &running(&nomad)[..] else { panic!("{:?}", nomad.allocations()) };
    assert_eq!((&container.container_id, &container.node), (&allocation.id, &allocation.node));
    assert_eq!(container.isolation, "L0");
    works(&server, "a", "1").await;
}

#[tokio::test]
async fn each_cause_is_told_apart_and_early() {
    let causes = [
        (TaskFailure::ImagePull("manifest unknown".into()), "the image could not be pulled"),
        (TaskFailure::DriverFailure("Cannot connect to the Docker daemon".into()), "the driver is down"),
        (TaskFailure::DriverFailure("no such thing".into()), "the driver could not start it: no such thing"),
        (TaskFailure::ArtifactDownload("404".into()), "the agent's program could not be downloaded"),
        (TaskFailure::BadUser("nobody-here".into()), "unknown user nobody-here"),
        (TaskFailure::Validation, "Nomad refuses the task"),
    ];
    for (failure, words) in causes {
        let nomad = nomad();
        nomad.fail_next_task(failure, None);
        let server = Server::on(&nomad, &[("MIN_CONTAINERS", "0")]);
        let asked = Instant::now();
        let evidence = no_capacity(&execute(&server, "a", bash("1", "true")).await);
        assert!(evidence.cause.contains(words), "{evidence:?}");
        assert!(!evidence.events.is_empty(), "Nomad's own words go with it: {evidence:?}");
        // Nomad itself says `failed` after 3 s here.
        super::within(words, asked, Duration::from_secs(2));
        let pool = server.pool_until("it is in status", |pool| !pool.last_start_failure.is_empty()).await;
        assert!(pool.last_start_failure.contains(words), "{}", pool.last_start_failure);
        nomad.heal_tasks();
        server.pool_until("the failed ones are gone", |pool| pool.containers.is_empty()).await;
        works_in_a_while(&server, "b").await;
    }
}

#[tokio::test]
async fn a_program_that_is_no_agent_leaves_its_last_words() {
    let nomad = nomad();
    let server = Server::on(&nomad, &[("MIN_CONTAINERS", "0"), ("AGENT_PATH", "/bin/ls")]);
    let evidence = no_capacity(&execute(&server, "a", bash("1", "true")).await);
    assert!(evidence.cause.contains("exit code 2"), "{evidence:?}");
    assert!(evidence.stderr_tail.contains("ls: unrecognized option"), "{evidence:?}");
}

#[tokio::test]
async fn no_room_is_told_with_what_is_missing() {
    let nomad = nomad();
    nomad.no_room(true);
    let server = Server::on(&nomad, &[("MIN_CONTAINERS", "0"), ("NOMAD_PLACEMENT_TIMEOUT", "500ms")]);
    let evidence = no_capacity(&execute(&server, "a", bash("1", "true")).await);
    assert!(evidence.cause.contains("no node has room") && evidence.cause.contains("memory"), "{evidence:?}");
    nomad.until("the child that waits is stopped", |nomad| live(nomad) == 0).await;
    nomad.no_room(false);
    works_in_a_while(&server, "b").await;
    assert_eq!(running(&nomad).len(), 1);
}

#[tokio::test]
async fn room_that_comes_in_time_is_taken() {
    let nomad = nomad();
    nomad.no_room(true);
    let server = Server::on(&nomad, &[("MIN_CONTAINERS", "0")]);
    let waiting = execute(&server, "a", bash("1", "echo works"));
    let room = async {
        nomad.until("a child waits for room", |nomad| live(nomad) == 1).await;
        nomad.no_room(false);
    };
    let (result, ()) = tokio::join!(waiting, room);
    assert!(result.success, "{result:?}");
    assert_eq!(nomad.children().len(), 1);
}

#[tokio::test]
async fn a_node_that_is_not_wanted_is_not_taken() {
    let mut options = quick();
    options.nodes = vec![NodeSpec { class: "small".into(), ..NodeSpec::named("only") }];
    let nomad = Nomad::start_with(options);
    let settings =
        [("MIN_CONTAINERS", "0"), ("CONSTRAINTS", "${node.class} = large"), ("NOMAD_PLACEMENT_TIMEOUT", "300ms")];
    let server = Server::on(&nomad, &settings);
    let evidence = no_capacity(&execute(&server, "a", bash("1", "true")).await);
    assert!(evidence.cause.contains("excluded by the constraint"), "{evidence:?}");
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let nomad = nomad();
    nomad.deny("dispatch-job");
    let server = Server::on(&nomad, &[("MIN_CONTAINERS", "0")]);
    let evidence = no_capacity(&execute(&server, "a", bash("1", "true")).await);
    assert!(evidence.cause.contains("the token needs dispatch-job"), "{evidence:?}");
    nomad.allow("dispatch-job");
    works_in_a_while(&server, "b").await;
}

#[tokio::test]
async fn many_containers_start_at_once() {
    let nomad = nomad();
    let settings = [("SLOTS", "1"), ("MIN_CONTAINERS", "6"), ("MAX_CONTAINERS", "6"), ("MAX_STARTING", "6")];
    let server = Server::on(&nomad, &settings);
    server.pool_until("all are ready", |pool| pool.available_slots == 6).await;
    let mut tokens: Vec<_> = nomad.children().into_iter().map(|child| child.meta["nonce"].clone()).collect();
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 6, "each has a token of its own");
}

#[tokio::test]
async fn nomad_downloads_the_agent_from_the_executor() {
    let nomad = nomad();
    let server = Server::on(&nomad, &[("AGENT", "artifact"), ("START_TIMEOUT", "60s")]);
    works(&server, "a", "1").await;
    let [allocation] = &running(&nomad)[..] else { panic!("{:?}", nomad.allocations()) };
    let task = nomad.alloc_dir().join(&allocation.id).join("sandbox/local/tool-executor");
    assert!(task.is_file(), "{}", task.display());
}

async fn open_in(server: &Server, trajectory: &str, pool: &str) -> Result<Stream, Status> {
    let options = TrajectoryOptions { pool: pool.to_owned(), ..TrajectoryOptions::default() };
    Stream::try_open(server, Open { options: Some(options), ..open(trajectory) }).await
}

#[tokio::test]
async fn pools_have_templates_and_containers_of_their_own() {
    let nomad = nomad();
    // Apart from the state, which no slot sees.
    let (state, place) = (tempfile::TempDir::new().expect("a directory"), shared_place());
    let source = place.path().join("testbed");
    std::fs::create_dir(&source).expect("it can be made");
    std::fs::write(source.join("README"), "of the image").expect("it can be written");
    let file = format!(
        "[pools.swe]\nslots = 2\nmin_containers = 0\nworkspace_source = \"{}\"\n[pools.other]\nmin_containers = 0\n",
        source.display()
    );
    std::fs::write(state.path().join("tool-executor.toml"), file).expect("it can be written");
    let server = Server::on_with(&nomad, state, &[("MIN_CONTAINERS", "0")]);
    let mut stream = open_in(&server, "swe", "swe").await.expect("it opens");
    assert_eq!(stream.bash("1", "cat README; echo changed > README").await.output, "of the image");
    assert_eq!(stream.bash("2", &format!("cat {}/README", source.display())).await.output, "changed");
    assert_eq!(std::fs::read_to_string(source.join("README")).expect("it is there"), "of the image");
    let parents: Vec<_> = nomad.children().into_iter().map(|child| child.parent).collect();
    assert_eq!(parents, ["atropos-sandbox-tool-executor-swe"]);
    // The next one has a fresh copy.
    let mut next = open_in(&server, "next", "swe").await.expect("it opens");
    assert_eq!(next.bash("1", "cat README").await.output, "of the image");
    let error = open_in(&server, "lost", "nowhere").await.map(drop).expect_err("there is no such pool");
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn what_nomad_has_for_its_tasks_is_out_of_a_models_reach() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Where a node of a cluster may well keep it: below a directory that slots see.
    let home = tempfile::TempDir::new_in("/opt").expect("root may write there");
    let place = home.path();
    let nomad = Nomad::start_with(crate::support::nomad::Options { alloc_dir: Some(place.to_owned()), ..quick() });
    let server = Server::on(&nomad, &SINGLE);
    works(&server, "a", "1").await;
    let [allocation] = &running(&nomad)[..] else { panic!("{:?}", nomad.allocations()) };
    let secrets = place.join(&allocation.id).join("sandbox/secrets");
    let _socket = std::os::unix::net::UnixListener::bind(secrets.join("api.sock")).expect("it can be bound");
    let look = format!("ls -A {0}; ls {0}/{1}/sandbox/secrets; ls -d /opt", place.display(), allocation.id);
    let seen = execute(&server, "a", bash("2", &look)).await;
    assert!(seen.output.contains("/opt") && !seen.output.contains("api.sock"), "{}", seen.output);
    assert!(!seen.output.lines().any(|line| line == allocation.id), "{}", seen.output);
}
