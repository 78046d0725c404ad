//! Privacy between executor and agent where a network is between them. Both make the same key from the token that they
//! share: the agent shows its certificate, and the executor takes that one and no other. So there is no authority to
//! run, nothing to distribute and nothing to renew; whoever does not know the token can neither read nor answer.

use hmac::{Hmac, KeyInit, Mac};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use sha2::Sha256;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// In the certificate; which machine an agent is on says nothing about who it is.
const NAME: &str = "agent";
/// Tells this use of the token from its sending.
const PURPOSE: &[u8] = b"tool-executor: key of the agent's certificate";
/// What stands before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410, section 7).
const PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// No certificate can be made.
#[derive(Debug, thiserror::Error)]
#[error("could not make the agent's certificate")]
pub struct CertificateError(#[from] rcgen::Error);

/// How the agent with this token serves.
pub(super) fn server(token: &str) -> Result<ServerTlsConfig, CertificateError> {
    let (certificate, key) = certificate(token)?;
    Ok(ServerTlsConfig::new().identity(Identity::from_pem(certificate, key.serialize_pem())))
}

/// How the executor reaches the agent with this token.
pub(super) fn client(token: &str) -> Result<ClientTlsConfig, CertificateError> {
    let (certificate, _) = certificate(token)?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificate)).domain_name(NAME))
}

fn certificate(token: &str) -> Result<(String, KeyPair), rcgen::Error> {
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(token.as_bytes()) else {
        return Err(rcgen::Error::KeyGenerationUnavailable);
    };
    mac.update(PURPOSE);
    let key = [PKCS8.as_slice(), &mac.finalize().into_bytes()].concat();
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&key.into(), &PKCS_ED25519)?;
    let certificate = CertificateParams::new([NAME.to_owned()])?.self_signed(&key)?;
    Ok((certificate.pem(), key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_token_makes_the_same_key_and_another_another() {
        let key = |token| certificate(token).unwrap().1.serialize_pem();
        assert_eq!(key("token"), key("token"));
        assert_ne!(key("token"), key("another"));
    }
}
