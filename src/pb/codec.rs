//! The protocols' codec: Protobuf as everywhere, except that a message which cannot be decoded is the sender's fault and
//! names the field, that one which would become far larger is refused, and that an idle stream holds small buffers.

use std::marker::PhantomData;

use bytes::Buf;
use prost::{Message, Name};
use tonic::{
    Code, Status,
    codec::{
        BufferSettings, Codec as TonicCodec, DecodeBuf, Decoder as TonicDecoder, EncodeBuf, Encoder as TonicEncoder,
    },
};
use tonic_types::{ErrorDetails, StatusExt};

use super::weight;

/// A stream holds one buffer in each direction for as long as it is open; both grow for a message that needs more.
const BUFFERS: (usize, usize) = (1024, 32 * 1024);

/// See the module. Encodes `T`, decodes `U`.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> TonicCodec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        Decoder(PhantomData)
    }
}

#[derive(Debug)]
pub struct Encoder<T>(PhantomData<T>);

impl<T: Message> TonicEncoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFERS.0, BUFFERS.1)
    }
}

#[derive(Debug)]
pub struct Decoder<U>(PhantomData<U>);

impl<U: Message + Name + Default> TonicDecoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The whole message is one chunk.
        weight::check::<U>(buffer.chunk()).map_err(|error| invalid_argument("", &error.to_string()))?;
        U::decode(buffer).map(Some).map_err(|error| malformed(&error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFERS.0, BUFFERS.1)
    }
}

/// prost names the way to the field as `Message.field: Message.field: what is wrong`, the innermost first, and a oneof
/// by its own name.
fn malformed(error: &str) -> Status {
    let mut rest = error.strip_prefix("failed to decode Protobuf message: ").unwrap_or(error);
    let mut path = Vec::new();
    while let Some((step, after)) = rest.split_once(": ")
        && let Some((message, field)) = step.split_once('.')
        && [message, field].iter().all(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    {
        // The name of the one oneof that is all of its message says nothing.
        if field != "message" {
            path.push(field);
        }
        rest = after;
    }
    path.reverse();
    invalid_argument(&path.join("."), rest)
}

/// Of what is wrong with a field, in bytes. It may quote what was sent, and goes out twice as a header, of which clients
/// take 8 KiB in all: beyond that they see no status, but a broken stream.
const MAX_DESCRIPTION: usize = 500;

/// INVALID_ARGUMENT that names the field, in its text and as BadRequest details.
pub fn invalid_argument(field: &str, description: &str) -> Status {
    let description = &description[..description.floor_char_boundary(MAX_DESCRIPTION)];
    let message = if field.is_empty() { description.to_owned() } else { format!("{field}: {description}") };
    let details = ErrorDetails::with_bad_request_violation(field, description);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::toolexecutor::{Batch, Call, TrajectoryRequest, trajectory_request::Message as Request};

    #[test]
    fn a_status_fits_the_headers_that_clients_take() {
        // Each of these becomes nine bytes of a header.
        let status = invalid_argument("open.options.pool", &"\u{6f22}".repeat(10_000));
        let metadata = status.details().len() * 4 / 3 + status.message().len() * 3;
        assert!(metadata < 4_000, "{metadata}");
    }

    #[test]
    fn a_message_that_cannot_be_decoded_names_the_field() {
        let call = Call { call_id: "abc".to_owned(), ..Call::default() };
        let request = TrajectoryRequest { message: Some(Request::Batch(Batch { calls: vec![call] })) };
        let mut bytes = request.encode_to_vec();
        let at = bytes.windows(3).position(|window| window == b"abc").expect("the id is in the message");
        bytes[at] = 0xff;
        let error = TrajectoryRequest::decode(&*bytes).expect_err("that is no UTF-8");
        let status = malformed(&error.to_string());
        assert_eq!(status.code(), Code::InvalidArgument);
        let violations = status.get_details_bad_request().expect("it has details").field_violations;
        assert_eq!(violations[0].field, "calls.call_id");
        assert!(violations[0].description.contains("UTF-8"), "{}", violations[0].description);
    }
}
