//! What becomes of the stand-in's tasks: failures to start, ends of all kinds, and the end of a test.

use std::{path::PathBuf, time::Duration};

use rustix::process::Signal;
use serde_json::json;

use super::bed::{Bed, Stream, events, job, sleeper};
use crate::support::{nomad::TaskFailure, process::is_alive};

#[tokio::test]
async fn a_task_that_cannot_start_tells_its_cause_early_and_fails_late() {
    let bed = Bed::with(|options| options.failed_after = Duration::from_millis(300)).await;
    bed.register(&sleeper("pool")).await;
    for (run, failure, kind, detail, text) in [
        ("driver", TaskFailure::DriverFailure("no".into()), "Driver Failure", "driver_error", "no"),
        ("image", TaskFailure::ImagePull("denied".into()), "Driver Failure", "driver_error", "Failed to pull `image`"),
        (
            "artifact",
            TaskFailure::ArtifactDownload("gone".into()),
            "Failed Artifact Download",
            "download_error",
            "gone",
        ),
        ("user", TaskFailure::BadUser("none".into()), "Driver Failure", "driver_error", "unknown user none"),
        ("config", TaskFailure::Validation, "Failed Validation", "validation_error", "failed to parse config"),
    ] {
        bed.nomad.fail_next_task(failure, Some(1));
        let mut stream = Stream::open(&bed, "topic=Allocation:*&index=1000000").await;
        let child = bed.dispatch("pool", run).await;
        let early =
            stream.allocation(|event, alloc| event["Type"] != "PlanResult" && alloc["JobID"] == json!(child)).await;
        assert_eq!(early["ClientStatus"], "pending");
        assert_eq!(events(&early).last().map(|(kind, _)| kind.clone()).as_deref(), Some(kind));
        let failed = stream.allocation(|_, alloc| alloc["ClientStatus"] == "failed").await;
        let events = events(&failed);
        let [.., (cause, details), (last, _)] = &*events else { panic!("{events:?}") };
        assert_eq!((&**cause, &**last), (kind, "Not Restarting"));
        assert!(details[detail].as_str().is_some_and(|found| found.contains(text)), "{details}");
        let path = format!("/v1/client/fs/logs/{}?task=sandbox&type=stderr", failed["ID"].as_str().expect("an ID"));
        assert_eq!(bed.get(&path).await.text(), "task \"sandbox\" not started yet. No logs available");
    }
    bed.nomad.fail_next_task(TaskFailure::DriverFailure("no".into()), None);
    bed.nomad.heal_tasks();
    let child = bed.dispatch("pool", "good").await;
    bed.until_status(&child, "running").await;
}

#[tokio::test]
async fn a_task_ends_by_itself_and_by_force() {
    let bed = Bed::start().await;
    for (name, script, status, code) in [("good", "exit 0", "complete", "0"), ("bad", "exit 3", "failed", "3")] {
        bed.register(&job(name, script)).await;
        let child = bed.dispatch(name, "r").await;
        bed.until_status(&child, status).await;
        let alloc = bed.nomad.allocations().into_iter().find(|alloc| alloc.job_id == child).expect("it is there");
        let events = events(&bed.allocation(&alloc.id).await);
        assert_eq!(events[3].1["exit_code"], code);
        assert_eq!(events.len(), if code == "0" { 4 } else { 5 });
        assert_eq!(bed.get(&format!("/v1/job/{child}")).await.json()["Status"], "dead");
    }
    let (child, alloc) = bed.run_one().await;
    bed.nomad.kill_task(&alloc, Signal::KILL);
    bed.until_status(&child, "failed").await;
    let details = events(&bed.allocation(&alloc).await)[3].1.clone();
    assert_eq!((&details["exit_code"], &details["signal"]), (&json!("137"), &json!("9")));
    let child = bed.dispatch("pool", "oom").await;
    bed.until_status(&child, "running").await;
    let alloc = bed.nomad.allocations().into_iter().find(|alloc| alloc.job_id == child).expect("it is there");
    bed.nomad.oom_kill(&alloc.id);
    bed.until_status(&child, "failed").await;
    let details = events(&bed.allocation(&alloc.id).await)[3].1.clone();
    assert_eq!((&details["oom_killed"], &details["exit_message"]), (&json!("true"), &json!("OOM Killed")));
}

#[tokio::test]
async fn a_missing_program_and_an_ignored_signal_are_told() {
    let bed = Bed::start().await;
    let mut missing = sleeper("missing");
    missing["TaskGroups"][0]["Tasks"][0]["Config"]["command"] = json!("/no/such/binary");
    bed.register(&missing).await;
    let child = bed.dispatch("missing", "r").await;
    bed.until_status(&child, "failed").await;
    let cause = events(&bed.allocation(&bed.nomad.allocations()[0].id).await)[2].1["driver_error"].clone();
    let text = "failed to launch command with executor: rpc error: code = Unknown desc = binary \"/no/such/binary\" \
                could not be found";
    assert_eq!(cause, text);
    let mut stubborn = job("stubborn", "trap '' INT; while :; do sleep 0.05; done");
    stubborn["TaskGroups"][0]["Tasks"][0]["KillTimeout"] = json!(200_000_000);
    bed.register(&stubborn).await;
    let child = bed.dispatch("stubborn", "r").await;
    bed.until_status(&child, "running").await;
    bed.delete(&format!("/v1/job/{child}")).await;
    bed.until_status(&child, "complete").await;
    let alloc = bed.nomad.allocations().into_iter().find(|alloc| alloc.job_id == child).expect("it is there");
    let events = events(&bed.allocation(&alloc.id).await);
    assert_eq!(events[3].1["kill_timeout"], "200ms");
    assert_eq!(events[4].1["signal"], "9");
}

