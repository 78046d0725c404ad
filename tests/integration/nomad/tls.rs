//! Nomad behind TLS: whom the client trusts, and as whom it goes there.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use tool_executor::backend::nomad::api::{Address, ApiError, Client, ClientConfig, ClientError};

/// A Nomad whose certificate is for `server.global.nomad`, as those that Nomad's own tool makes are.
const NAME: &str = "server.global.nomad";

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// Where a certificate and its key are.
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let authority = Self { issuer, directory: tempfile::tempdir().expect("a directory") };
        fs::write(authority.file(), authority.issuer.pem()).expect("a file");
        authority
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn issue(&self, name: &str) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let at = |what: &str| self.directory.path().join(format!("{name}.{what}"));
        let identity = Identity { certificate: at("crt"), key: at("key") };
        fs::write(&identity.certificate, certificate.pem()).expect("a file");
        fs::write(&identity.key, key.serialize_pem()).expect("a file");
        identity
    }
}

struct Server {
    address: SocketAddr,
    /// The name that each connection asked for, and its Host.
    seen: mpsc::UnboundedReceiver<(Option<String>, String)>,
}

/// Says who leads, to whomever the authority of clients knows, if there is one.
async fn serve(identity: &Identity, clients: Option<&Authority>) -> Server {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.issuer.der().clone()).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
    };
    let chain = vec![CertificateDer::from_pem_file(&identity.certificate).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key");
    let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).expect("an identity")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (sender, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(connection).await else { continue };
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let request = String::from_utf8_lossy(&request).to_lowercase();
            let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
            let name = stream.get_ref().1.server_name().map(str::to_owned);
            let _ = sender.send((name, host.to_owned()));
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n\"here\"";
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    Server { address, seen }
}

fn config(address: &str) -> ClientConfig {
    ClientConfig::new(address.parse::<Address>().expect("an address"), Duration::from_secs(10))
}

async fn leader(config: &ClientConfig) -> Result<String, ApiError> {
    Client::new(config).expect("a client").leader().await
}

#[tokio::test]
async fn a_certificate_is_of_the_authority_and_of_the_name() {
    let authority = Authority::new();
    let mut server = serve(&authority.issue("localhost"), None).await;
    let config = ClientConfig {
        ca_cert: Some(authority.file()),
        ..config(&format!("https://localhost:{}", server.address.port()))
    };
    assert_eq!(leader(&config).await.as_deref(), Ok("here"));
    let host = format!("localhost:{}", server.address.port());
    assert_eq!(server.seen.recv().await, Some((Some("localhost".into()), host)));
    // A directory holds other things, too.
    fs::write(authority.directory.path().join("README"), "nothing").expect("a file");
    let by_directory =
        ClientConfig { ca_cert: None, ca_path: Some(authority.directory.path().into()), ..config.clone() };
    assert_eq!(leader(&by_directory).await.as_deref(), Ok("here"));
    // Another authority's.
    let other = Authority::new();
    let strange = leader(&ClientConfig { ca_cert: Some(other.file()), ..config.clone() }).await;
    assert!(matches!(&strange, Err(ApiError::Unreachable { text, .. }) if text.contains("certificate")), "{strange:?}");
    let any = ClientConfig { ca_cert: Some(other.file()), skip_verify: true, ..config.clone() };
    assert_eq!(leader(&any).await.as_deref(), Ok("here"));
}

#[tokio::test]
async fn a_certificate_may_be_for_another_name() {
    let authority = Authority::new();
    let mut server = serve(&authority.issue(NAME), None).await;
    let config = ClientConfig { ca_cert: Some(authority.file()), ..config(&format!("https://{}", server.address)) };
    let wrong = leader(&config).await;
    assert!(matches!(&wrong, Err(ApiError::Unreachable { .. })), "{wrong:?}");
    let named = ClientConfig { tls_server_name: Some(NAME.into()), ..config.clone() };
    assert_eq!(leader(&named).await.as_deref(), Ok("here"));
    // TLS asks for the name; HTTP speaks to the address.
    assert_eq!(server.seen.recv().await, Some((Some(NAME.into()), server.address.to_string())));
    for name in ["1.2.3.4", "a name", "1.2"] {
        let error = Client::new(&ClientConfig { tls_server_name: Some(name.into()), ..config.clone() });
        assert!(matches!(error, Err(ClientError::ServerName(_))), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    let authority = Authority::new();
    let server = serve(&authority.issue("localhost"), Some(&authority)).await;
    let config = ClientConfig {
        ca_cert: Some(authority.file()),
        ..config(&format!("https://localhost:{}", server.address.port()))
    };
    let nobody = leader(&config).await;
    assert!(nobody.is_err(), "{nobody:?}");
    let identity = authority.issue("executor");
    let known = ClientConfig {
        client_cert: Some(identity.certificate),
        client_key: Some(identity.key.clone()),
        ..config.clone()
    };
    assert_eq!(leader(&known).await.as_deref(), Ok("here"));

    let half = Client::new(&ClientConfig { client_key: None, ..known.clone() });
    assert!(matches!(half, Err(ClientError::HalfIdentity)), "{half:?}");
    let swapped = Client::new(&ClientConfig { client_cert: Some(identity.key), ..known.clone() });
    assert!(matches!(swapped, Err(ClientError::Empty { what: "certificate", .. })), "{swapped:?}");
    let missing = Client::new(&ClientConfig { ca_cert: Some("/nowhere".into()), ..known });
    assert!(matches!(missing, Err(ClientError::Read { .. })), "{missing:?}");
}
