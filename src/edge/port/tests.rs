use std::{fs, net::SocketAddr};

use axum::{Extension, routing::get};
use rcgen::{CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::edge::Peer;

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);

const LIMITS: ConnectionLimits = ConnectionLimits {
    max_connections: 100,
    max_streams: 100,
    handshake_timeout: PATIENCE,
    header_timeout: PATIENCE,
    keepalive: Keepalive { interval: PATIENCE, timeout: PATIENCE },
};

/// A port whose one route says who asks.
struct Bed {
    address: SocketAddr,
    shutdown: CancellationToken,
    counts: ConnectionCounts,
    served: JoinHandle<()>,
}

async fn serve(tls: Option<Tls>, limits: ConnectionLimits) -> Bed {
    let name = async |peer: Option<Extension<Peer>>| match peer {
        None => "nobody has shown a certificate".to_owned(),
        Some(Extension(Peer { name: None })) => "somebody without a name".to_owned(),
        Some(Extension(Peer { name: Some(name) })) => name,
    };
    let slow = async || {
        sleep(2 * SHORT).await;
        "done"
    };
    let routes = Router::new().route("/", get(name)).route("/slow", get(slow));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, shutdown) = (listener.local_addr().expect("an address"), CancellationToken::new());
    let counts = ConnectionCounts::default();
    let port = Port { listener, tls, limits, counts: counts.clone(), routes };
    let served = tokio::spawn(port.serve(shutdown.clone()));
    Bed { address, shutdown, counts, served }
}

fn request(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
}

/// All that is said until the connection is closed, which it must be.
async fn rest(mut io: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut said = String::new();
    let _ = timeout(PATIENCE, io.read_to_string(&mut said)).await.expect("it is closed");
    said
}

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        Self { issuer, directory: TempDir::new().expect("a directory") }
    }

    fn issue(&self, common: Option<&str>, others: &[SanType]) -> (String, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        common.iter().for_each(|name| params.distinguished_name.push(DnType::CommonName, *name));
        params.subject_alt_names = others.to_vec();
        let key = KeyPair::generate().expect("a key");
        let issuer: &Issuer<'_, KeyPair> = &self.issuer;
        (params.signed_by(&key, issuer).expect("a certificate").pem(), key)
    }

    /// Of a server that is `localhost`, and lets in its own clients.
    fn files(&self) -> TlsFiles {
        let (certificate, key) = self.issue(Some("server"), &[dns("localhost")]);
        let write = |name: &str, text: &str| {
            let path = self.directory.path().join(name);
            fs::write(&path, text).expect("a file");
            path
        };
        TlsFiles {
            certificate: write("crt", &certificate),
            key: write("key", &key.serialize_pem()),
            client_ca: Some(write("ca", &self.issuer.pem())),
            client_may_have_none: true,
        }
    }

    fn client(&self, shows: Option<(String, KeyPair)>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a root");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match shows {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                use rustls::pki_types::{CertificateDer, pem::PemObject as _};
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")];
                let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("an identity")
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("a name"))
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().expect("a name"))
}

#[tokio::test]
async fn every_request_says_whose_certificate_was_shown() {
    let authority = Authority::new();
    let tls = Tls::open(authority.files()).expect("it can be used");
    let told = tls.describe();
    assert!(told.starts_with("TLS with the certificate of server, valid until"), "{told}");
    let bed = serve(Some(tls), LIMITS).await;
    let spiffe = "spiffe://example.org/trainer";
    for (shows, name) in [
        (None, "nobody has shown a certificate"),
        (Some(authority.issue(Some("trainer-7"), &[dns("other.example")])), "trainer-7"),
        (Some(authority.issue(None, &[dns("trainer.example"), uri(spiffe)])), "trainer.example"),
        (Some(authority.issue(Some(""), &[uri(spiffe)])), spiffe),
        (Some(authority.issue(None, &[])), "somebody without a name"),
    ] {
        let stream = TcpStream::connect(bed.address).await.expect("it listens");
        let localhost = ServerName::try_from("localhost").expect("a name");
        let mut stream = authority.client(shows).connect(localhost, stream).await.expect("it is let in");
        let twice = [request("/", ""), request("/", "Connection: close\r\n")].concat();
        stream.write_all(twice.as_bytes()).await.expect("it reads");
        let said = rest(stream).await;
        assert_eq!(said.matches(&format!("\r\n\r\n{name}")).count(), 2, "{said}");
    }
    let plain = serve(None, LIMITS).await;
    let mut stream = TcpStream::connect(plain.address).await.expect("it listens");
    stream.write_all(request("/", "Connection: close\r\n").as_bytes()).await.expect("it reads");
    assert!(rest(stream).await.ends_with("nobody has shown a certificate"));
}

