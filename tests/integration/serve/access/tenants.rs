//! Two tenants never meet, whatever names they use.

use serde_json::json;
use tonic::Code;
use tool_executor::pb::toolexecutor::{
    CancelTrajectoriesRequest, ListArtifactsRequest, ListToolsRequest, Open, ReadArtifactRequest, ReleaseRequest,
};

use super::{Guarded, labelled};
use crate::support::{
    client::{bash, open, tool},
    http::Request as Http,
    tool_server::ToolServer,
};

const TWO: &str = "[red]\ntoken = \"red-token\"\n[blue]\ntoken = \"blue-token\"\n";
/// The service's own, beside them.
const OWN: (&str, &str) = ("TOKEN", "own-token");

#[tokio::test]
async fn the_same_name_is_another_trajectory() {
    let guarded = Guarded::with(TWO, &[OWN]);
    let opened = Open { options: labelled(&[("run", "1")]), ..open("same") };
    let mut red = guarded.open("red-token", opened.clone()).await.expect("it opens");
    assert_eq!(red.bash("a", "echo red > file; echo red").await.output, "red");
    let mut blue = guarded.open("blue-token", opened).await.expect("nobody is attached to its own");
    assert!(!blue.opened.resumed);
    let own = guarded.execute("own-token", "same", "ls").await.expect("it answers");
    assert_eq!((&*blue.bash("a", "ls").await.output, &*own.output), ("", ""), "the same call of another is another");

    for (token, trajectories) in [("red-token", 1), ("blue-token", 1), ("own-token", 3)] {
        let status = guarded.status(token).await;
        assert_eq!((status.trajectories, status.total_requests), (trajectories, u64::from(trajectories)), "{token}");
        assert_eq!(guarded.list(token).await, ["same"], "{token}");
    }
    let cancel = CancelTrajectoriesRequest { labels: [("run".into(), "1".into())].into(), release: true };
    let cancelled = guarded
        .ask("blue-token", cancel, async |mut client, request| client.cancel_trajectories(request).await)
        .await
        .expect("it may");
    assert_eq!(cancelled.trajectories, 1, "its own");
    assert_eq!(red.bash("b", "cat file").await.output, "red");
    let release = ReleaseRequest { trajectory_id: "same".to_owned(), ..ReleaseRequest::default() };
    guarded.ask("own-token", release, async |mut client, request| client.release(request).await).await.expect("it may");
    assert_eq!(red.bash("c", "cat file").await.output, "red");
    assert_eq!(guarded.list("own-token").await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_not_ones_own_is_not_there() {
    let guarded = Guarded::with(TWO, &[]);
    guarded.execute("red-token", "secret", "echo red > file").await.expect("it runs");
    let must_exist = Open { require_existing: true, take_over: true, ..open("secret") };
    let refused = guarded.open("blue-token", must_exist).await.err().expect("it is refused");
    assert_eq!(refused.code(), Code::NotFound);
    let read = ReadArtifactRequest { trajectory_id: "secret".into(), path: "file".into(), ..Default::default() };
    let refused =
        guarded.ask("blue-token", read.clone(), async |mut client, request| client.read_artifact(request).await);
    assert_eq!(refused.await.expect_err("it is refused").code(), Code::NotFound);
    guarded
        .ask("red-token", read, async |mut client, request| client.read_artifact(request).await)
        .await
        .expect("its own is there");
    let list = ListArtifactsRequest { trajectory_id: "secret".into(), ..Default::default() };
    let refused = guarded.ask("blue-token", list, async |mut client, request| client.list_artifacts(request).await);
    assert_eq!(refused.await.expect_err("it is refused").code(), Code::NotFound);

    // Files that are kept are kept for their owner alone.
    let release = ReleaseRequest { trajectory_id: "secret".into(), keep_workspace: true };
    guarded.ask("red-token", release, async |mut client, request| client.release(request).await).await.expect("it may");
    assert_eq!(guarded.execute("blue-token", "secret", "ls").await.expect("it runs").output, "");
    assert_eq!(guarded.execute("red-token", "secret", "cat file").await.expect("it runs").output, "red");
}

#[tokio::test]
async fn a_restart_finds_each_its_own() {
    let mut guarded = Guarded::with(TWO, &[]);
    for token in ["red-token", "blue-token"] {
        guarded.execute(token, "same", &format!("echo {token} > file")).await.expect("it runs");
    }
    guarded.server.kill_and_start_again();
    for token in ["red-token", "blue-token"] {
        assert_eq!(guarded.execute(token, "same", "cat file").await.expect("it runs").output, token);
        assert_eq!(guarded.list(token).await, ["same"]);
    }
}

#[tokio::test]
async fn the_old_api_has_tenants_too() {
    let guarded = Guarded::with(TWO, &[]);
    let address = &guarded.server.address;
    let run = async |token: &str, id: &str, command: &str| {
        let answer = bear(Http::execute(address, "t", id, command), token).send().await;
        answer.done()["output"].as_str().expect("text").to_owned()
    };
    assert_eq!(run("red-token", "u", "echo red > file; ls").await, "file");
    assert_eq!(run("blue-token", "u", "echo red > file; ls").await, "file", "it is run, and not answered from memory");
    assert_eq!(run("blue-token", "v", "echo blue > file").await, "");
    let read = json!({"trajectory_id": "t", "path": "file"});
    let content = async |token: &str| {
        bear(Http::post(address, "/artifacts/read", &read), token).send().await.done()["content"].clone()
    };
    assert_eq!((content("red-token").await, content("blue-token").await), (json!("red\n"), json!("blue\n")));
    let release = json!({"trajectory_id": "t", "reset_workspace": true});
    bear(Http::post(address, "/release", &release), "blue-token").send().await.done();
    assert_eq!(content("red-token").await, json!("red\n"));
    for (token, requests) in [("red-token", 1), ("blue-token", 2)] {
        let status = bear(Http::get(address, "/status"), token).send().await.done();
        assert_eq!(status["total_requests"], requests, "{token}");
    }
}

#[tokio::test]
async fn what_runs_elsewhere_is_told_whose_it_is() {
    let elsewhere = ToolServer::start();
    let guarded = Guarded::with(TWO, &[OWN, ("TOOL_SERVER_URL", &elsewhere.url())]);
    for token in ["red-token", "blue-token", "own-token"] {
        let request = tool_executor::pb::toolexecutor::ExecuteRequest {
            trajectory_id: "same".into(),
            call: Some(tool("a", "echo", json!({"text": token}))),
            ..Default::default()
        };
        let answer = guarded.ask(token, request, async |mut client, request| client.execute(request).await).await;
        assert!(answer.expect("it answers").result.expect("a result").success);
    }
    let bodies = elsewhere.seen.bodies.lock().expect("whole");
    let told: Vec<_> = bodies.iter().map(|body| body["trajectory_id"].as_str().expect("text")).collect();
    assert_eq!(told, ["red#same", "blue#same", "same"]);
}

#[tokio::test]
async fn who_is_unknown_gets_nowhere() {
    let guarded = Guarded::with("[red]\ntoken = [\"red-token\", \"other-token\"]\n", &[]);
    for token in ["red-token", "other-token"] {
        assert_eq!(guarded.execute(token, "t", "echo hi").await.expect("it runs").output, "hi");
    }
    for token in ["red", "Red-token", "red-token2", "red-token red-token", ""] {
        let refused = guarded.execute(token, "t", "true").await.expect_err("it is refused");
        assert_eq!(refused.code(), Code::Unauthenticated, "{token}");
        let tools = ListToolsRequest::default();
        let refused = guarded.ask(token, tools, async |mut client, request| client.list_tools(request).await).await;
        assert_eq!(refused.expect_err("it is refused").code(), Code::Unauthenticated, "{token}");
    }
    let bare = guarded.server.client().await.execute(super::execute("t", "true")).await;
    assert_eq!(bare.expect_err("it is refused").code(), Code::Unauthenticated);
    let answer = Http::execute(&guarded.server.address, "t", "u", "true").send().await;
    assert_eq!((answer.status, answer.json()), (401, json!({"detail": "Missing Authorization header"})));
    let wrong =
        Http::execute(&guarded.server.address, "t", "u", "true").header("Authorization", "Bearer x").send().await;
    assert_eq!((wrong.status, wrong.json()), (403, json!({"detail": "Invalid token"})));
}

#[tokio::test]
async fn labels_are_those_that_a_tenant_may_use() {
    let guarded = Guarded::with(
        "[red]\ntoken = \"r\"\nlabels = { team = [\"red\", \"rot\"], run = \"*\" }\n[blue]\ntoken = \"b\"\n",
        &[],
    );
    let with = |labels: &[(&str, &str)]| Open { options: labelled(labels), ..open("labelled") };
    let refused = guarded.open("r", with(&[("team", "blue"), ("run", "7")])).await.err().expect("it is refused");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::PermissionDenied, "the label team=blue is not one that red may use")
    );
    let request = tool_executor::pb::toolexecutor::ExecuteRequest {
        trajectory_id: "labelled".into(),
        call: Some(bash("a", "true")),
        options: labelled(&[("other", "x")]),
        ..Default::default()
    };
    let refused = guarded.ask("r", request, async |mut client, request| client.execute(request).await).await;
    assert_eq!(refused.expect_err("it is refused").code(), Code::PermissionDenied);
    assert_eq!(guarded.list("r").await, Vec::<String>::new(), "nothing came of it");
    assert!(guarded.open("r", with(&[("team", "rot"), ("run", "7")])).await.is_ok());
    assert!(guarded.open("b", with(&[("team", "red"), ("any", "x")])).await.is_ok());
}

fn bear<'a>(request: Http<'a>, token: &str) -> Http<'a> {
    request.header("Authorization", &format!("Bearer {token}"))
}
