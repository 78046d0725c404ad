//! How the port shows who it is, and whom it lets in: read from files, and read again when told to. Connections that are
//! open keep what they began with.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error as PemError, PemObject as _},
    },
    server::{VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::sync::watch;
use tracing::warn;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{edge::peer, tool::chain};

/// Of a file, which is named: something that keeps TLS from being served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("could not read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not PEM", path.display())]
    Pem { path: PathBuf, source: PemError },
    #[error("{} has no {what}", path.display())]
    Empty { path: PathBuf, what: &'static str },
    #[error("{} is not the key of the certificate in {}", key.display(), certificate.display())]
    OtherKey { key: PathBuf, certificate: PathBuf },
    #[error("the certificate in {} cannot be used", certificate.display())]
    Identity { certificate: PathBuf, source: rustls::Error },
    #[error("an authority in {} cannot be used", path.display())]
    Authority { path: PathBuf, source: rustls::Error },
    #[error("the authorities in {} cannot be used", path.display())]
    Authorities { path: PathBuf, source: VerifierBuilderError },
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// Files of PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, and those between it and its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Whose certificates clients show.
    pub client_ca: Option<PathBuf>,
    /// Whether one without a certificate may come in, to show a token.
    pub client_may_have_none: bool,
}

/// What new connections are opened with. Clones share it.
#[derive(Debug, Clone)]
pub struct Tls {
    files: Arc<TlsFiles>,
    current: watch::Sender<Arc<Opening>>,
}

/// What connections are opened with, and how that is told.
#[derive(Debug)]
struct Opening {
    config: Arc<ServerConfig>,
    told: String,
    /// In seconds since 1970, if it can be known.
    expires: Option<i64>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let opening = Arc::new(load(&files)?);
        Ok(Self { files: Arc::new(files), current: watch::Sender::new(opening) })
    }

    /// Whose certificate there is, how long it is good, and whether clients show theirs: for people.
    pub fn describe(&self) -> String {
        self.current.borrow().told.clone()
    }

    /// When the certificate that new connections are shown is over, in seconds since 1970, if that can be known.
    pub fn expires(&self) -> Option<i64> {
        self.current.borrow().expires
    }

    /// Reads the files again, for connections to come. Says what there is now, or why it stays as it was.
    ///
    /// # Errors
    /// Which file is wrong, and why; everything is as before.
    pub fn reload(&self) -> Result<String, String> {
        let opening =
            load(&self.files).map_err(|error| format!("the certificate stays as it was: {}", chain(&error)))?;
        self.current.send_replace(Arc::new(opening));
        Ok(self.describe())
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.borrow().config.clone()
    }
}

fn load(files: &TlsFiles) -> Result<Opening, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| pem_error(&files.key, "key", error))?;
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(TlsError::Setup)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(verifier(path, files.client_may_have_none)?),
    };
    let (told, expires) = describe(&chain[0], files);
    let mut config = builder.with_single_cert(chain, key).map_err(|source| match source {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::OtherKey { key: files.key.clone(), certificate: files.certificate.clone() }
        }
        source => TlsError::Identity { certificate: files.certificate.clone(), source },
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Opening { config: Arc::new(config), told, expires })
}

/// Lets in whom these authorities know.
fn verifier(path: &Path, may_have_none: bool) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| TlsError::Authority { path: path.to_owned(), source })?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()));
    let builder = if may_have_none { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|source| TlsError::Authorities { path: path.to_owned(), source })
}

/// One at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |error| pem_error(path, "certificate", error);
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(error)?.collect::<Result<_, _>>().map_err(error)?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), what: "certificate" });
    }
    Ok(certificates)
}

fn pem_error(path: &Path, what: &'static str, error: PemError) -> TlsError {
    let path = path.to_owned();
    match error {
        PemError::Io(source) => TlsError::Read { path, source },
        PemError::NoItemsFound => TlsError::Empty { path, what },
        source => TlsError::Pem { path, source },
    }
}

/// For the log: whose certificate it is, and how long; and that as a number. One that is over is served all the same: clients say so better
/// than silence does.
fn describe(certificate: &CertificateDer<'_>, files: &TlsFiles) -> (String, Option<i64>) {
    let clients = match (&files.client_ca, files.client_may_have_none) {
        (None, _) => "",
        (Some(_), false) => ", and clients show theirs",
        (Some(_), true) => ", and clients may show theirs",
    };
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return (format!("TLS with the certificate in {}{clients}", files.certificate.display()), None);
    };
    let validity = parsed.validity();
    if !validity.is_valid() {
        warn!(
            file = %files.certificate.display(), from = %validity.not_before, until = %validity.not_after,
            "the certificate is not valid now: clients will refuse it"
        );
    }
    let name = peer::name(&parsed).unwrap_or_else(|| "nobody".to_owned());
    let told = format!("TLS with the certificate of {name}, valid until {}{clients}", validity.not_after);
    (told, Some(validity.not_after.timestamp()))
}
