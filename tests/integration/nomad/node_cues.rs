//! Where the stand-in places a child, and what becomes of it when its node goes, returns, is drained or closed.

use std::time::Duration;

use serde_json::{Value, json};

use super::bed::{Bed, events, sleeper};
use crate::support::{
    nomad::{NodeSpec, Nomad},
    process::is_alive,
};

#[tokio::test]
async fn without_room_a_child_waits_until_there_is_some() {
    let bed = Bed::start().await;
    bed.register(&sleeper("pool")).await;
    bed.nomad.no_room(true);
    let answer = bed.try_dispatch("pool", "r1").await.expect("it answers").json();
    let child = answer["DispatchedJobID"].as_str().expect("an ID").to_owned();
    let path = format!("/v1/evaluation/{}", answer["EvalID"].as_str().expect("an ID"));
    let eval = loop {
        let eval = bed.get(&path).await.json();
        if eval["Status"] == "complete" {
            break eval;
        }
    };
    assert_eq!(eval["FailedTGAllocs"]["sandbox"]["DimensionExhausted"], json!({ "memory": 1 }));
    let blocked = format!("/v1/evaluation/{}", eval["BlockedEval"].as_str().expect("there is one"));
    assert_eq!(bed.get(&blocked).await.json()["Status"], "blocked");
    assert!(bed.nomad.allocations().is_empty());
    bed.nomad.no_room(false);
    bed.until_status(&child, "running").await;
    assert_eq!(bed.get(&blocked).await.json()["Status"], "complete");
    assert_eq!(bed.get(&path).await.json(), eval, "the first evaluation never changes");
    bed.nomad.no_room(true);
    let answer = bed.try_dispatch("pool", "r2").await.expect("it answers").json();
    let child = answer["DispatchedJobID"].as_str().expect("an ID").to_owned();
    bed.delete(&format!("/v1/job/{child}")).await;
    bed.nomad.no_room(false);
    let dead = async || bed.get(&format!("/v1/job/{child}")).await.json()["Status"] == "dead";
    while !dead().await {}
    assert_eq!(bed.nomad.allocations().len(), 1, "what was stopped is not placed");
}

#[tokio::test]
async fn a_child_goes_where_its_job_allows() {
    let nodes = vec![
        NodeSpec { class: "small".into(), memory_mb: 50, ..NodeSpec::named("one") },
        NodeSpec { class: "big".into(), drivers: vec!["docker".into()], ..NodeSpec::named("two") },
    ];
    let bed = Bed::with(|options| options.nodes = nodes).await;
    let failed = async |job: &Value, run: &str| {
        bed.register(job).await;
        let answer = bed.try_dispatch(job["ID"].as_str().expect("it has an ID"), run).await.expect("it answers").json();
        let path = format!("/v1/evaluation/{}", answer["EvalID"].as_str().expect("an ID"));
        loop {
            let eval = bed.get(&path).await.json();
            if eval["Status"] == "complete" {
                break eval["FailedTGAllocs"]["sandbox"].clone();
            }
        }
    };
    assert!(failed(&sleeper("pool"), "r1").await.is_null());
    assert_eq!(bed.nomad.allocations()[0].node, "one");
    let full = failed(&sleeper("pool"), "r2").await;
    assert_eq!(full["DimensionExhausted"], json!({ "memory": 1 }));
    assert_eq!(full["ConstraintFiltered"], json!({ "missing drivers": 1 }));
    let mut big = sleeper("big");
    big["Constraints"] = json!([{ "LTarget": "${node.class}", "RTarget": "huge", "Operand": "=" }]);
    let filtered = failed(&big, "r3").await;
    assert_eq!(filtered["ConstraintFiltered"], json!({ "${node.class} = huge": 2 }));
    let mut elsewhere = sleeper("elsewhere");
    elsewhere["Datacenters"] = json!(["dc9"]);
    assert_eq!(failed(&elsewhere, "r4").await["NodesEvaluated"], 0);
}

