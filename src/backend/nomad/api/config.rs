//! What a client is made of. Where it is read from is nobody's business here.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use reqwest::Url;

use crate::sandbox::client::Token;

/// How to reach Nomad: everything that its own command line honours.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    pub address: Address,
    pub token: Option<Token>,
    pub namespace: Option<String>,
    pub region: Option<String>,
    /// Certificates of those who may sign Nomad's. With any, the machine's own are not asked.
    pub ca_cert: Option<PathBuf>,
    /// A directory of such.
    pub ca_path: Option<PathBuf>,
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    /// The name that Nomad's certificate is for, where it is not the address's.
    pub tls_server_name: Option<String>,
    /// Takes any certificate.
    pub skip_verify: bool,
    pub http_auth: Option<HttpAuth>,
    /// Of each call, its repetitions among it; a blocking query may take this longer than it waits.
    pub timeout: Duration,
}

impl ClientConfig {
    /// Of a Nomad that needs nothing else.
    pub fn new(address: Address, timeout: Duration) -> Self {
        Self {
            address,
            token: None,
            namespace: None,
            region: None,
            ca_cert: None,
            ca_path: None,
            client_cert: None,
            client_key: None,
            tls_server_name: None,
            skip_verify: false,
            http_auth: None,
            timeout,
        }
    }
}

/// For a proxy before Nomad.
#[derive(Debug, Clone)]
pub struct HttpAuth {
    pub user: String,
    pub password: Token,
}

/// Where Nomad listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `http` or `https`, perhaps with a path.
    Http(Url),
    Unix(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("must start with http://, https:// or unix://")]
    Scheme,
    #[error("must be a URL such as http://127.0.0.1:4646")]
    Url,
    #[error("must be an absolute path after unix://")]
    Path,
    #[error("must not hold a user name or password")]
    Credentials,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(AddressError::Scheme)?;
        match scheme.to_ascii_lowercase().as_str() {
            "unix" if rest.starts_with('/') => return Ok(Self::Unix(rest.into())),
            "unix" => return Err(AddressError::Path),
            "http" | "https" => {}
            _ => return Err(AddressError::Scheme),
        }
        let mut url = Url::parse(text.trim()).map_err(|_| AddressError::Url)?;
        // They would be printed wherever the address is.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressError::Credentials);
        }
        url.set_query(None);
        url.set_fragment(None);
        Ok(Self::Http(url))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => f.write_str(url.as_str().trim_end_matches('/')),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_how_to_connect() {
        let shown = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        assert_eq!(shown("http://127.0.0.1:4646").as_deref(), Ok("http://127.0.0.1:4646"));
        assert_eq!(shown(" HTTPS://nomad.example/at/?x=1#y").as_deref(), Ok("https://nomad.example/at"));
        assert_eq!(shown("unix:///run/nomad.sock").as_deref(), Ok("unix:///run/nomad.sock"));
        assert_eq!(shown("unix://run/nomad.sock"), Err(AddressError::Path));
        assert_eq!(shown("127.0.0.1:4646"), Err(AddressError::Scheme));
        assert_eq!(shown("tcp://127.0.0.1:4646"), Err(AddressError::Scheme));
        assert_eq!(shown("http://"), Err(AddressError::Url));
        assert_eq!(shown("http://me:secret@nomad"), Err(AddressError::Credentials));
    }

    #[test]
    fn secrets_are_not_printed() {
        let address = "http://127.0.0.1:4646".parse().expect("an address");
        let config = ClientConfig {
            token: Some(Token::new("swordfish")),
            http_auth: Some(HttpAuth { user: "me".into(), password: Token::new("swordfish") }),
            ..ClientConfig::new(address, Duration::from_secs(1))
        };
        assert!(!format!("{config:?}").contains("swordfish"));
    }
}
