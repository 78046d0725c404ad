//! Who is at the other end of a connection, as far as TLS has shown it.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Goes with every request of a client whose certificate has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The common name of the certificate's subject, or its first DNS name or URI; none of one that has none of these.
    pub name: Option<String>,
}

impl Peer {
    /// Of a client with this certificate, which has been verified.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        let parsed = X509Certificate::from_der(certificate).ok();
        Self { name: parsed.and_then(|(_, certificate)| name(&certificate)) }
    }
}

/// The name by which a certificate's holder is known here.
pub(super) fn name(certificate: &X509Certificate<'_>) -> Option<String> {
    let common = certificate.subject().iter_common_name().find_map(|name| name.as_str().ok());
    let alternative = || {
        let names = certificate.subject_alternative_name().ok()??;
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::URI(name) => Some(*name),
            _ => None,
        })
    };
    common.filter(|name| !name.is_empty()).or_else(alternative).map(str::to_owned)
}
