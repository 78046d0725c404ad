//! Tools that run elsewhere, behind TLS: whom the executor trusts, and to whom it shows its token.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tool_executor::pb::toolexecutor::{Call, Executed, Outcome, Reason};

use crate::support::{
    client::{bash, execute, tool},
    mcp_server::McpServer,
    server::Server,
    tool_server::{ToolServer, schema},
};

/// Its certificate's file, and the port at which it speaks for whoever is behind it.
struct Secure {
    directory: TempDir,
    address: SocketAddr,
}

impl Secure {
    async fn before(behind: SocketAddr) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &authority).expect("a certificate");
        let directory = TempDir::new().expect("a directory");
        fs::write(directory.path().join("ca.pem"), authority.pem()).expect("a file");

        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.into()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("an identity");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut secure) = acceptor.accept(connection).await else { return };
                    let mut plain = TcpStream::connect(behind).await.expect("it is there");
                    // Either may end it.
                    let _ = copy_bidirectional(&mut secure, &mut plain).await;
                });
            }
        });
        Self { directory, address }
    }

    fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }
}

fn call(id: &str, name: &str, text: &str) -> Call {
    tool(id, name, json!({ "text": text }))
}

// Its ports are served while it waits for an executor to start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_an_authority_that_is_named_is_trusted_and_no_other() {
    let (tools, mcp) = (ToolServer::start(), McpServer::start());
    let (secure, secure_mcp) = (Secure::before(tools.address).await, Secure::before(mcp.address).await);
    let bundle = secure.directory.path().join("both.pem");
    let pem = |secure: &Secure| fs::read_to_string(secure.authority()).expect("it is there");
    fs::write(&bundle, pem(&secure) + &pem(&secure_mcp)).expect("a file");
    let (url, mcp_url) = (secure.url(""), format!("stand-in={}", secure_mcp.url("/mcp")));
    let settings = |ca: &std::path::Path| {
        let ca = ca.to_str().expect("text").to_owned();
        let settings = [
            ("TOOL_SERVER_URL", url.clone()),
            ("TOOL_SERVER_TOKEN", "s3cret".to_owned()),
            ("MCP_SERVERS", mcp_url.clone()),
            ("EXTERNAL_CA_CERT", ca),
        ];
        settings.map(|(name, value)| (format!("TOOL_EXECUTOR_{name}"), value))
    };
    let start = |ca: &std::path::Path| {
        let state = TempDir::new().expect("a directory for the state");
        let mut command = Server::command(&state);
        command.envs(settings(ca));
        Server::run(command, state)
    };
    let server = start(&bundle);
    assert!(execute(&server, "t", call("tool", "echo", "x")).await.success);
    assert!(execute(&server, "t", call("mcp", "rich", "x")).await.success);
    assert_eq!(tools.seen.authorization.lock().expect("whole").take().as_deref(), Some("Bearer s3cret"));

    // Of two, one is trusted: the other is shown nothing.
    tools.seen.bodies.lock().expect("whole").clear();
    let server = start(&secure_mcp.authority());
    let refused = execute(&server, "t", call("tool", "echo", "x")).await;
    // It is the MCP server's, where the ToolServer has never said what it has.
    assert!(refused.success && tools.runs("tool") == 0, "{refused:?}");
    let sources = server.status().await.tool_sources;
    let [untrusted, trusted] = &sources[..] else { unreachable!("there are two") };
    assert!(!untrusted.reachable && untrusted.last_error.contains("certificate"), "{untrusted:?}");
    assert!(trusted.reachable && trusted.last_error.is_empty(), "{trusted:?}");
    assert_eq!(*tools.seen.authorization.lock().expect("whole"), None);
    assert!(execute(&server, "t", bash("slot", "true")).await.success);

    // A file that has none is said at the start.
    fs::write(&bundle, "nothing").expect("a file");
    for (ca, said) in
        [(bundle.clone(), "there is no certificate in"), ("/missing".into(), "could not read certificates")]
    {
        let state = TempDir::new().expect("a directory for the state");
        let output = Server::command(&state).envs(settings(&ca)).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(said), "{text}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_carries_no_token() {
    let (tools, mcp, elsewhere) = (ToolServer::start(), McpServer::start(), ToolServer::start());
    tools.seen.tools.lock().expect("whole").push(schema("redirect"));
    mcp.seen.more.lock().expect("whole").push("away");
    let (url, mcp_url) = (tools.url(), format!("stand-in={}", mcp.url()));
    let server = Server::with(&[
        ("TOOL_SERVER_URL", &url),
        ("TOOL_SERVER_TOKEN", "s3cret"),
        ("MCP_SERVERS", &mcp_url),
        ("MCP_TOKENS", "stand-in=s3cret"),
    ]);
    for name in ["redirect", "away"] {
        let result = execute(&server, "t", call(name, name, &format!("{}/execute", elsewhere.url()))).await;
        assert_eq!(
            (result.outcome(), result.reason(), result.executed()),
            (Outcome::ExternalUnavailable, Reason::ToolServerProtocol, Executed::Unknown),
            "{result:?}"
        );
        assert!(result.error.contains("307"), "{result:?}");
    }
    assert!(elsewhere.seen.bodies.lock().expect("whole").is_empty());
    assert_eq!(*elsewhere.seen.authorization.lock().expect("whole"), None);
}
