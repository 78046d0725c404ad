//! The agent's program, for containers that have none: a file of this machine at a path that names its content. It is no
//! secret, and whoever downloads it has no token.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use sha2::{Digest, Sha256};
use tokio_util::io::ReaderStream;
use tracing::error;

/// Of a read.
const CHUNK: usize = 256 << 10;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentProgram {
    file: PathBuf,
    sha256: String,
}

impl AgentProgram {
    /// Reads the whole file, which must stay as it is.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn new(file: &Path) -> io::Result<Self> {
        let (mut content, mut hash) = (File::open(file)?, Sha256::new());
        let mut chunk = vec![0; CHUNK];
        loop {
            match content.read(&mut chunk)? {
                0 => break,
                length => hash.update(&chunk[..length]),
            }
        }
        let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { file: file.to_owned(), sha256 })
    }

    /// In hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// On this port.
    pub fn path(&self) -> String {
        format!("/agent/{}/tool-executor", self.sha256)
    }

    pub(super) fn router(self) -> Router {
        Router::new().route(&self.path(), get(download)).with_state(self)
    }
}

async fn download(State(program): State<AgentProgram>) -> Response {
    let opened = async {
        let file = tokio::fs::File::open(&program.file).await?;
        let length = file.metadata().await?.len();
        io::Result::Ok((file, length))
    };
    match opened.await {
        Ok((file, length)) => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
                (header::CONTENT_LENGTH, length.to_string()),
            ];
            (headers, Body::from_stream(ReaderStream::with_capacity(file, CHUNK))).into_response()
        }
        Err(error) => {
            error!(error = &error as &dyn std::error::Error, "the agent's program cannot be read");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