#[tokio::test]
async fn a_lost_node_returns() {
    let bed = Bed::start().await;
    let mut kept = sleeper("kept");
    kept["TaskGroups"][0]["Disconnect"] = json!({ "LostAfter": 86_400_000_000_000_u64, "Replace": false });
    bed.register(&kept).await;
    bed.register(&sleeper("plain")).await;
    let (kept, given_up) = (bed.dispatch("kept", "r1").await, bed.dispatch("kept", "r2").await);
    let plain = bed.dispatch("plain", "r3").await;
    for child in [&kept, &given_up, &plain] {
        bed.until_status(child, "running").await;
    }
    let of =
        |child: &str| bed.nomad.allocations().into_iter().find(|alloc| alloc.job_id == child).expect("it is there");
    let before = [&kept, &given_up, &plain].map(|child| of(child));
    let [kept_pid, given_up_pid, plain_pid] = before.map(|alloc| alloc.pid.expect("it runs"));
    bed.nomad.lose_node("client-1");
    let states = [&kept, &given_up, &plain].map(|child| (of(child).client_status, of(child).desired));
    let is = |client: &str, desired: &str| (client.to_owned(), desired.to_owned());
    assert_eq!(states, [is("unknown", "run"), is("unknown", "run"), is("lost", "stop")]);
    let logs = format!("/v1/client/fs/logs/{}?task=sandbox&type=stderr", of(&kept).id);
    assert_eq!(bed.get(&logs).await.text(), "No path to node");
    bed.delete(&format!("/v1/job/{given_up}")).await;
    bed.nomad.until("it is wished away", |_| of(&given_up).desired == "stop").await;
    assert!([kept_pid, given_up_pid, plain_pid].into_iter().all(is_alive));
    bed.nomad.return_node("client-1");
    bed.until_status(&kept, "running").await;
    assert_eq!(events(&bed.allocation(&of(&kept).id).await).last().expect("it has events").0, "Reconnected");
    bed.nomad.until("the others are killed", |_| !is_alive(given_up_pid) && !is_alive(plain_pid)).await;
    bed.until_status(&plain, "complete").await;
    assert!(is_alive(kept_pid));
    let replaced = |nomad: &Nomad| {
        nomad.allocations().iter().filter(|alloc| alloc.job_id == plain && alloc.client_status == "running").count()
            == 1
    };
    bed.nomad.until("the lost one is replaced", replaced).await;
}

#[tokio::test]
async fn a_disconnected_child_is_lost_after_its_time() {
    let bed = Bed::start().await;
    let mut job = sleeper("pool");
    job["TaskGroups"][0]["Disconnect"] = json!({ "LostAfter": 200_000_000, "Replace": false });
    bed.register(&job).await;
    let child = bed.dispatch("pool", "r1").await;
    bed.until_status(&child, "running").await;
    bed.nomad.lose_node("client-1");
    assert_eq!(bed.nomad.allocations()[0].client_status, "unknown");
    bed.until_status(&child, "lost").await;
    let blocked = bed.get(&format!("/v1/job/{child}/evaluations")).await.json();
    let statuses: Vec<&Value> = blocked.as_array().expect("a list").iter().map(|eval| &eval["Status"]).collect();
    assert!(statuses.contains(&&json!("blocked")), "another one waits for a node: {statuses:?}");
    bed.delete(&format!("/v1/job/{child}")).await;
    let is_canceled = async || {
        let evals = bed.get(&format!("/v1/job/{child}/evaluations")).await.json();
        evals.as_array().expect("a list").iter().any(|eval| eval["Status"] == "canceled")
    };
    while !is_canceled().await {}
    bed.nomad.return_node("client-1");
    bed.until_status(&child, "complete").await;
    assert_eq!(bed.nomad.allocations().len(), 1);
}

#[tokio::test]
async fn a_lost_child_is_replaced_where_there_is_room() {
    let nodes = vec![NodeSpec::named("one"), NodeSpec::named("two")];
    let bed = Bed::with(|options| options.nodes = nodes).await;
    let (child, alloc) = bed.run_one().await;
    let node = bed.nomad.allocations()[0].node.clone();
    bed.nomad.lose_node(&node);
    bed.nomad.until("it is replaced", |nomad| nomad.allocations().len() == 2).await;
    let other = bed.nomad.allocations().remove(1);
    assert_eq!(other.job_id, child);
    assert_ne!((&other.node, &other.id), (&node, &alloc));
}

#[tokio::test]
async fn a_node_is_drained_and_closed() {
    let bed = Bed::start().await;
    let (child, alloc) = bed.run_one().await;
    bed.nomad.drain_node("client-1", Duration::from_millis(200));
    let node = bed.get("/v1/nodes").await.json()[0].clone();
    assert_eq!((&node["Drain"], &node["SchedulingEligibility"]), (&json!(true), &json!("ineligible")));
    assert_eq!(bed.allocation(&alloc).await["DesiredStatus"], "run", "nothing is told before the deadline");
    bed.until_status(&child, "complete").await;
    let ended = bed.allocation(&alloc).await;
    assert_eq!(ended["DesiredTransition"]["MigrateDisablePlacement"], true);
    assert_eq!(ended["DesiredDescription"], "alloc is being migrated");
    let next = bed.dispatch("pool", "next").await;
    bed.nomad.set_eligible("client-1", true);
    bed.until_status(&next, "running").await;
    assert_eq!(bed.nomad.allocations().len(), 2, "the drained one has no successor");
}
