//! The way to an executor.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::Failure;
use crate::pb::toolexecutor::tool_executor_client::ToolExecutorClient;

/// For the connection alone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer of many containers or results may be larger than what a client takes by default.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Which executor, and how it is spoken to.
#[derive(Debug, clap::Args)]
pub(super) struct Server {
    /// Where the executor listens: HOST:PORT, or a URL
    #[arg(long, env = "TOOL_EXECUTOR_ADDRESS", default_value = "127.0.0.1:9001")]
    address: String,
    /// The executor's bearer token, where it wants one
    #[arg(long, env = "TOOL_EXECUTOR_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Certificates (PEM) to trust beside the system's, for https://
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// This client's certificate (PEM), for an executor that wants one
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// And its key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Print the answer as JSON
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) type Client = ToolExecutorClient<InterceptedService<Channel, Bearer>>;

impl Server {
    /// # Errors
    /// What about the arguments is wrong, or that nobody answers there.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let bearer = Bearer::new(self.token.as_deref())?;
        let url = url(&self.address);
        let bad = || Failure::Address { address: self.address.clone() };
        let mut endpoint = Endpoint::from_shared(url.clone()).map_err(|_| bad())?.connect_timeout(CONNECT_TIMEOUT);
        if url.starts_with("https://") {
            endpoint = endpoint.tls_config(self.tls()?).map_err(Failure::Certificates)?;
        } else if self.ca.is_some() || self.certificate.is_some() {
            return Err(Failure::NotPrivate { address: self.address.clone() });
        }
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|source| Failure::to_connect(self.address.clone(), source))?;
        Ok(ToolExecutorClient::with_interceptor(channel, bearer).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    fn tls(&self) -> Result<ClientTlsConfig, Failure> {
        let mut tls = ClientTlsConfig::new().with_native_roots();
        if let Some(ca) = &self.ca {
            tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(tls)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|source| Failure::Read { path: path.display().to_string(), source })
}

fn url(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}

/// Adds the token to every request.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    fn new(token: Option<&str>) -> Result<Self, Failure> {
        let header = |token| format!("Bearer {token}").parse::<MetadataValue<Ascii>>();
        let mut header = token.map(header).transpose().map_err(|_| Failure::Token)?;
        header.iter_mut().for_each(|header| header.set_sensitive(true));
        Ok(Self(header))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_url_or_becomes_one() {
        assert_eq!(url("[::1]:9001"), "http://[::1]:9001");
        assert_eq!(url("https://executor.example"), "https://executor.example");
    }

    #[test]
    fn a_token_that_cannot_be_sent_is_told() {
        assert!(matches!(Bearer::new(Some("two\nlines")), Err(Failure::Token)));
        assert!(Bearer::new(Some("s3cret")).is_ok_and(|bearer| bearer.0.is_some()));
    }
}
