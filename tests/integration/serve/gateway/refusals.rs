//! Requests that are refused before they mean anything.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    client::PATIENCE,
    http::{Request, read},
    server::Server,
};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn the_token_is_looked_at_before_the_body() {
    let server = Server::with(&[("TOKEN", "s3cret")]);
    let post = |path: &'static str, authorization: Option<&'static str>| {
        let request = Request::new(&server.address, "POST", path).body("{").header("Content-Type", "application/json");
        match authorization {
            Some(authorization) => request.header("Authorization", authorization),
            None => request,
        }
    };
    for path in ["/execute", "/release"] {
        for (authorization, status, detail) in [
            (None, 401, json!("Missing Authorization header")),
            (Some(""), 401, json!("Missing Authorization header")),
            (Some("Basic s3cret"), 401, json!("Invalid Authorization header")),
            (Some("Bearer"), 401, json!("Invalid Authorization header")),
            (Some("s3cret"), 401, json!("Invalid Authorization header")),
            (Some("Bearer S3cret"), 403, json!("Invalid token")),
            (Some("Bearer s3cret s3cret"), 403, json!("Invalid token")),
        ] {
            let answer = post(path, authorization).send().await;
            assert_eq!(
                (answer.status, answer.json()),
                (status, json!({ "detail": detail })),
                "{path} {authorization:?}"
            );
            assert_eq!(answer.header("www-authenticate"), (status == 401).then_some("Bearer"));
        }
        for authorization in ["Bearer s3cret", "bearer s3cret", "BEARER   s3cret  "] {
            let answer = post(path, Some(authorization)).send().await;
            assert_eq!((answer.status, &answer.json()["detail"][0]["type"]), (422, &json!("json_invalid")));
        }
        // Nobody without a token is waited for, or read.
        let endless = post(path, None).header("Content-Length", "1000000000000").send().await;
        assert_eq!(endless.status, 401);
    }
    for path in ["/", "/health", "/status", "/openapi.json", "/docs"] {
        assert_eq!(Request::get(&server.address, path).send().await.status, 200, "{path} is open");
    }
    assert_eq!(Request::get(&server.address, "/execute").send().await.status, 405);
}

#[tokio::test]
async fn a_body_is_bounded_in_bytes() {
    let server = Server::with(&[("MAX_REQUEST_BYTES", "1MiB")]);
    let sized = |bytes: usize| {
        let text = json!({"trajectory_id": "t", "tool": {"name": "write_file", "arguments": {"path": "f", "content": ""}, "uniq_id": "u"}});
        let empty = text.to_string();
        empty.replace("\"content\":\"\"", &format!("\"content\":\"{}\"", "x".repeat(bytes - empty.len())))
    };
    let post = || Request::new(&server.address, "POST", "/execute").header("Content-Type", "application/json");
    let full = post().body(sized(MIB)).send().await;
    assert_eq!(full.done()["success"], false, "the tool's own limit is smaller");
    assert!(full.json()["error"].as_str().is_some_and(|error| error.starts_with("Content too large: ")), "{full:?}");
    let large = post().header("Content-Length", &(MIB + 1).to_string()).send().await;
    assert_eq!((large.status, large.json()), (413, json!({"detail": "Request body too large (max 1048576 bytes)"})));

    // One that does not say how large it is, is read until it is too large, and no further.
    let mut connection = tokio::net::TcpStream::connect(&server.address).await.expect("it listens");
    let head = "POST /execute HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.write_all(head.as_bytes()).await.expect("it reads");
    let chunk = [format!("{MIB:x}\r\n").as_bytes(), &vec![b'x'; MIB], b"\r\n1\r\nx\r\n"].concat();
    connection.write_all(&chunk).await.expect("it reads");
    assert_eq!(read(connection).await.status, 413);
    assert_eq!(Request::execute(&server.address, "t", "v", "echo on").send().await.done()["output"], "on");
}

