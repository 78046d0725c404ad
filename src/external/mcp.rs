//! An MCP server over streamable HTTP. Every message is a POST of its own, answered with JSON or with a stream of events.
//!
//! ```text
//! initialize --> session --> tools/list, tools/call   ... 404: forgotten, not run --> initialize
//!                   |------> GET: tools/list_changed
//!                   `--DELETE, with the last call in it
//! ```
//!
//! The messages' types are rmcp's. Their carriage is our own: rmcp's client does not say whether a request that failed
//! had been sent, and does not bound an answer, and both are promised of a call.

mod answer;
mod events;
mod listen;
mod session;

use std::sync::Arc;

use rmcp::model::{ClientCapabilities, Implementation, InitializeRequestParams, InitializeResult, ProtocolVersion};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use self::session::{Post, Session};
use super::{
    config::{SourceConfig, SourceError},
    handle::Request,
    http::{self, GRACE, LIST_TIMEOUT, Tries, Unanswered},
};
use crate::tool::{ExternalEnd, ExternalEnding, Failure, job::Phases};

/// Pages of one list of tools: a server whose list has no end is told so.
const MAX_PAGES: usize = 32;

/// See the module.
pub(super) struct McpServer {
    post: Arc<Post>,
    /// Held while one is being made, so that it is made once.
    session: Mutex<Option<Open>>,
}

/// A session, and whoever listens in it, who ends with it.
struct Open {
    session: Arc<Session>,
    _listening: Option<AbortOnDropHandle<()>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    tools: Vec<Value>,
    next_cursor: Option<String>,
}

impl McpServer {
    /// Connects nowhere yet.
    pub(super) fn new(config: &SourceConfig) -> Result<Self, SourceError> {
        let address = |_| SourceError::Address { name: config.name.clone(), url: config.url.clone() };
        let url = reqwest::Url::parse(&config.url).map_err(address)?;
        let (http, max_answer_bytes) = (http::client(config)?, config.max_answer_bytes);
        let post = Post { http, url, max_answer_bytes, changed: Notify::new() };
        Ok(Self { post: Arc::new(post), session: Mutex::new(None) })
    }

    /// The function schemas of its tools; or why they are not known, for people.
    pub(super) async fn list(&self) -> Result<Vec<Value>, String> {
        let asked = async {
            match self.pages().await {
                // Its session was forgotten: now it has a new one.
                Err(unanswered) if unanswered.unsent && unanswered.failure == Failure::Protocol => self.pages().await,
                other => other,
            }
        };
        match timeout(LIST_TIMEOUT, asked).await {
            Ok(answer) => answer.map_err(|unanswered| unanswered.cause),
            Err(_) => Err(format!("no answer within {LIST_TIMEOUT:?}")),
        }
    }

    /// Once it has said that its tools are others.
    pub(super) async fn changed(&self) {
        self.post.changed.notified().await;
    }

    /// Nothing will be asked any more.
    pub(super) async fn close(&self) {
        if let Some(Open { session, _listening }) = self.session.lock().await.take() {
            drop(_listening);
            session.end().await;
        }
    }

    async fn pages(&self) -> Result<Vec<Value>, Unanswered> {
        let session = self.session().await?;
        let (mut tools, mut cursor) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let params = cursor.map_or_else(|| json!({}), |cursor: String| json!({ "cursor": cursor }));
            let page = match self.ask(&session, "tools/list", params).await? {
                Ok(page) => page,
                Err(error) => return Err(Unanswered::protocol(format!("it answered {}", answer::said(&error)))),
            };
            let page: Page = answer::result(&page)?;
            tools.extend(page.tools.iter().map(answer::schema));
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(tools);
            }
        }
        Err(Unanswered::protocol(format!("its list of tools has more than {MAX_PAGES} pages")))
    }

    /// Has a tool run. It is asked once, but for tries that have not reached it, or that it refused for their session.
    pub(super) async fn execute(&self, request: &Request) -> ExternalEnding {
        let mut tries = Tries::new(request.timeout);
        loop {
            let (answer, phases) = self.once(request).await;
            if let Some(ending) = tries.after(answer, phases).await {
                return ending;
            }
        }
    }

    async fn once(&self, request: &Request) -> (Result<ExternalEnd, Unanswered>, Phases) {
        let time = request.timeout;
        let late =
            |unsent| Unanswered { failure: Failure::Timeout, unsent, cause: format!("no answer within {time:?}") };
        let session = match timeout(time, self.session()).await {
            Ok(Ok(session)) => session,
            Ok(Err(unanswered)) => return (Err(unanswered), Phases::default()),
            Err(_) => return (Err(late(true)), Phases::default()),
        };
        let params = match answer::params(request) {
            Ok(params) => params,
            Err(unanswered) => return (Err(unanswered), Phases::default()),
        };
        let began = Instant::now();
        let asked = timeout_at(began + time + GRACE, self.ask(&session, "tools/call", params)).await;
        // An answer's beginning says nothing: a stream is begun before its tool.
        let phases = Phases { execution: began.elapsed(), ..Phases::default() };
        let end = match asked {
            Ok(answer) => answer.and_then(answer::end),
            Err(_) => Err(late(false)),
        };
        (end, phases)
    }

    /// One request. A session that is forgotten is so here, too: whatever was asked in it did not run.
    async fn ask(&self, session: &Arc<Session>, method: &str, params: Value) -> Result<answer::Answer, Unanswered> {
        let asked = session.ask(method, params).await;
        if asked.as_ref().is_err_and(|unanswered| unanswered.unsent && unanswered.failure == Failure::Protocol) {
            let mut current = self.session.lock().await;
            if current.as_ref().is_some_and(|current| Arc::ptr_eq(&current.session, session)) {
                *current = None;
            }
        }
        asked
    }

    /// The one there is, or a new one. Until there is one, nothing that is asked is sent.
    async fn session(&self) -> Result<Arc<Session>, Unanswered> {
        let mut current = self.session.lock().await;
        if let Some(Open { session, .. }) = &*current {
            return Ok(session.clone());
        }
        let made = match timeout(LIST_TIMEOUT, self.initialize()).await {
            Ok(made) => made.map_err(|unanswered| Unanswered { unsent: true, ..unanswered }),
            Err(_) => {
                let cause = format!("it did not begin a session within {LIST_TIMEOUT:?}");
                Err(Unanswered { failure: Failure::Timeout, unsent: true, cause })
            }
        };
        let session = Arc::new(made?);
        // Where no session is kept, there is nobody whom the server could tell anything.
        let listening = session.is_kept().then(|| {
            AbortOnDropHandle::new(tokio::spawn(listen::listen(self.post.clone(), session.headers().clone())))
        });
        *current = Some(Open { session: session.clone(), _listening: listening });
        Ok(session)
    }

    async fn initialize(&self) -> Result<Session, Unanswered> {
        let program = Implementation::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        let params = InitializeRequestParams::new(ClientCapabilities::default(), program)
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE);
        let (asked, id) = session::begin(&self.post, json!(params)).await?;
        let result = match asked {
            Ok(result) => result,
            Err(error) => return Err(Unanswered::protocol(format!("it answered {}", answer::said(&error)))),
        };
        let result: InitializeResult = answer::result(&result)?;
        let version = result.protocol_version;
        if !ProtocolVersion::KNOWN_VERSIONS.contains(&version) || !version.has_initialize() {
            return Err(Unanswered::protocol(format!("it speaks a version that is not known: {version}")));
        }
        let session = Session::new(self.post.clone(), id, &version)?;
        session.notify("notifications/initialized", json!({})).await?;
        Ok(session)
    }
}
