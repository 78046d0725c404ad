//! Messages as JSON, in Protobuf's own mapping.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage};

use super::Failure;
use crate::pb::toolexecutor::FILE_DESCRIPTOR_SET;

static PROTOCOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).ok());

/// On one line.
///
/// # Errors
/// Never, in a program that was built well.
pub(super) fn line<M: Message + Name>(message: &M) -> Result<String, Failure> {
    let descriptor = PROTOCOL.as_ref().and_then(|protocol| protocol.get_message_by_name(&M::full_name()));
    let mut dynamic = DynamicMessage::new(descriptor.ok_or(Failure::Descriptor)?);
    dynamic.transcode_from(message).map_err(|_| Failure::Descriptor)?;
    serde_json::to_string(&dynamic).map_err(|_| Failure::Descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::toolexecutor::{CallResult, Executed, Outcome, Timings};

    #[test]
    fn every_kind_of_field_has_its_form() {
        let total = Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 });
        let result = CallResult {
            call_id: "a".to_owned(),
            sequence: 1 << 60,
            outcome: Outcome::Succeeded.into(),
            executed: Executed::Yes.into(),
            success: true,
            timings: Some(Timings { total, ..Timings::default() }),
            ..CallResult::default()
        };
        let expected = r#"{"callId":"a","sequence":"1152921504606846976","outcome":"OUTCOME_SUCCEEDED","executed":"EXECUTED_YES","success":true,"timings":{"total":"1.500s"}}"#;
        assert_eq!(line(&result).expect("it is a message of the protocol"), expected);
    }
}
