//! What opens the agents: made from one secret and the nonce of each dispatch, which stands in the child's meta. So an
//! executor that restarts needs to remember nothing else to reach the agents that it finds.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::spec::NomadConfig;
use crate::sandbox::client::{Address, CertificateError, Endpoint, Token};

/// HMAC-SHA256 of the nonce, in hexadecimal.
pub(super) fn token(secret: &Token, nonce: &str) -> Token {
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.reveal().as_bytes()) else { return Token::new("") };
    mac.update(nonce.as_bytes());
    let text: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Token::new(&text)
}

/// How the agent of that dispatch is reached.
pub(super) fn endpoint(config: &NomadConfig, nonce: &str, address: &str) -> Result<Endpoint, CertificateError> {
    let (address, token) = (Address::Tcp(address.to_owned()), token(&config.secret, nonce));
    if config.agent_tls { Endpoint::private(address, token) } else { Ok(Endpoint::new(address, token)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_container_has_a_token_of_its_own() {
        // RFC 4231, test case 2.
        let known = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(token(&Token::new("Jefe"), "what do ya want for nothing?").reveal(), known);
        assert_ne!(token(&Token::new("Jefe"), "a"), token(&Token::new("Jefe"), "b"));
    }
}
