//! Whom to trust as Nomad, and as whom to go there.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig as TlsConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{Error as PemError, PemObject as _},
    },
};

use super::{config::ClientConfig, error::ClientError};

/// For `https`.
pub(super) fn verified(config: &ClientConfig) -> Result<TlsConfig, ClientError> {
    let provider = Arc::new(ring::default_provider());
    let builder = TlsConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(ClientError::Tls)?;
    let builder = if config.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(TakeAny(provider)))
    } else {
        builder.with_root_certificates(roots(config)?)
    };
    match (&config.client_cert, &config.client_key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            if chain.is_empty() {
                return Err(ClientError::Empty { path: certificate.clone(), what: "certificate" });
            }
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| pem_error(key, "key", error))?;
            builder.with_client_auth_cert(chain, key).map_err(ClientError::Identity)
        }
        (Some(_), None) | (None, Some(_)) => Err(ClientError::HalfIdentity),
    }
}

/// For `http`, which never asks for it: trusts nobody.
pub(super) fn unused() -> Result<TlsConfig, ClientError> {
    let builder = TlsConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ClientError::Tls)?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// Those that are named; without any, those of the machine.
fn roots(config: &ClientConfig) -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &config.ca_cert {
        add(&mut roots, file)?;
        if roots.is_empty() {
            return Err(ClientError::Empty { path: file.clone(), what: "certificate" });
        }
    }
    if let Some(directory) = &config.ca_path {
        let read = |source| ClientError::Read { path: directory.clone(), source };
        for entry in fs::read_dir(directory).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.is_file() {
                add(&mut roots, &path)?;
            }
        }
        if roots.is_empty() {
            return Err(ClientError::Empty { path: directory.clone(), what: "certificate" });
        }
    }
    if config.ca_cert.is_none() && config.ca_path.is_none() {
        // A machine's list may hold some that cannot be read: those are not trusted.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(ClientError::NoRoots);
        }
    }
    Ok(roots)
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), ClientError> {
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| ClientError::Root { path: path.to_owned(), source })?;
    }
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let error = |error| pem_error(path, "certificate", error);
    CertificateDer::pem_file_iter(path).map_err(error)?.collect::<Result<_, _>>().map_err(error)
}

fn pem_error(path: &Path, what: &'static str, error: PemError) -> ClientError {
    let path = path.to_owned();
    match error {
        PemError::Io(source) => ClientError::Read { path, source },
        PemError::NoItemsFound => ClientError::Empty { path, what },
        source => ClientError::Pem { path, source },
    }
}

/// Takes any certificate, as `skip_verify` asks; whoever shows it must still hold its key.
#[derive(Debug)]
struct TakeAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