#[tokio::test]
async fn nonsense_is_told_apart() {
    let server = Server::start();
    let whole = r#"{"trajectory_id":"t","tool":{"name":"bash","arguments":{"command":"true"},"uniq_id":"u"}}"#;
    let deep = |levels: usize| {
        let arguments = format!("{}{}", "{\"a\":".repeat(levels), "{}") + &"}".repeat(levels);
        whole.replace(r#"{"command":"true"}"#, &arguments)
    };
    let post = |body: Vec<u8>| {
        Request::new(&server.address, "POST", "/execute").header("Content-Type", "application/json").body(body)
    };
    let invalid = json!("json_invalid");
    for (body, kind) in [
        (whole.replace('}', "").into_bytes(), &invalid),
        (whole.replace("true", "\u{1}").into_bytes(), &invalid),
        (whole.replace("\"true\"", "NaN").into_bytes(), &invalid),
        (format!("{whole} x").into_bytes(), &invalid),
        (vec![], &json!("missing")),
        (b"null".to_vec(), &json!("model_attributes_type")),
    ] {
        let answer = post(body.clone()).send().await;
        assert_eq!(
            (answer.status, &answer.json()["detail"][0]["type"]),
            (422, kind),
            "{}",
            String::from_utf8_lossy(&body)
        );
    }
    let answer = post(whole.replace("\"u\"", r#""\udc00""#).into_bytes()).send().await;
    assert_eq!(answer.status, 422);
    assert!(answer.body.contains(r#""type":"string_unicode""#), "{answer:?}");
    let answer = post([b"\"\xff".as_slice(), whole.as_bytes()].concat()).send().await;
    assert_eq!((answer.status, answer.json()), (400, json!({"detail": "There was an error parsing the body"})));

    // What only a tool could make sense of is the tool's to refuse.
    let result = async |body: String| -> Value { post(body.into_bytes()).send().await.done() };
    for body in [
        deep(100_000),
        whole.replace("\"true\"", &format!("[{}0]", "0,".repeat(200_000))),
        whole.replace("\"true\"", r#""\ud800""#),
        whole.replace("\"true\"", "1e999"),
    ] {
        let refused = result(body).await;
        let error = refused["error"].as_str().expect("text");
        assert!(error.starts_with("Invalid arguments for bash: ") && error.len() < 500, "{refused}");
        assert_eq!((&refused["success"], &refused["uniq_id"]), (&json!(false), &json!("u")));
    }
    // What no tool knows does not matter.
    let huge = format!("{{\"x\":1{},\"command\":\"echo fine\"}}", "0".repeat(300));
    assert_eq!(result(whole.replace(r#"{"command":"true"}"#, &huge)).await["output"], "fine");
    assert_eq!(result(whole.replace("\"tool\"", "\"more\":{},\"tool\"")).await["success"], true);
}

#[tokio::test]
async fn a_connection_may_be_used_again_and_again() {
    let server = Server::start();
    let mut connection = tokio::net::TcpStream::connect(&server.address).await.expect("it listens");
    let bodies =
        ["{", r#"{"trajectory_id":"t","tool":{"name":"bash","arguments":{"command":"echo hi"},"uniq_id":"u"}}"#];
    for (body, wanted) in bodies.into_iter().zip(["422 Unprocessable Entity", "200 OK"]).cycle().take(6) {
        let head = "POST /execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length:";
        connection.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        let whole = |answer: &str| {
            let (head, body) = answer.split_once("\r\n\r\n")?;
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
            (body.len() == length.parse::<usize>().ok()?).then_some(())
        };
        while whole(&answer).is_none() {
            let mut bytes = [0; 4096];
            let read = tokio::time::timeout(PATIENCE, connection.read(&mut bytes))
                .await
                .expect("in time")
                .expect("it answers");
            assert!(read > 0, "it hung up after {answer}");
            answer.push_str(std::str::from_utf8(&bytes[..read]).expect("it is text"));
        }
        assert!(answer.starts_with(&format!("HTTP/1.1 {wanted}\r\n")), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_not_waited_for() {
    let server = Server::with(&[("HTTP_BODY_TIMEOUT", "1s")]);
    let mut connection = tokio::net::TcpStream::connect(&server.address).await.expect("it listens");
    let began = std::time::Instant::now();
    connection
        .write_all(b"POST /execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        .await
        .expect("it reads");
    let mut answer = vec![0; 4096];
    let read =
        tokio::time::timeout(PATIENCE, connection.read(&mut answer)).await.expect("in time").expect("it answers");
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(began.elapsed() >= std::time::Duration::from_secs(1), "it was given its time");
}
