//! An authority that makes certificates for tests, in files.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, SanType};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tempfile::TempDir;
use tonic::transport::{Certificate, ClientTlsConfig, Identity as TonicIdentity};

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// Where a certificate and its key are.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let authority = Self { issuer, directory: tempfile::tempdir().expect("a directory") };
        fs::write(authority.file(), authority.issuer.pem()).expect("a file");
        authority
    }

    /// Its own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// For a server at 127.0.0.1, which is known by this name.
    pub(crate) fn server(&self, name: &str) -> Identity {
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
        params.distinguished_name = common_name(name);
        self.issue(name, &params)
    }

    /// For a client of this common name, if it has one, and of these other names.
    pub(crate) fn client(&self, common: Option<&str>, others: &[SanType]) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name = common.map(common_name).unwrap_or_default();
        params.subject_alt_names = others.to_vec();
        self.issue(common.unwrap_or("nameless"), &params)
    }

    fn issue(&self, file: &str, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let at = |what: &str| self.directory.path().join(format!("{file}.{what}"));
        let identity = Identity { certificate: at("crt"), key: at("key") };
        fs::write(&identity.certificate, certificate.pem()).expect("a file");
        fs::write(&identity.key, key.serialize_pem()).expect("a file");
        identity
    }

    /// A gRPC client that trusts this authority, and shows the certificate, if it has one.
    pub(crate) fn trusted_by_tonic(&self, shows: Option<&Identity>) -> ClientTlsConfig {
        let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&self.file())));
        match shows {
            Some(identity) => {
                config.identity(TonicIdentity::from_pem(read(&identity.certificate), read(&identity.key)))
            }
            None => config,
        }
    }

    /// A client of anything that trusts this authority, shows the certificate, if it has one, and offers these protocols.
    pub(crate) fn trusted(&self, shows: Option<&Identity>, protocols: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a root");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match shows {
            Some(identity) => {
                let chain = vec![CertificateDer::from_pem_file(&identity.certificate).expect("a certificate")];
                let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("an identity")
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

impl Identity {
    /// The settings of a server that has it.
    pub(crate) fn settings(&self) -> [(&'static str, &str); 2] {
        [("TLS_CERTIFICATE", text(&self.certificate)), ("TLS_KEY", text(&self.key))]
    }

    /// Becomes another, in the same files.
    pub(crate) fn become_like(&self, other: &Self) {
        fs::copy(&other.certificate, &self.certificate).expect("a file");
        fs::copy(&other.key, &self.key).expect("a file");
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("it is text")
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("a file")
}

fn common_name(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::CommonName, name);
    all
}