#[tokio::test]
async fn artifacts_are_fetched_and_checked() {
    let bed = Bed::with(|options| options.failed_after = Duration::from_millis(50)).await;
    // A file that an HTTP server has: the stand-in's own answer.
    let source = format!("{}/v1/status/leader", bed.nomad.address());
    // Of `"127.0.0.1:4647"`, with the quotes.
    let good = "sha256:".to_owned() + GOOD;
    let artifact = |checksum: &str| {
        let mut job = job("pool", "wc -c < local/agent; test -x local/agent && echo x; exec sleep 60");
        job["TaskGroups"][0]["Tasks"][0]["Artifacts"] = json!([{
            "GetterSource": source, "GetterMode": "file", "RelativeDest": "local/agent",
            "GetterOptions": { "checksum": checksum },
        }]);
        job
    };
    bed.register(&artifact(&good)).await;
    let child = bed.dispatch("pool", "good").await;
    bed.until_status(&child, "running").await;
    let alloc = bed.nomad.allocations().remove(0);
    let path = format!("/v1/client/fs/logs/{}?task=sandbox&type=stdout&plain=true", alloc.id);
    assert_eq!(bed.get(&path).await.text(), "16\nx\n");
    bed.register(&artifact(&format!("sha256:{:064}", 0))).await;
    let child = bed.dispatch("pool", "bad").await;
    bed.until_status(&child, "failed").await;
    let alloc = bed.nomad.allocations().remove(1);
    let events = events(&bed.allocation(&alloc.id).await);
    let text = events[3].1["download_error"].as_str().expect("it says why");
    assert!(text.starts_with(&format!("failed to download artifact \"{source}\": getter subprocess failed")), "{text}");
    assert!(text.contains("Checksums did not match for") && text.ends_with("*sha256.Digest"), "{text}");
}

const GOOD: &str = "d995d85fda76f0b4b973e8f9c7ca2305a58359868af006101c183e9e26bf6a73";

#[tokio::test]
async fn an_allocation_is_stopped_by_hand_and_preempted() {
    let bed = Bed::start().await;
    let (_, alloc) = bed.run_one().await;
    bed.nomad.stop_allocation(&alloc);
    let stopped = bed.allocation(&alloc).await;
    assert_eq!((&stopped["DesiredStatus"], &stopped["DesiredTransition"]["Migrate"]), (&json!("stop"), &json!(true)));
    let next = stopped["NextAllocation"].as_str().expect("it has a successor").to_owned();
    assert_eq!(bed.allocation(&next).await["PreviousAllocation"], json!(alloc));
    bed.nomad.until("it runs", |nomad| nomad.allocations()[1].client_status == "running").await;
    bed.nomad.preempt(&next);
    let evicted = bed.allocation(&next).await;
    assert_eq!(evicted["DesiredStatus"], "evict");
    assert!(evicted["DesiredDescription"].as_str().is_some_and(|text| text.starts_with("Preempted by alloc ID ")));
    bed.nomad.until("it has ended", |nomad| nomad.allocations()[1].client_status == "complete").await;
}

#[tokio::test]
async fn nothing_is_left_of_it() {
    let bed = Bed::start().await;
    let script = "trap '' INT TERM; setsid sleep 1000 & echo $! > local/pid; while :; do sleep 0.05; done";
    let mut container = job("pool", script);
    container["TaskGroups"][0]["Tasks"][0]["Driver"] = json!("docker");
    container["TaskGroups"][0]["Networks"][0]["DynamicPorts"][0]["To"] = json!(7000);
    bed.register(&container).await;
    let child = bed.dispatch("pool", "r").await;
    bed.until_status(&child, "running").await;
    let alloc = bed.nomad.allocations().remove(0);
    assert_eq!(bed.allocation(&alloc.id).await["AllocatedResources"]["Shared"]["Ports"][0]["To"], 7000);
    let directory: PathBuf = bed.nomad.alloc_dir().to_owned();
    let text = std::fs::read_to_string(directory.join(&alloc.id).join("sandbox/local/pid")).expect("it has written");
    let detached: u32 = text.trim().parse().expect("it is a number");
    assert!(is_alive(detached));
    let panicked = tokio::spawn(async move {
        let _bed = bed;
        panic!("a test that fails");
    });
    assert!(panicked.await.is_err());
    assert!(!is_alive(alloc.pid.expect("it ran")) && !is_alive(detached));
    assert!(!directory.exists());
}
