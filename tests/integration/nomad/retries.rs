//! What is tried again and what is not, and what bounds a call.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    time::Instant,
};
use tool_executor::backend::{
    Token,
    nomad::api::{Address, ApiError, Client, ClientConfig, Dispatch, Dispatched, HttpAuth},
};

use super::player::{Answer, Player, TIMEOUT};

/// Tries of a call, the first among them.
const TRIES: usize = 3;

async fn dispatch(client: &Client) -> Result<Dispatched, ApiError> {
    client.dispatch("pool", &Dispatch { payload: b"", meta: &BTreeMap::new(), idempotency_token: "t" }).await
}

/// A server that reads a request, answers with these bytes, and hangs up.
struct Rude {
    client: Client,
    requests: Arc<AtomicUsize>,
    directory: TempDir,
}

impl Rude {
    fn new(answer: &'static [u8]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("nomad.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let requests = Arc::<AtomicUsize>::default();
        let count = requests.clone();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    connection.read_buf(&mut request).await.expect("a request");
                }
                count.fetch_add(1, Ordering::Relaxed);
                connection.write_all(answer).await.expect("an answer");
            }
        });
        let client = Client::new(&ClientConfig::new(Address::Unix(socket), TIMEOUT)).expect("a client");
        Self { client, requests, directory }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_is_tried_again() {
    let player = Player::new();
    let no_leader = || Answer::new(500, "No cluster leader");
    let began = Instant::now();
    let client = player.answer([no_leader(), no_leader(), Answer::new(200, "\"127.0.0.1:4647\"")]);
    assert_eq!(client.leader().await.as_deref(), Ok("127.0.0.1:4647"));
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    let client = player.answer([no_leader()]);
    assert!(client.stop_job("x", false).await.is_err());
    assert_eq!(player.seen().len(), TRIES);
}

