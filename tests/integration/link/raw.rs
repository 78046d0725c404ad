//! The protocol by hand.

use std::collections::VecDeque;

use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tool_executor::pb::sandbox::{
    Attach, Attached, Event, LinkRequest, LinkResponse, Request, Requests, link_request, link_response, request,
    sandbox_service_client::SandboxServiceClient,
};

use crate::support::{
    agent::{Agent, TOKEN},
    client::PATIENCE,
};

/// A link whose words a test chooses.
pub(super) struct Raw {
    requests: mpsc::Sender<LinkRequest>,
    sent: u64,
    responses: Streaming<LinkResponse>,
    pub(super) attached: Attached,
    events: VecDeque<(u64, Event)>,
    /// As the agent has said last.
    pub(super) requests_received: u64,
}

impl Raw {
    pub(super) async fn attach(agent: &Agent, epoch: u64) -> Result<Self, Status> {
        let socket = agent.socket();
        let channel = tonic::transport::Endpoint::from_static("http://agent")
            .connect_with_connector(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await
            .expect("the agent is there");
        let (requests, receiver) = mpsc::channel(16);
        let attach = Attach { epoch, token: TOKEN.to_owned(), ..Attach::default() };
        let first = LinkRequest { message: Some(link_request::Message::Attach(attach)) };
        requests.send(first).await.expect("there is room");
        let mut responses = SandboxServiceClient::new(channel).link(ReceiverStream::new(receiver)).await?.into_inner();
        let first = responses.message().await?.and_then(|response| response.message);
        let Some(link_response::Message::Attached(attached)) = first else { panic!("{first:?}") };
        Ok(Self { requests, sent: 0, responses, attached, events: VecDeque::new(), requests_received: 0 })
    }

    pub(super) async fn send(&mut self, requests: Vec<request::Request>) {
        let first = self.sent + 1;
        self.sent += requests.len() as u64;
        let requests = requests.into_iter().map(|request| Request { request: Some(request) }).collect();
        let requests = Requests { first, requests, events_acknowledged: 0 };
        let request = LinkRequest { message: Some(link_request::Message::Requests(requests)) };
        self.requests.send(request).await.expect("the link is there");
    }

    /// Leaves so many numbers out.
    pub(super) fn skip(&mut self, requests: u64) {
        self.sent += requests;
    }

    /// How the link ends, whatever comes before that.
    pub(super) async fn end(&mut self) -> Status {
        loop {
            match timeout(PATIENCE, self.responses.message()).await.expect("an end in time") {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    }

    pub(super) async fn receive(&mut self) {
        let response = timeout(PATIENCE, self.responses.message()).await.expect("an answer in time");
        match response.expect("the link is there").and_then(|response| response.message) {
            Some(link_response::Message::Events(events)) => {
                self.requests_received = events.requests_received;
                self.events.extend((events.first..).zip(events.events));
            }
            other => panic!("{other:?}"),
        }
    }

    /// The next event, with its number.
    pub(super) async fn event(&mut self) -> (u64, Event) {
        loop {
            match self.events.pop_front() {
                Some(event) => return event,
                None => self.receive().await,
            }
        }
    }
}
