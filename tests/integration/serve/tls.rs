//! The one port over TLS: gRPC and HTTP, whom it lets in, and new certificates while it serves.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use rustls::{ClientConfig, pki_types::ServerName};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{Code, Request, Status, transport::Channel};
use tool_executor::pb::toolexecutor::{ExecuteRequest, GetStatusRequest, tool_executor_client::ToolExecutorClient};

use crate::support::{
    authority::{Authority, Identity, text},
    client::{PATIENCE, Stream, bash, open},
    nomad::Nomad,
    server::Server,
};

/// A server that has this certificate, and these settings beside.
fn serve(identity: &Identity, settings: &[(&str, &str)]) -> Server {
    Server::with(&[&identity.settings(), settings].concat())
}

/// The same, with its log.
fn serve_and_log(identity: &Identity, settings: &[(&str, &str)]) -> (Server, PathBuf) {
    let state = TempDir::new().expect("a directory");
    let log = state.path().join("log");
    let mut command = Server::command(&state);
    command.stderr(File::create(&log).expect("a log"));
    let settings = [&identity.settings(), settings].concat();
    command.envs(settings.iter().map(|(name, value)| (format!("TOOL_EXECUTOR_{name}"), value)));
    (Server::run(command, state), log)
}

async fn connect(server: &Server, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let connection = TcpStream::connect(&server.address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    timeout(PATIENCE, TlsConnector::from(config).connect(name, connection)).await.expect("an answer in time")
}

/// What is answered to `GET /health` on a connection that ends after it.
async fn health(connection: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    get(connection, "/health").await
}

async fn get(connection: &mut TlsStream<TcpStream>, path: &str) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(PATIENCE, connection.read_to_string(&mut answer)).await.expect("an answer in time")?;
    Ok(answer)
}

/// Whether a call runs.
async fn works(channel: Channel) -> Result<bool, Status> {
    let call = Some(bash(&fastrand::u64(..).to_string(), "echo private"));
    let request = ExecuteRequest { trajectory_id: "private".to_owned(), call, ..ExecuteRequest::default() };
    let result = ToolExecutorClient::new(channel).execute(request).await?.into_inner().result;
    Ok(result.expect("it has a result").output == "private")
}

#[tokio::test]
async fn one_port_speaks_grpc_and_http_over_tls() {
    let authority = Authority::new();
    let server = serve(&authority.server("executor"), &[]);
    assert!(server.private, "it says https");
    let channel = server.private_channel(authority.trusted_by_tonic(None)).await.expect("it is trusted");
    assert!(works(channel).await.expect("it runs"));
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["http/1.1", "h2"], Some("h2")),
        (&[], None),
    ] {
        let mut connection = connect(&server, authority.trusted(None, offered)).await.expect("it is trusted");
        let protocol = connection.get_ref().1.alpn_protocol().map(|name| std::str::from_utf8(name).expect("text"));
        assert_eq!(protocol, agreed, "{offered:?}");
        if agreed != Some("h2") {
            let answer = health(&mut connection).await.expect("it answers");
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
    }
    // Not what it speaks: refused in the handshake.
    assert!(connect(&server, authority.trusted(None, &["spdy/3"])).await.is_err());
    // Whoever does not trust its authority goes away.
    assert!(connect(&server, Authority::new().trusted(None, &["h2"])).await.is_err());
    // In the clear, nothing is told.
    let mut plain = TcpStream::connect(&server.address).await.expect("it listens");
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it reads");
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, plain.read_to_end(&mut answer)).await.expect("it is closed");
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn mutual_tls_lets_in_whom_the_authority_knows() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let ca = theirs.file();
    let (server, log) = serve_and_log(&ours.server("executor"), &[("TLS_CLIENT_CA", text(&ca))]);
    let known = theirs.client(Some("trainer"), &[]);
    let channel = server.private_channel(ours.trusted_by_tonic(Some(&known))).await.expect("it is let in");
    assert!(works(channel).await.expect("it runs"));
    let mut connection = connect(&server, ours.trusted(Some(&known), &["http/1.1"])).await.expect("it is let in");
    assert!(health(&mut connection).await.expect("it answers").contains("200 OK"));
    let others = Authority::new();
    let stranger = others.client(Some("trainer"), &[]);
    for shown in [None, Some(&stranger)] {
        // With TLS 1.3 a client is told when it reads.
        let refused = async {
            let mut connection = connect(&server, ours.trusted(shown, &["http/1.1"])).await?;
            health(&mut connection).await
        };
        let error = refused.await.expect_err("it is refused");
        assert!(error.to_string().contains("alert"), "{shown:?}: {error}");
        let refused = match server.private_channel(ours.trusted_by_tonic(shown)).await {
            Ok(channel) => works(channel).await.is_err(),
            Err(_) => true,
        };
        assert!(refused, "{shown:?}");
    }
    // For whoever runs it, who may be asked why.
    said(&log, "a connection was refused").await;
    said(&log, "peer sent no certificates").await;
}

