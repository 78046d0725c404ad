//! The client, and how it is made.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue},
    redirect, retry,
};
use rustls::pki_types::DnsName;
use tokio::sync::Semaphore;

use super::{
    config::{Address, ClientConfig},
    error::ClientError,
    tally::{Requests, Tally},
    tls,
    transport::Transport,
};

/// Requests at a time, streams and blocking queries among them: each takes a connection, and Nomad takes 100 of an
/// address, which others on this machine may want too.
const MAX_REQUESTS: usize = 64;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Whoever does not connect within this has surely not been asked.
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

const TOKEN: HeaderName = HeaderName::from_static("x-nomad-token");

/// Nomad's API. Cheap to clone; the clones share connections and bounds.
#[derive(Clone)]
pub struct Client {
    pub(super) transport: Arc<Transport>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Reads certificates, and connects nowhere.
    ///
    /// # Errors
    /// If a certificate or a key cannot be used.
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let mut headers = headers(config)?;
        let mut builder = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .referer(false)
            // A redirect would carry the token elsewhere.
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .connect_timeout(MAX_CONNECT_TIMEOUT.min(config.timeout / 2))
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_REQUESTS);
        let base = match &config.address {
            Address::Unix(path) => {
                builder = builder.unix_socket(path.as_path()).tls_backend_preconfigured(tls::unused()?);
                Url::parse("http://localhost/").expect("a URL")
            }
            Address::Http(url) if url.scheme() == "https" => {
                builder = builder.tls_backend_preconfigured(tls::verified(config)?);
                match &config.tls_server_name {
                    Some(name) if !name.is_empty() => {
                        let (renamed, at) = rename(url, name)?;
                        headers.insert(HOST, header(url.authority(), "the address")?);
                        builder = builder.dns_resolver(Arc::new(at));
                        renamed
                    }
                    _ => url.clone(),
                }
            }
            Address::Http(url) => {
                builder = builder.tls_backend_preconfigured(tls::unused()?);
                url.clone()
            }
        };
        let http = builder.default_headers(headers).build().map_err(ClientError::Http)?;
        let scope = [("namespace", &config.namespace), ("region", &config.region)];
        let transport = Transport {
            http,
            base,
            scope: scope.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect(),
            secrets: config.token.iter().chain(config.http_auth.iter().map(|auth| &auth.password)).cloned().collect(),
            permits: Arc::new(Semaphore::new(MAX_REQUESTS)),
            timeout: config.timeout,
            tally: Tally::default(),
        };
        Ok(Self { transport: Arc::new(transport) })
    }

    /// What it has been asked for since it was made, each try by itself.
    pub fn requests(&self) -> Vec<Requests> {
        self.transport.tally.get()
    }
}

fn headers(config: &ClientConfig) -> Result<HeaderMap, ClientError> {
    let mut headers = HeaderMap::new();
    if let Some(token) = &config.token {
        headers.insert(TOKEN, secret(token.reveal(), "the token")?);
    }
    if let Some(auth) = &config.http_auth {
        let credentials = BASE64_STANDARD.encode(format!("{}:{}", auth.user, auth.password.reveal()));
        headers.insert(AUTHORIZATION, secret(&format!("Basic {credentials}"), "the user name and password")?);
    }
    Ok(headers)
}

fn header(value: &str, what: &'static str) -> Result<HeaderValue, ClientError> {
    HeaderValue::from_str(value).map_err(|_| ClientError::Header(what))
}

fn secret(value: &str, what: &'static str) -> Result<HeaderValue, ClientError> {
    let mut value = header(value, what)?;
    value.set_sensitive(true);
    Ok(value)
}

/// TLS asks the host of the URL for a certificate with its name. Where it has another, the URL gets that one, and the
/// name leads to where the host is.
fn rename(url: &Url, name: &str) -> Result<(Url, Elsewhere), ClientError> {
    let wrong = || ClientError::ServerName(name.to_owned());
    DnsName::try_from(name).map_err(|_| wrong())?;
    let mut renamed = url.clone();
    renamed.set_host(Some(name)).map_err(|_| wrong())?;
    // `1.2` is a name in form, and an address to a URL: it would be connected to.
    if renamed.domain().is_none() {
        return Err(wrong());
    }
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((renamed, Elsewhere(host)))
}

/// Resolves every name to where this host is.
struct Elsewhere(String);

impl Resolve for Elsewhere {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            // The port is the URL's.
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
