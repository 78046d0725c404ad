//! An executor that starts without the journal of the one before it, or with all of it.

use std::time::Duration;

use rustix::process::Signal;
use tonic::Code;
use tool_executor::pb::toolexecutor::{
    ExecuteRequest, Executed, Open, Outcome, Reason, ReleaseRequest, TrajectoryOptions,
};

use crate::support::{
    client::{Stream, bash, execute, open, seconds, try_execute, until_forgotten},
    server::Server,
};

/// Whoever comes next knows of a trajectory only what its slot's agent says.
#[tokio::test]
async fn with_the_journal_lost_nothing_goes_on_in_an_empty_workspace() {
    for journal in ["file", "memory"] {
        let mut server = Server::with(&[("JOURNAL", journal), ("SLOTS", "8"), ("MAX_CONTAINERS", "1")]);
        for id in ["unary", "streamed", "begun-anew", "kept", "released"] {
            assert!(execute(&server, id, bash("before", "touch file")).await.success);
        }
        let mut client = server.client().await;
        for (id, keep_workspace) in [("kept", true), ("released", false)] {
            client.release(ReleaseRequest { trajectory_id: id.to_owned(), keep_workspace }).await.expect("it releases");
        }
        let agents = server.agents();
        server.signal(Signal::KILL);
        server.wait();
        if journal == "file" {
            std::fs::remove_dir_all(server.state.path().join("journal")).expect("it is there");
        }
        server.start_again();
        assert_eq!(server.agents(), agents, "they are taken over");

        // The second executor has written down what it has found, if it could.
        for again in [false, true] {
            if again && journal == "file" {
                server.kill_and_start_again();
            }
            for id in ["unary", "streamed", "begun-anew", "kept"] {
                let refused = execute(&server, id, bash("after", "ls")).await;
                assert_eq!((refused.outcome(), refused.reason()), (Outcome::SandboxLost, Reason::WorkspaceGone));
                assert_eq!((refused.executed(), refused.sequence, refused.generation), (Executed::No, 0, 1));
            }
        }
        let must_exist = Open { last_sequence: 1, ..open("streamed") };
        let Err(refused) = Stream::try_open(&server, must_exist).await else { panic!("its results are lost") };
        assert_eq!(refused.code(), Code::NotFound);
        let mut anew = Stream::open(&server, "begun-anew").await;
        assert!(!anew.opened.resumed);
        assert_eq!(anew.bash("before", "ls").await.output, "");
        let mut client = server.client().await;
        for id in ["unary", "kept"] {
            let release = ReleaseRequest { trajectory_id: id.to_owned(), keep_workspace: false };
            client.release(release).await.expect("it releases");
            let next = execute(&server, id, bash("before", "ls")).await;
            assert_eq!((next.success, &*next.output, next.generation), (true, "", 2), "{next:?}");
        }
        // Nothing of it was left, and its client has been told so.
        assert_eq!(execute(&server, "released", bash("after", "ls")).await.output, "");
    }
}

/// What was found out about a lost journal outlives whoever finds it out, or it is found out again.
#[tokio::test]
async fn a_journal_that_is_lost_is_lost_once() {
    let mut server = Server::with(&[("SLOTS", "20"), ("MAX_CONTAINERS", "1")]);
    let ids: Vec<String> = (0..20).map(|index| format!("t{index}")).collect();
    for (round, wait) in [0, 2, 5, 10, 20, 40].into_iter().enumerate() {
        for id in &ids {
            let made = execute(&server, id, bash(&format!("before{round}"), "touch file")).await;
            assert!(made.success, "{made:?}");
        }
        server.signal(Signal::KILL);
        server.wait();
        std::fs::remove_dir_all(server.state.path().join("journal")).expect("it is there");
        server.start_again();
        tokio::time::sleep(Duration::from_millis(wait)).await;
        server.kill_and_start_again();
        let mut client = server.client().await;
        for id in &ids {
            let refused = execute(&server, id, bash(&format!("after{round}"), "ls")).await;
            assert_eq!(refused.reason(), Reason::WorkspaceGone, "{wait} ms: {id}: {refused:?}");
            let release = ReleaseRequest { trajectory_id: id.clone(), keep_workspace: false };
            client.release(release).await.expect("it releases");
        }
    }
}

/// Who has let go of his workspace has lost nothing with it.
#[tokio::test]
async fn a_kept_workspace_whose_owner_is_forgotten_is_no_loss() {
    let mut server = Server::start();
    let options = TrajectoryOptions { lease: seconds(1), ..TrajectoryOptions::default() };
    let request = |id: &str| ExecuteRequest {
        trajectory_id: "kept".to_owned(),
        call: Some(bash(id, "touch file")),
        options: Some(options.clone()),
        ..ExecuteRequest::default()
    };
    assert!(try_execute(&server, request("before")).await.expect("an answer").success);
    let release = ReleaseRequest { trajectory_id: "kept".to_owned(), keep_workspace: true };
    server.client().await.release(release).await.expect("it releases");
    until_forgotten(&server, "kept", bash("before", "touch file")).await;
    server.kill_and_start_again();
    let after = try_execute(&server, request("before")).await.expect("an answer");
    assert!(after.success && !after.replayed, "{after:?}");
}
