//! Why a subcommand failed, with what to do next.

use std::{error::Error, io};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::tool::chain;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("could not start the runtime")]
    Runtime(#[source] io::Error),
    #[error("`{address}` is no address of an executor: it is HOST:PORT, or a URL that begins with http:// or https://")]
    Address { address: String },
    #[error("could not read `{path}`")]
    Read { path: String, source: io::Error },
    #[error("could not write `{path}`")]
    Write { path: String, source: io::Error },
    #[error("`{0}` is a directory: pack it (`tar czf x.tar.gz -C {0} .`), and put the archive with --unpack")]
    Directory(String),
    #[error("say which path it is to have: there is no name to go by")]
    NoPath,
    #[error("`{0}` is no archive by its name: it must end in .tar, .tar.gz, .tgz or .tar.zst")]
    NoArchive(String),
    #[error("what has arrived is not what was sent: try it again")]
    Different,
    #[error("the token has a character that cannot be sent")]
    Token,
    #[error(
        "no executor answers at {address}: start one with `tool-executor serve`, or say where it is with --address or \
         TOOL_EXECUTOR_ADDRESS"
    )]
    Unreachable { address: String, source: tonic::transport::Error },
    #[error("the executor at {address} cannot be trusted, or does not trust this client: see --ca and --certificate")]
    Untrusted { address: String, source: tonic::transport::Error },
    #[error("what listens at {address} does not speak TLS: say http:// if that is what the executor speaks")]
    Plain { address: String },
    #[error("--ca, --certificate or --key cannot be used")]
    Certificates(#[source] tonic::transport::Error),
    #[error("`{address}` is not private: with --ca or --certificate it must begin with https://")]
    NotPrivate { address: String },
    #[error("{0}")]
    Refused(String),
    #[error("could not write to standard output")]
    Output(#[source] io::Error),
    #[error("the executor ended the stream without an answer: run it again")]
    NoAnswer,
    #[error("this program does not know its own protocol")]
    Descriptor,
}

impl Failure {
    /// That no connection could be made.
    pub(super) fn to_connect(address: String, source: tonic::transport::Error) -> Self {
        match of_tls(&source) {
            // No more than that is known of an answer that is none of TLS.
            Some(rustls::Error::InvalidMessage(_)) => Self::Plain { address },
            // One of the two did not like the other's certificate.
            Some(_) => Self::Untrusted { address, source },
            None => Self::Unreachable { address, source },
        }
    }

    /// What the executor, or the way to it, says.
    pub(super) fn of(status: &Status) -> Self {
        // The way to the executor broke: the status says that, and its cause says why.
        let said = status.source().map_or_else(|| status.message().to_owned(), chain);
        // A server says that it wants another certificate only after the connection was made.
        if said.contains(ALERT) {
            return Self::Refused(format!("{said}: see --ca and --certificate"));
        }
        if said.contains(NO_GRPC) {
            let advice = "no gRPC without TLS is spoken there: the address of an executor with it begins with https://";
            return Self::Refused(format!("{said}: {advice}"));
        }
        let advice = match status.code() {
            Code::Unauthenticated => "give the executor's token with --token or TOOL_EXECUTOR_TOKEN",
            Code::PermissionDenied => "the token does not allow it: ask whoever runs the executor for another",
            Code::AlreadyExists => "another client is attached to it: wait until it is gone, or use --take-over",
            Code::ResourceExhausted | Code::Unavailable => {
                "try again later; `tool-executor status` says how busy it is"
            }
            // Else it is a file that is not there.
            Code::NotFound if said == NOT_OPEN => "`tool-executor trajectories` lists those that are open",
            Code::Unimplemented => "is it an executor of this version that listens there?",
            _ => return Self::Refused(said),
        };
        Self::Refused(format!("{said}: {advice}"))
    }

    /// The same of a transfer, where a path may be what is wrong.
    pub(super) fn of_file(status: &Status) -> Self {
        let said = status.message();
        let advice = match status.code() {
            Code::NotFound if said == NOT_OPEN => return Self::of(status),
            Code::PermissionDenied if !said.contains("outside workspace") => return Self::Refused(said.to_owned()),
            Code::NotFound | Code::PermissionDenied => {
                "paths are of the workspace: relative to it, or below /workspace"
            }
            Code::FailedPrecondition if said.starts_with("Not a file") => "a directory comes with --archive",
            // Waiting would not help.
            Code::ResourceExhausted if status.get_details_retry_info().is_none() => {
                "make room in the workspace, or ask whoever runs the executor for a higher limit"
            }
            _ => return Self::of(status),
        };
        Self::Refused(format!("{said}: {advice}"))
    }
}

/// In what rustls says of a peer that has ended the connection; of the error itself, HTTP/2 keeps the text alone.
const ALERT: &str = "received fatal alert";

/// What the executor says of a trajectory that it does not have.
const NOT_OPEN: &str = "the trajectory is not open";

/// In what HTTP/2 says of an answer that is none of its own: TLS, or HTTP/1.1.
const NO_GRPC: &str = "frame with invalid size";

fn of_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    std::iter::successors(Some(error), |cause| (*cause).source()).find_map(|error| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        error.downcast_ref().or_else(|| inner?.downcast_ref())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_transfer_is_told_to_wait_only_where_that_helps() {
        let full = Status::resource_exhausted("the workspace is full");
        assert!(Failure::of_file(&full).to_string().contains("make room"));
        let retry = ErrorDetails::with_retry_info(Some(Duration::from_secs(1)));
        let busy = Status::with_error_details(Code::ResourceExhausted, "four transfers run", retry);
        assert!(Failure::of_file(&busy).to_string().contains("try again later"));
    }

    #[test]
    fn a_refusal_says_what_to_do_next() {
        let said = Failure::of(&Status::unauthenticated("the request has no bearer token")).to_string();
        assert_eq!(
            said,
            "the request has no bearer token: give the executor's token with --token or TOOL_EXECUTOR_TOKEN"
        );
        assert_eq!(Failure::of(&Status::invalid_argument("call_id: is empty")).to_string(), "call_id: is empty");
        assert_eq!(
            Failure::of(&Status::not_found("File not found: my trajectory")).to_string(),
            "File not found: my trajectory"
        );
        let said = Failure::of(&Status::not_found("the trajectory is not open")).to_string();
        assert!(said.ends_with("`tool-executor trajectories` lists those that are open"), "{said}");
    }
}
