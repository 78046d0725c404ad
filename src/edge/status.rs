//! One table from every error to a gRPC status. The code is chosen by what the caller should do; a tool that fails is
//! a result and never comes here.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{access::Refused, parse::Violation};
use crate::{
    pb::codec::invalid_argument,
    tool::artifact::{Failure, FailureKind},
    trajectory::{DirectoryError, NoWorkspace, OpenError, StreamError},
};

/// How long a client that came at a bad moment should wait.
const SOON: Duration = Duration::from_millis(100);
/// How long a client of a service that is stopping should wait: somebody has to start it again.
const LATER: Duration = Duration::from_secs(5);

pub(super) fn violation(violation: &Violation) -> Status {
    invalid_argument(&violation.field, &violation.description)
}

pub(super) fn directory(error: &DirectoryError) -> Status {
    match error {
        DirectoryError::Open(error) => open(error),
        DirectoryError::Failed => Status::internal(error.to_string()),
    }
}

fn open(error: &OpenError) -> Status {
    let text = error.to_string();
    match error {
        OpenError::NotFound => Status::not_found(text),
        OpenError::AlreadyAttached => Status::already_exists(text),
        OpenError::OutOfRange { .. } => Status::out_of_range(text),
        OpenError::Releasing => retry(Code::Unavailable, text, SOON),
        OpenError::Draining | OpenError::HandedOver => retry(Code::Unavailable, text, LATER),
        OpenError::TooMany { .. } | OpenError::TooManyOfTenant { .. } | OpenError::DiskFull => {
            retry(Code::ResourceExhausted, text, LATER)
        }
    }
}

pub(super) fn stream(error: &StreamError) -> Status {
    match error {
        StreamError::Malformed { field, description } => invalid_argument(field, description),
        StreamError::TooLarge { description } => Status::out_of_range(description),
        StreamError::TakenOver => Status::aborted(error.to_string()),
        StreamError::HandedOver => retry(Code::Unavailable, error.to_string(), SOON),
        StreamError::NotReading { .. } => retry(Code::ResourceExhausted, error.to_string(), SOON),
    }
}

pub(super) fn no_workspace(error: NoWorkspace) -> Status {
    let text = error.to_string();
    match error {
        NoWorkspace::NotFound => Status::not_found(text),
        NoWorkspace::NoSlot | NoWorkspace::Gone => Status::failed_precondition(text),
        NoWorkspace::Changing => retry(Code::Unavailable, text, SOON),
    }
}

pub(super) fn transfer(failure: &Failure) -> Status {
    let text = failure.message.clone();
    match failure.kind {
        FailureKind::NotFound => Status::not_found(text),
        FailureKind::WrongKind => Status::failed_precondition(text),
        FailureKind::OutsideWorkspace | FailureKind::Denied => Status::permission_denied(text),
        FailureKind::OutOfRange => Status::out_of_range(text),
        FailureKind::Exhausted => Status::resource_exhausted(text),
        FailureKind::Invalid => Status::invalid_argument(text),
        FailureKind::Aborted => Status::aborted(text),
        FailureKind::Busy => retry(Code::ResourceExhausted, text, SOON),
        FailureKind::Other => Status::internal(text),
    }
}

pub(super) fn refused(refused: &Refused) -> Status {
    let text = refused.to_string();
    match refused {
        Refused::NoToken | Refused::NotBearer | Refused::WrongToken | Refused::Nameless | Refused::BadName(_) => {
            Status::unauthenticated(text)
        }
        Refused::Label { .. } | Refused::NoOperator(_) => Status::permission_denied(text),
    }
}

fn retry(code: Code, text: String, after: Duration) -> Status {
    Status::with_error_details(code, text, ErrorDetails::with_retry_info(Some(after)))
}
