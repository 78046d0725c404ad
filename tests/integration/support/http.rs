//! A client of plain HTTP that sends exactly what a test says.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::client::PATIENCE;

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The names in small letters.
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Of a request that was done.
    pub(crate) fn done(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }
}

/// A request that a service at this address is sent.
pub(crate) struct Request<'a> {
    address: &'a str,
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(address: &'a str, method: &str, path: &str) -> Self {
        Self { address, line: format!("{method} {path} HTTP/1.1"), headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn get(address: &'a str, path: &str) -> Self {
        Self::new(address, "GET", path)
    }

    pub(crate) fn post(address: &'a str, path: &str, body: &Value) -> Self {
        Self::new(address, "POST", path).header("Content-Type", "application/json").body(body.to_string())
    }

    /// Of one tool call.
    pub(crate) fn execute(address: &'a str, trajectory: &str, uniq_id: &str, command: &str) -> Self {
        let tool = json!({"name": "terminal", "arguments": {"command": command}, "uniq_id": uniq_id});
        Self::post(address, "/execute", &json!({"trajectory_id": trajectory, "tool": tool}))
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it, and leaves the answer to whoever wants it.
    pub(crate) async fn start(self) -> TcpStream {
        let mut connection = TcpStream::connect(self.address).await.expect("it listens");
        let mut head = format!("{}\r\nHost: {}\r\nConnection: close\r\n", self.line, self.address);
        if !self.headers.iter().any(|(name, _)| name == "Content-Length") {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        self.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        connection.write_all(&[head.as_bytes(), b"\r\n", &self.body].concat()).await.expect("it reads");
        connection
    }

    pub(crate) async fn send(self) -> Answer {
        read(self.start().await).await
    }
}

/// The answer on a connection that ends after it.
pub(crate) async fn read(mut connection: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    timeout(PATIENCE, connection.read_to_end(&mut bytes)).await.expect("an answer in time").expect("it answers");
    let text = String::from_utf8(bytes).expect("it answers with text");
    let (head, body) = text.split_once("\r\n\r\n").expect("the answer has a head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": "));
    Answer {
        status: status.expect("the answer has a status"),
        headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect(),
        body: body.to_owned(),
    }
}