#[tokio::test(start_paused = true)]
async fn a_dispatch_is_tried_once() {
    let player = Player::new();
    for text in ["No cluster leader", "rpc error: EOF", "leadership lost while committing log"] {
        let error = dispatch(player.answer([Answer::new(500, text)])).await.expect_err("an error");
        assert!(matches!(&error, ApiError::Retryable { .. }), "{error:?}");
        assert_eq!(player.seen().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_comparison_is_not_made_against_itself() {
    let player = Player::new();
    let job = json!({});
    let doubtful = || Answer::new(500, "rpc error: EOF");
    let error = player.answer([doubtful()]).register(&job, Some(0)).await.expect_err("an error");
    assert!(error.may_have_applied());
    assert_eq!(player.seen().len(), 1);
    // The same spec twice is harmless, and it remains in doubt.
    let client = player.answer([doubtful(), Answer::new(500, "No cluster leader")]);
    let error = client.register(&job, None).await.expect_err("an error");
    assert!(error.may_have_applied());
    assert_eq!(player.seen().len(), TRIES);
}

#[tokio::test(start_paused = true)]
async fn a_call_has_one_time_for_all_its_tries() {
    let player = Player::new();
    let began = Instant::now();
    let error = player.answer([Answer::Never]).leader().await.expect_err("an error");
    assert_eq!(error, ApiError::TimedOut { call: "GET /v1/status/leader", after: TIMEOUT, may_have_applied: false });
    assert_eq!((began.elapsed().as_secs(), player.seen().len()), (TIMEOUT.as_secs(), 1));
    // What the first try said is told, rather than that the second was cut off.
    let error = player.answer([Answer::new(500, "No cluster leader"), Answer::Never]).leader().await;
    assert!(matches!(&error, Err(ApiError::Retryable { text, .. }) if text == "No cluster leader"), "{error:?}");
    // A blocking query takes as much longer as it waits; Nomad adds a sixteenth.
    let began = Instant::now();
    let waited = player.answer([Answer::Never]).wait_allocations("", 7, Duration::from_secs(160)).await;
    assert!(matches!(waited, Err(ApiError::TimedOut { .. })), "{waited:?}");
    assert_eq!(began.elapsed().as_secs(), 170 + TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn files_16_and_17_nobody_listens() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = ClientConfig::new(Address::Unix(directory.path().join("none.sock")), TIMEOUT);
    let client = Client::new(&config).expect("a client");
    let error = dispatch(&client).await.expect_err("an error");
    assert!(matches!(&error, ApiError::Unreachable { .. }), "{error:?}");
    assert!(!error.may_have_applied());
    let began = Instant::now();
    let error = client.leader().await.expect_err("an error");
    assert!(matches!(&error, ApiError::Unreachable { .. }), "{error:?}");
    assert!(began.elapsed() >= Duration::from_millis(600));
}

#[tokio::test(start_paused = true)]
async fn file_17_a_connection_is_cut() {
    let rude = Rude::new(b"");
    let error = dispatch(&rude.client).await.expect_err("an error");
    assert!(matches!(&error, ApiError::Retryable { may_have_applied: true, .. }), "{error:?}");
    assert_eq!(rude.requests(), 1);
    let waited = rude.client.wait_allocations("", 7, Duration::from_secs(60)).await;
    assert!(matches!(&waited, Err(ApiError::Retryable { may_have_applied: false, .. })), "{waited:?}");
    assert_eq!(rude.requests(), 2);
    assert!(rude.client.leader().await.is_err());
    assert_eq!(rude.requests(), 2 + TRIES);
    // One that reads half a request may have applied it, even if nobody listens the next time.
    let (error, ()) = tokio::join!(rude.client.stop_job("x", false), async {
        while rude.requests() == 2 + TRIES {
            tokio::task::yield_now().await;
        }
        std::fs::remove_file(rude.directory.path().join("nomad.sock")).expect("a socket");
    });
    assert!(matches!(&error, Err(ApiError::Retryable { may_have_applied: true, .. })), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_cut_is_none() {
    let rude = Rude::new(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"DispatchedJobID\":\"p/dispatch-1\"");
    let error = dispatch(&rude.client).await.expect_err("an error");
    assert!(matches!(&error, ApiError::Malformed { .. }), "{error:?}");
    assert!(error.may_have_applied());
    assert_eq!(rude.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_has_a_bound() {
    let player = Player::new();
    let error = player.answer([Answer::new(200, &" ".repeat((64 << 20) + 1))]).leader().await.expect_err("an error");
    assert!(matches!(&error, ApiError::Malformed { text, .. } if text.contains("larger")), "{error:?}");
    let error = player.answer([Answer::new(500, &"x".repeat(1 << 20))]).leader().await.expect_err("an error");
    assert!(error.to_string().len() < 1000);
    for body in ["", "<html>", "{\"DispatchedJobID\":3}", "{}", "[]"] {
        let error = dispatch(player.answer([Answer::new(200, body)])).await.expect_err("an error");
        assert!(matches!(&error, ApiError::Malformed { .. }), "{body}: {error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_is_told_and_not_printed() {
    let player = Player::with(|config| {
        config.token = Some(Token::new("swordfish"));
        config.namespace = Some("a team".into());
        config.region = Some("mars".into());
        config.http_auth = Some(HttpAuth { user: "me".into(), password: Token::new("mellon") });
    });
    let answer = Answer::new(403, "no swordfish and no mellon here");
    let error = player.answer([answer]).job("x").await.expect_err("an error");
    assert_eq!(error.to_string(), "GET /v1/job/:id: no *** and no *** here (the token needs read-job)");
    let seen = &player.seen()[0];
    assert_eq!(seen.uri.to_string(), "/v1/job/x?namespace=a+team&region=mars");
    assert_eq!(seen.headers["x-nomad-token"], "swordfish");
    assert_eq!(seen.headers["authorization"], "Basic bWU6bWVsbG9u");
    assert!(!format!("{:?} {error:?}", player.client).contains("swordfish"));
    // Nomad answers in plain text; nothing is unpacked.
    assert!(!seen.headers.contains_key("accept-encoding"));
}

#[tokio::test(start_paused = true)]
async fn a_redirect_is_not_followed() {
    let player = Player::new();
    let answer =
        Answer::Whole { status: 307, headers: vec![("Location".into(), "/v1/other".into())], body: String::new() };
    let error = player.answer([answer]).leader().await.expect_err("an error");
    assert!(matches!(&error, ApiError::Invalid { .. }), "{error:?}");
    assert_eq!(player.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn connections_are_few() {
    let player = Player::new();
    player.answer([Answer::Stream { status: 200, lines: vec![(Duration::ZERO, "{}\n".into())], end: None }]);
    let mut streams: Vec<_> = (0..64).map(|_| player.client.events(&["Allocation:*"], 0)).collect();
    for stream in &mut streams {
        stream.next().await.expect("a greeting");
    }
    // It never went out.
    let error = dispatch(&player.client).await.expect_err("an error");
    assert!(matches!(&error, ApiError::TimedOut { may_have_applied: false, .. }), "{error:?}");
    assert_eq!(player.seen().len(), 64);
    drop(streams.pop());
    player.answer([Answer::new(200, "\"here\"")]);
    assert_eq!(player.client.leader().await.as_deref(), Ok("here"));
    // A stream that has ended has given its connection back.
    for stream in &mut streams {
        assert!(stream.next().await.is_err());
    }
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let client = player.client.clone();
        calls.spawn(async move { client.leader().await });
    }
    while let Some(answer) = calls.join_next().await {
        assert!(answer.expect("no panic").is_ok());
    }
}