#[tokio::test]
async fn an_idle_connection_ends_in_its_time_and_a_busy_one_does_not() {
    let bed = serve(None, ConnectionLimits { header_timeout: SHORT, handshake_timeout: SHORT, ..LIMITS }).await;
    let connect = async || TcpStream::connect(bed.address).await.expect("it listens");
    let (silent, mut slow, mut begun) = (connect().await, connect().await, connect().await);
    slow.write_all(request("/slow", "").as_bytes()).await.expect("it reads");
    begun.write_all(b"GET / HT").await.expect("it reads");
    assert_eq!(rest(silent).await, "");
    assert_eq!(rest(begun).await, "");
    let said = rest(slow).await;
    assert!(said.ends_with("\r\n\r\ndone"), "{said}");
}

#[tokio::test]
async fn the_end_waits_for_what_is_under_way_and_for_nothing_else() {
    let bed = serve(None, LIMITS).await;
    let connect = async || TcpStream::connect(bed.address).await.expect("it listens");
    let (silent, mut idle, mut slow) = (connect().await, connect().await, connect().await);
    idle.write_all(request("/", "").as_bytes()).await.expect("it reads");
    idle.read_u8().await.expect("it answers");
    slow.write_all(request("/slow", "").as_bytes()).await.expect("it reads");
    // Else it may be that the request has not been read.
    sleep(SHORT).await;
    bed.shutdown.cancel();
    timeout(PATIENCE, bed.served).await.expect("it ends").expect("it has not panicked");
    assert!(rest(slow).await.ends_with("\r\n\r\ndone"));
    assert!(rest(idle).await.ends_with("nobody has shown a certificate"));
    assert_eq!(rest(silent).await, "");
    assert!(TcpStream::connect(bed.address).await.is_err());
}

#[tokio::test]
async fn a_client_that_waits_no_longer_is_told_so() {
    let bed = serve(None, LIMITS).await;
    let mut stream = TcpStream::connect(bed.address).await.expect("it listens");
    let hurried = request("/slow", "Connection: close\r\ngrpc-timeout: 20m\r\n");
    stream.write_all(hurried.as_bytes()).await.expect("it reads");
    let said = rest(stream).await;
    assert!(said.contains("grpc-status: 4\r\n"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn what_happens_often_is_told_from_time_to_time() {
    let mut complaint = Complaint::default();
    assert_eq!(complaint.tell(), Some(1));
    assert_eq!((complaint.tell(), complaint.tell()), (None, None));
    tokio::time::advance(QUIET).await;
    assert_eq!(complaint.tell(), Some(3));
    assert_eq!(complaint.tell(), None);
}

#[tokio::test]
async fn connections_are_counted_and_what_is_too_much_is_closed() {
    let bed = serve(None, ConnectionLimits { max_connections: 3, ..LIMITS }).await;
    let until = async |what: &str, done: &dyn Fn() -> bool| {
        timeout(PATIENCE, async {
            while !done() {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("waiting until {what}"));
    };
    let connect = async || TcpStream::connect(bed.address).await.expect("it listens");
    let held = [connect().await, connect().await, connect().await];
    until("they are counted", &|| bed.counts.open() == 3).await;
    assert_eq!(rest(connect().await).await, "");
    assert_eq!((bed.counts.open(), bed.counts.refused()), (3, 1));
    drop(held);
    until("they are gone", &|| bed.counts.open() == 0).await;
    let mut served = connect().await;
    served.write_all(request("/", "Connection: close\r\n").as_bytes()).await.expect("it reads");
    assert!(rest(served).await.starts_with("HTTP/1.1 200 OK"));
}
