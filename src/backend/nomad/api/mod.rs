//! Nomad's HTTP API, as far as the backend needs it: thin and typed.
//!
//! ```text
//! Client --calls--> transport (bounds, deadline, retries) --> one pooled HTTP/1.1 client
//!        '-events-> EventStream: lines of JSON, a hint of what has changed
//! ```
//!
//! * Every call ends, in an answer or in an [`ApiError`] that says what to do about it. An agent may accept a call
//!   and never answer.
//! * What may have happened at the server is never asked for again behind the caller's back, unless twice is the same
//!   as once.
//! * Nomad takes 100 connections of an address, and refuses the next ones: far fewer are used.
//! * No secret is in a message.

mod call;
mod calls;
mod classify;
mod client;
mod config;
mod error;
mod events;
mod model;
mod retry;
mod tally;
mod tls;
mod transport;

pub use self::{
    client::Client,
    config::{Address, AddressError, ClientConfig, HttpAuth},
    error::{ApiError, ClientError},
    events::{Event, EventStream, Events, Payload, StreamEnd},
    model::{
        AgentSelf, AllocatedResources, Allocation, DesiredTransition, Dispatch, Dispatched, Driver, Evaluation, Job,
        JobStub, Listed, Network, NodeCpu, NodeMemory, NodeResources, NodeStub, ParameterizedJob, PlacementFailure,
        Port, Registered, SelfToken, SharedResources, Stopped, TaskEvent, TaskState, Validation,
    },
    tally::Requests,
};
