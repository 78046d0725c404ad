//! How many parts a message has, before it is decoded. An element of a list may take two bytes of a message and hundreds
//! of memory, so that a message within the bounds of its size could fill the machine.

use std::{collections::HashMap, sync::LazyLock};

use prost::{Message as _, Name};
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// Of one list. Above the largest batch.
const MAX_ELEMENTS: u32 = 1 << 17;
/// Of the whole message. The largest batch has some twenty a call.
const MAX_FIELDS: u32 = 1 << 21;
/// A message of fewer bytes cannot become a large one.
const LIGHT: usize = 64 << 10;
/// prost follows no deeper.
const MAX_DEPTH: u32 = 100;

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let sets = [super::toolexecutor::FILE_DESCRIPTOR_SET, super::sandbox::FILE_DESCRIPTOR_SET];
    // They are this build's own, so that they always decode.
    let sets = sets.into_iter().filter_map(|set| FileDescriptorSet::decode(set).ok());
    Schema::of(sets.flat_map(|set| set.file).flat_map(|file| {
        let package = file.package().to_owned();
        file.message_type.into_iter().map(move |message| (format!(".{package}"), message))
    }))
});

/// More than a message may have: of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TooHeavy {
    #[error("has a list of more than {MAX_ELEMENTS} elements")]
    Elements,
    #[error("has more than {MAX_FIELDS} fields")]
    Fields,
}

/// Whether a message of this type may be decoded. What is malformed is left to the decoder to tell.
pub(super) fn check<M: Name>(message: &[u8]) -> Result<(), TooHeavy> {
    if message.len() < LIGHT {
        return Ok(());
    }
    let Some(root) = SCHEMA.types.get(&format!(".{}", M::full_name())) else { return Ok(()) };
    Walk { fields: 0 }.message(root, message, 0)
}

/// What of each type has to be known.
#[derive(Default)]
struct Schema {
    /// By their full names, which begin with a dot.
    types: HashMap<String, Vec<Field>>,
}

/// One that is a list, or a message.
struct Field {
    number: u64,
    is_list: bool,
    /// The type's name, if it is a message.
    of: Option<String>,
}

impl Schema {
    fn of(messages: impl Iterator<Item = (String, DescriptorProto)>) -> Self {
        let mut schema = Self::default();
        messages.for_each(|(parent, message)| schema.add(&parent, &message));
        schema
    }

    fn add(&mut self, parent: &str, message: &DescriptorProto) {
        let name = format!("{parent}.{}", message.name());
        message.nested_type.iter().for_each(|nested| self.add(&name, nested));
        let fields = message.field.iter().map(|field| Field {
            number: u64::try_from(field.number()).unwrap_or(0),
            is_list: field.label() == Label::Repeated,
            of: (field.r#type() == Type::Message).then(|| field.type_name().to_owned()),
        });
        self.types.insert(name, fields.filter(|field| field.is_list || field.of.is_some()).collect());
    }
}

struct Walk {
    fields: u32,
}

impl Walk {
    fn message(&mut self, fields: &[Field], mut rest: &[u8], depth: u32) -> Result<(), TooHeavy> {
        let mut elements = vec![0; fields.len()];
        while let Some(key) = varint(&mut rest) {
            self.fields += 1;
            if self.fields > MAX_FIELDS {
                return Err(TooHeavy::Fields);
            }
            let content = match key & 7 {
                0 => varint(&mut rest).map(|_| &[][..]),
                1 => take(&mut rest, 8),
                2 => varint(&mut rest).and_then(|length| take(&mut rest, length)),
                5 => take(&mut rest, 4),
                // Groups, which proto3 has not, and what is no key at all.
                _ => None,
            };
            let Some(content) = content else { break };
            let Some(index) = fields.iter().position(|field| field.number == key >> 3) else { continue };
            let Field { is_list, of, .. } = &fields[index];
            elements[index] += u32::from(*is_list);
            if elements[index] > MAX_ELEMENTS {
                return Err(TooHeavy::Elements);
            }
            if let Some(inner) = of.as_ref().and_then(|name| SCHEMA.types.get(name))
                && depth < MAX_DEPTH
            {
                self.message(inner, content, depth + 1)?;
            }
        }
        Ok(())
    }
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (content, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    Some(content)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(rest).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pb::{
        sandbox::{Event, Events, LinkResponse, link_response},
        toolexecutor::{Batch, Call, Command, ToolCall, TrajectoryRequest, call::Action, trajectory_request},
    };

    fn batch(calls: Vec<Call>) -> Vec<u8> {
        TrajectoryRequest { message: Some(trajectory_request::Message::Batch(Batch { calls })) }.encode_to_vec()
    }

    #[test]
    fn the_largest_batch_is_light_enough() {
        let arguments = |name: &str| (name.to_owned(), prost_types::Value::default());
        let fields = ["command", "timeout", "path"].map(arguments).into();
        let arguments =
            Some(crate::pb::toolexecutor::tool_call::Arguments::ArgumentsStruct(prost_types::Struct { fields }));
        let tool = Action::Tool(ToolCall { name: "bash".to_owned(), arguments });
        let call = Call { call_id: "id".to_owned(), action: Some(tool), ..Call::default() };
        assert_eq!(check::<TrajectoryRequest>(&batch(vec![call; 100_000])), Ok(()));
    }

    #[test]
    fn lists_have_a_bound_wherever_they_are() {
        let most = MAX_ELEMENTS as usize;
        assert_eq!(check::<TrajectoryRequest>(&batch(vec![Call::default(); most])), Ok(()));
        assert_eq!(check::<TrajectoryRequest>(&batch(vec![Call::default(); most + 1])), Err(TooHeavy::Elements));
        let argv = crate::pb::toolexecutor::Argv { arguments: vec![String::new(); most + 1] };
        let program = Some(crate::pb::toolexecutor::command::Program::Argv(argv));
        let command = Action::Command(Command { program, ..Command::default() });
        let deep = batch(vec![Call { action: Some(command), ..Call::default() }]);
        assert_eq!(check::<TrajectoryRequest>(&deep), Err(TooHeavy::Elements));
        let events = Events { events: vec![Event::default(); most + 1], ..Events::default() };
        let response = LinkResponse { message: Some(link_response::Message::Events(events)) };
        assert_eq!(check::<LinkResponse>(&response.encode_to_vec()), Err(TooHeavy::Elements));
    }

    #[test]
    fn fields_have_a_bound_together() {
        // A field that takes no memory takes time.
        let many = [0x28, 1].repeat(MAX_FIELDS as usize + 1);
        assert_eq!(check::<Call>(&many), Err(TooHeavy::Fields));
        assert_eq!(check::<Call>(&many[..2 * MAX_FIELDS as usize]), Ok(()));
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_walked(piece in prop::collection::vec(any::<u8>(), 1..64)) {
            let _ = check::<TrajectoryRequest>(&piece.repeat(LIGHT / piece.len() + 1));
        }
    }
}