#[tokio::test]
async fn where_a_certificate_is_optional_a_token_does() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let ca = theirs.file();
    let server = serve(
        &ours.server("executor"),
        &[("TLS_CLIENT_CA", text(&ca)), ("TLS_CLIENT_AUTH", "optional"), ("TOKEN", "s3cret")],
    );
    let channel = server.private_channel(ours.trusted_by_tonic(None)).await.expect("it is let in");
    let mut client = ToolExecutorClient::new(channel);
    let refused = client.get_status(GetStatusRequest {}).await.expect_err("it has no token");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut request = Request::new(GetStatusRequest {});
    request.metadata_mut().insert("authorization", "Bearer s3cret".parse().expect("it is ASCII"));
    client.get_status(request).await.expect("it has the token");
    // One that is shown must be good all the same.
    let others = Authority::new();
    let stranger = others.client(Some("trainer"), &[]);
    let refused = async {
        let mut connection = connect(&server, ours.trusted(Some(&stranger), &["http/1.1"])).await?;
        health(&mut connection).await
    };
    assert!(refused.await.is_err());
}

#[tokio::test]
async fn nodes_of_a_cluster_download_the_agent_without_certificate_and_token() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (identity, ca) = (ours.server("executor"), theirs.file());
    let more =
        [("TLS_CLIENT_CA", text(&ca)), ("TLS_CLIENT_AUTH", "optional"), ("TOKEN", "s3cret"), ("AGENT", "artifact")];
    let nomad = Nomad::start();
    let server = Server::on(&nomad, &[&identity.settings(), &more[..]].concat());
    let channel = server.private_channel(ours.trusted_by_tonic(None)).await.expect("it is let in");
    let mut client = ToolExecutorClient::new(channel);
    // The stand-in downloads nothing over https, and says what it was told to.
    let asked = Instant::now();
    let told = loop {
        let mut request = Request::new(GetStatusRequest {});
        request.metadata_mut().insert("authorization", "Bearer s3cret".parse().expect("it is ASCII"));
        let status = client.get_status(request).await.expect("it has a status").into_inner();
        let failure = format!("{:?}", status.pools[0].last_start_failure);
        if failure.contains("failed to download artifact") {
            break failure;
        }
        assert!(asked.elapsed() < PATIENCE, "{failure}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let begin = format!("https://{}/agent/", server.address);
    let rest = told.split_once(&begin).unwrap_or_else(|| panic!("{told}")).1;
    let path = format!("/agent/{}/tool-executor", rest.split('/').next().expect("a checksum"));
    let mut node = connect(&server, ours.trusted(None, &["http/1.1"])).await.expect("it is trusted");
    node.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    while !answer.windows(4).any(|bytes| bytes == b"\x7fELF") {
        let read = timeout(PATIENCE, node.read_buf(&mut answer)).await.expect("an answer in time").expect("it answers");
        assert!(read > 0 && answer.len() < 1 << 20, "it is no program");
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
}

/// The certificate that a new connection is shown.
async fn shown(server: &Server, authority: &Authority) -> Vec<u8> {
    let connection = connect(server, authority.trusted(None, &["h2"])).await.expect("it is trusted");
    connection.get_ref().1.peer_certificates().expect("it has one")[0].to_vec()
}

pub(super) async fn said(log: &Path, what: &str) {
    let asked = Instant::now();
    while !fs::read_to_string(log).expect("a log").contains(what) {
        assert!(asked.elapsed() < PATIENCE, "{what:?} is not in {}", fs::read_to_string(log).expect("a log"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn certificates_are_read_again_and_no_stream_is_dropped() {
    let authority = Authority::new();
    let (identity, next) = (authority.server("first"), authority.server("second"));
    let (server, log) = serve_and_log(&identity, &[]);
    said(&log, "certificate of first").await;
    let channel = server.private_channel(authority.trusted_by_tonic(None)).await.expect("it is trusted");
    let mut stream = Stream::over(ToolExecutorClient::new(channel), open("lasting")).await.expect("it opens");
    let first = shown(&server, &authority).await;

    identity.become_like(&next);
    assert_eq!(shown(&server, &authority).await, first, "nobody has told it yet");
    server.signal(Signal::HUP);
    said(&log, "certificate of second").await;
    let second = shown(&server, &authority).await;
    assert_ne!(second, first);
    let mut scrape = connect(&server, authority.trusted(None, &["http/1.1"])).await.expect("it is trusted");
    let metrics = get(&mut scrape, "/metrics").await.expect("it answers");
    // As rcgen has it where nothing is said: 4096-01-01.
    assert!(metrics.contains("\ntool_executor_certificate_expiry_seconds 67090118400\n"), "{metrics}");
    assert_eq!(stream.bash("a", "echo on").await.output, "on", "the stream from before goes on");

    // A key that is another's, a file that is nothing, a file that is gone: all as before.
    fs::copy(&authority.client(Some("other"), &[]).key, &identity.key).expect("a file");
    server.signal(Signal::HUP);
    said(&log, "is not the key of the certificate in").await;
    fs::write(&identity.certificate, "nothing").expect("a file");
    server.signal(Signal::HUP);
    said(&log, "has no certificate").await;
    fs::remove_file(&identity.certificate).expect("a file");
    server.signal(Signal::HUP);
    said(&log, "could not read").await;
    assert_eq!(shown(&server, &authority).await, second);
    assert_eq!(stream.bash("b", "echo still").await.output, "still");
}

#[tokio::test]
async fn a_hangup_ends_nothing_where_there_is_nothing_to_read_again() {
    let server = Server::start();
    let mut stream = Stream::open(&server, "calm").await;
    server.signal(Signal::HUP);
    assert_eq!(stream.bash("a", "sleep 0.2; echo on").await.output, "on");
    assert!(works(server.channel().await).await.expect("it runs"));
}

#[test]
fn files_that_cannot_be_used_are_told_at_the_start_and_by_check() {
    let authority = Authority::new();
    let (good, other) = (authority.server("good"), authority.server("other"));
    let directory = TempDir::new().expect("a directory");
    let nothing = directory.path().join("nothing.pem");
    fs::write(&nothing, "nothing").expect("a file");
    let missing = directory.path().join("missing.pem");
    let cases: [(&Path, &Path, Option<&Path>, &str); 5] = [
        (&missing, &good.key, None, "could not read"),
        (&nothing, &good.key, None, "has no certificate"),
        (&good.certificate, &good.certificate, None, "has no key"),
        (&good.certificate, &other.key, None, "is not the key of the certificate in"),
        (&good.certificate, &good.key, Some(&nothing), "has no certificate"),
    ];
    for (certificate, key, ca, message) in cases {
        for subcommand in ["serve", "check"] {
            let state = TempDir::new().expect("a directory");
            let mut command = Server::command_of(subcommand, &state);
            command.env("TOOL_EXECUTOR_TLS_CERTIFICATE", certificate).env("TOOL_EXECUTOR_TLS_KEY", key);
            command.envs(ca.map(|ca| ("TOOL_EXECUTOR_TLS_CLIENT_CA", ca)));
            let output = command.output().expect("it runs");
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(!output.status.success() && said.contains(message), "{subcommand}: {said}");
        }
    }
}

fn cli(server: &Server, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tool-executor"))
        .args(arguments)
        .env_clear()
        .env("TOOL_EXECUTOR_ADDRESS", format!("https://{}", server.address))
        .output()
        .expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_command_line_goes_over_tls() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (ca, clients) = (ours.file(), theirs.file());
    let server = serve(&ours.server("executor"), &[("TLS_CLIENT_CA", text(&clients))]);
    let known = theirs.client(Some("operator"), &[]);
    let (certificate, key) = (text(&known.certificate), text(&known.key));
    let trust = ["--ca", text(&ca), "--certificate", certificate, "--key", key];
    let (done, said) = cli(&server, &[&["run"], &trust[..], &["--", "echo private"]].concat());
    assert!(done && said.contains("private"), "{said}");
    let (done, said) = cli(&server, &[&["status"], &trust[..]].concat());
    assert!(done, "{said}");
    // It trusts nobody whom it has not been told of, and is trusted with its certificate alone.
    let (done, said) = cli(&server, &["status"]);
    assert!(!done && said.contains("cannot be trusted") && said.contains("--ca"), "{said}");
    let (done, said) = cli(&server, &["status", "--ca", text(&ca)]);
    assert!(!done && said.contains("CertificateRequired"), "{said}");
    let (done, said) = cli(&server, &["status", "--ca", text(&ca), "--certificate", certificate]);
    assert!(!done && said.contains("--key"), "{said}");
    let (done, said) = cli(&server, &["status", "--ca", text(&ca), "--certificate", key, "--key", certificate]);
    assert!(!done && said.contains("cannot be used"), "{said}");
    let plain = format!("http://{}", server.address);
    let (done, said) = cli(&server, &["status", "--address", &plain, "--ca", text(&ca)]);
    assert!(!done && said.contains("https://"), "{said}");
    let (done, said) = cli(&server, &["status", "--address", &plain]);
    assert!(!done && said.contains("begins with https://"), "{said}");
}
