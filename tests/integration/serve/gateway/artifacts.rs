//! Files of a workspace over HTTP.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::description::Description;
use crate::support::{http::Request, server::Server};

/// Asks, and holds the answer to its description.
async fn ask(server: &Server, description: &Description, path: &str, body: Value) -> Value {
    let answer = Request::post(&server.address, path, &body).send().await;
    description.check("POST", path, &answer);
    answer.done()
}

#[tokio::test]
async fn files_are_read_listed_and_archived() {
    let server = Server::start();
    let description = Description::of(&server).await;
    let ask = async |path: &str, body: Value| ask(&server, &description, path, body).await;
    let script = "mkdir -p out/deep; printf 'h\\303\\251llo' > out/a.txt; printf '\\377\\000' > out/b.bin; head -c 20000 /dev/urandom > out/deep/c";
    let made = Request::execute(&server.address, "t", "make", script).send().await.done();
    assert_eq!(made["success"], true, "{made}");

    let read = ask("/artifacts/read", json!({"trajectory_id": "t", "path": "out/a.txt"})).await;
    assert_eq!(
        (&read["success"], &read["content"], &read["mime"]),
        (&true.into(), &"h\u{e9}llo".into(), &"text/plain".into())
    );
    assert_eq!((&read["bytes"], &read["file_size"], &read["truncated"]), (&6.into(), &6.into(), &false.into()));
    assert_eq!(read["sha256"].as_str().map(str::len), Some(64));
    let part = json!({"trajectory_id": "t", "path": "/workspace/out/b.bin", "encoding": "base64", "max_bytes": 1});
    let part = ask("/artifacts/read", part).await;
    assert_eq!((&part["content"], &part["truncated"], &part["file_size"]), (&"/w==".into(), &true.into(), &2.into()));

    let list = ask("/artifacts/list", json!({"trajectory_id": "t", "path": "out", "recursive": true})).await;
    let entries = list["entries"].as_array().expect("a list");
    let paths: Vec<_> = entries.iter().map(|entry| entry["path"].as_str().expect("text")).collect();
    assert_eq!(paths, ["out/a.txt", "out/b.bin", "out/deep", "out/deep/c"]);
    assert_eq!((&entries[2]["is_dir"], &entries[3]["size"]), (&true.into(), &20_000.into()));
    let list = ask("/artifacts/list", json!({"trajectory_id": "t", "path": "out", "max_entries": 1})).await;
    assert_eq!((list["entries"].as_array().map(Vec::len), &list["truncated"]), (Some(1), &true.into()));

    let archive = ask("/artifacts/archive", json!({"trajectory_id": "t", "path": "out"})).await;
    let packed = STANDARD.decode(archive["content"].as_str().expect("text")).expect("it is base64");
    assert_eq!((&packed[..2], packed.len()), (&b"\x1f\x8b"[..], archive["bytes"].as_u64().expect("a number") as usize));
    assert!(archive["entry_count"].as_u64().is_some_and(|count| count >= 4), "{}", archive["entry_count"]);
    let size = archive["bytes"].as_u64().expect("a number");
    let tight = ask("/artifacts/archive", json!({"trajectory_id": "t", "path": "out", "max_bytes": 100})).await;
    assert_eq!(tight["success"], false);
    let told = tight["error"].as_str().expect("text");
    assert!(told.starts_with("Archive too large: ") && told.ends_with(" bytes (max 100)"), "{told}, of {size}");
}

const OUTSIDE: &str = "Access denied: path outside workspace";

#[tokio::test]
async fn what_is_not_there_is_told() {
    let server = Server::start();
    let description = Description::of(&server).await;
    let ask = async |path: &str, body: Value| ask(&server, &description, path, body).await;
    for (path, body) in [
        ("/artifacts/read", json!({"trajectory_id": "nobody", "path": "a"})),
        ("/artifacts/list", json!({"trajectory_id": "nobody"})),
        ("/artifacts/archive", json!({"trajectory_id": "nobody"})),
    ] {
        let none = ask(path, body).await;
        assert_eq!(none["error"], "No active slot for trajectory (run a sandbox tool first)");
        assert_eq!(none["success"], false);
    }
    Request::execute(&server.address, "t", "make", "ln -s /etc/passwd out").send().await.done();
    for (path, error) in [
        ("missing", "File not found: missing"),
        ("out", OUTSIDE),
        ("../../etc/passwd", OUTSIDE),
        ("/etc/passwd", OUTSIDE),
        (".", "Not a file: ."),
    ] {
        let refused = ask("/artifacts/read", json!({"trajectory_id": "t", "path": path})).await;
        assert_eq!((&refused["success"], &refused["content"]), (&false.into(), &"".into()), "{path}: {refused}");
        assert_eq!(refused["error"], error, "{path}");
    }
    for endpoint in ["/artifacts/list", "/artifacts/archive"] {
        for path in ["../..", "/etc", "out"] {
            let refused = ask(endpoint, json!({"trajectory_id": "t", "path": path})).await;
            assert_eq!((&refused["success"], &refused["error"]), (&false.into(), &OUTSIDE.into()), "{endpoint} {path}");
        }
        let refused = ask(endpoint, json!({"trajectory_id": "t", "path": "missing"})).await;
        assert_eq!(refused["success"], false, "{endpoint}: {refused}");
        assert!(refused["error"].as_str().is_some_and(|error| error.contains("not found: missing")), "{refused}");
    }
    let bad = Request::post(&server.address, "/artifacts/read", &json!({"path": "a"})).send().await;
    assert_eq!(bad.status, 422, "{bad:?}");
}
