//! A certificate's name is a tenant.

use std::fs;

use tempfile::TempDir;
use tonic::{Code, Request};
use tool_executor::pb::toolexecutor::{
    GetStatusRequest, ListTrajectoriesRequest, tool_executor_client::ToolExecutorClient,
};

use super::execute;
use crate::support::{
    authority::{Authority, Identity},
    client::bear,
    server::Server,
};

#[tokio::test]
async fn a_certificate_names_its_holder() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let directory = TempDir::new().expect("a directory");
    let (file, ca) = (directory.path().join("tokens.toml"), theirs.file());
    fs::write(&file, "[trainer]\nlabels = {}\nmax_trajectories = 1\n[red]\ntoken = \"r\"\n").expect("a file");
    let (identity, ca, file) = (ours.server("executor"), ca.display().to_string(), file.display().to_string());
    let more = [("TLS_CLIENT_CA", &*ca), ("TOKENS_FILE", &*file)];
    let server = Server::with(&[identity.settings(), more].concat());
    let client = async |identity: &Identity| {
        let channel = server.private_channel(ours.trusted_by_tonic(Some(identity))).await.expect("it is let in");
        ToolExecutorClient::new(channel)
    };
    let (trainer, other, nameless) =
        (theirs.client(Some("trainer"), &[]), theirs.client(Some("other"), &[]), theirs.client(None, &[]));
    client(&trainer).await.execute(execute("same", "echo hi > file")).await.expect("it runs");
    let answer = client(&other).await.execute(execute("same", "ls")).await.expect("it runs").into_inner();
    assert_eq!(answer.result.expect("a result").output, "", "it is another's");
    let refused = client(&trainer).await.execute(execute("more", "true")).await.expect_err("it has a quota");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    for trajectory in ["more", "and more"].map(|id| id.replace(' ', "-")) {
        client(&other).await.execute(execute(&trajectory, "true")).await.expect("nothing is said of it");
    }
    let listed = client(&trainer).await.list_trajectories(ListTrajectoriesRequest::default()).await;
    assert_eq!(listed.expect("it may ask").into_inner().trajectories.len(), 1);
    let refused = client(&nameless).await.get_status(GetStatusRequest {}).await.expect_err("it has no name");
    assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, "the client's certificate has no name"));
    // The token that is sent counts.
    let mut request = Request::new(ListTrajectoriesRequest::default());
    bear(&mut request, "r");
    let listed = client(&trainer).await.list_trajectories(request).await.expect("it may ask").into_inner();
    assert_eq!(listed.trajectories.len(), 0);
    let mut request = Request::new(GetStatusRequest {});
    bear(&mut request, "x");
    let refused = client(&trainer).await.get_status(request).await.expect_err("it is nobody's");
    assert_eq!(refused.code(), Code::Unauthenticated);
}
