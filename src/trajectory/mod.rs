//! One episode of an agent: the order of its calls, its ledger, its stream, its lease.

mod accounts;
mod command;
mod connection;
mod directory;
mod driver;
mod ledger;
mod observer;
mod request;
mod start;
mod state;
mod totals;
mod transfer;

pub use accounts::Quota;
pub use command::Answer;
pub use connection::Responses;
pub use directory::{Directory, DirectoryError, Listed};
pub use observer::{Answered, Failed, Observer};
pub use request::{
    Call, Defaults, Limits, Notice, Open, OpenError, Opened, Output, OutputStream, ReleaseCause, Request, Requests,
    Response, StreamError, StreamFault, Unfit, Work,
};
pub use start::{Start, restore};
pub use state::{Description, Inspection, LiveCall};
pub use totals::Counts;
pub use transfer::{NoWorkspace, Workspace};
