//! `docs/protocol.md` is what the protocol's own comments say.
//!
//! ```text
//! UPDATE_DOCS=1 cargo test --test integration docs::protocol
//! ```
//!
//! writes it anew.

use std::{collections::HashMap, env, fmt::Write, fs};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
    source_code_info::Location,
};
use tool_executor::pb::toolexecutor::FILE_DESCRIPTOR_SET;

use super::place;

const DOCUMENT: &str = "docs/protocol.md";
const PACKAGE: &str = "toolexecutor.v1";

/// Numbers of fields in the descriptor of a file, of which the paths of places in it consist.
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const SERVICES: i32 = 6;
const SYNTAX: i32 = 12;
const OF_THEIRS: i32 = 2;

#[test]
fn the_document_is_what_the_protocol_says() {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let file = set.file.into_iter().find(|file| file.package() == PACKAGE).unwrap();
    let wanted = Document::new(&file).write();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(place(DOCUMENT), &wanted).unwrap();
    }
    let found = fs::read_to_string(place(DOCUMENT)).unwrap_or_default();
    assert!(found == wanted, "{DOCUMENT} is out of date: UPDATE_DOCS=1 cargo test --test integration docs::protocol");
    // Nothing of it is left out, and comments are there.
    for word in ["`Trajectory`", "### CallResult", "`REASON_WORKSPACE_GONE`", "At most 100,000 calls"] {
        assert!(wanted.contains(word), "{word}");
    }
}

struct Document<'a> {
    file: &'a FileDescriptorProto,
    places: HashMap<&'a [i32], &'a Location>,
}

impl<'a> Document<'a> {
    fn new(file: &'a FileDescriptorProto) -> Self {
        let info = file.source_code_info.as_ref().expect("it is compiled with its comments");
        Self { file, places: info.location.iter().map(|place| (&*place.path, place)).collect() }
    }

    fn write(&self) -> String {
        let mut text = String::from("# The protocol\n\n");
        write!(text, "{}\n\n", self.comment(&[SYNTAX])).unwrap();
        text.push_str(
            "This is made from the comments of \
             [`proto/toolexecutor/v1/tool_executor.proto`](../proto/toolexecutor/v1/tool_executor.proto), which is the \
             contract. `Duration`, `Timestamp` and `Struct` are `google.protobuf`'s.\n",
        );
        for (index, service) in self.file.service.iter().enumerate() {
            self.service(&mut text, service, index as i32);
        }
        // In the order of the file, in which messages and enumerations are mixed.
        let messages = (0..self.file.message_type.len()).map(|index| [MESSAGES, index as i32]);
        let enums = (0..self.file.enum_type.len()).map(|index| [ENUMS, index as i32]);
        let mut types: Vec<_> = messages.chain(enums).collect();
        types.sort_by_key(|path| self.places[&path[..]].span[0]);
        for path in types {
            if let Some(section) = self.section(&path) {
                write!(text, "\n## {section}\n").unwrap();
            }
            match path {
                [MESSAGES, index] => self.message(&mut text, &self.file.message_type[index as usize], &path),
                [_, index] => self.enumeration(&mut text, &self.file.enum_type[index as usize], &path),
            }
        }
        text
    }

    fn service(&self, text: &mut String, service: &ServiceDescriptorProto, index: i32) {
        write!(text, "\n## {PACKAGE}.{}\n\n| RPC | Request | Response | |\n|---|---|---|---|\n", service.name())
            .unwrap();
        for (method, number) in service.method.iter().zip(0..) {
            let side = |stream: bool, name: &str| format!("{}{}", if stream { "stream of " } else { "" }, linked(name));
            let request = side(method.client_streaming(), method.input_type());
            let response = side(method.server_streaming(), method.output_type());
            let comment = self.line(&[SERVICES, index, OF_THEIRS, number]);
            writeln!(text, "| `{}` | {request} | {response} | {comment} |", method.name()).unwrap();
        }
    }

    fn message(&self, text: &mut String, message: &DescriptorProto, path: &[i32]) {
        self.heading(text, message.name(), path);
        if message.field.is_empty() {
            return text.push_str("\nNo fields.\n");
        }
        text.push_str("\n| Field | Type | |\n|---|---|---|\n");
        for (field, number) in message.field.iter().zip(0..) {
            let comment = self.line(&[path, &[OF_THEIRS, number]].concat());
            let one_of = match field.oneof_index {
                Some(index) if !field.proto3_optional() => {
                    format!("One of `{}`. ", message.oneof_decl[index as usize].name())
                }
                _ => String::new(),
            };
            let cell = format!("{one_of}{comment}");
            writeln!(text, "| `{}` = {} | {} | {} |", field.name(), field.number(), typed(field, message), cell.trim())
                .unwrap();
        }
    }

    fn enumeration(&self, text: &mut String, enumeration: &EnumDescriptorProto, path: &[i32]) {
        self.heading(text, enumeration.name(), path);
        text.push('\n');
        for (value, number) in enumeration.value.iter().zip(0..) {
            let comment = self.line(&[path, &[OF_THEIRS, number]].concat());
            if !comment.is_empty() {
                // It is said of those that follow, too.
                write!(text, "\n{comment}\n\n").unwrap();
            }
            writeln!(text, "- `{}` = {}", value.name(), value.number()).unwrap();
        }
    }

    fn heading(&self, text: &mut String, name: &str, path: &[i32]) {
        write!(text, "\n### {name}\n").unwrap();
        let comment = self.comment(path);
        if !comment.is_empty() {
            write!(text, "\n{comment}\n").unwrap();
        }
    }

    fn comment(&self, path: &[i32]) -> String {
        let comment = self.places.get(path).and_then(|place| place.leading_comments.as_deref()).unwrap_or_default();
        escaped(comment.lines().map(str::trim).collect::<Vec<_>>().join("\n").trim())
    }

    fn line(&self, path: &[i32]) -> String {
        self.comment(path).split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
    }

    /// What a line of dashes above it says that begins with it.
    fn section(&self, path: &[i32]) -> Option<String> {
        let above = self.places[path].leading_detached_comments.last()?.trim();
        let name = above.strip_prefix("---")?.trim_start_matches('-').trim();
        let (first, rest) = name.split_at(1);
        Some(format!("{}{rest}", first.to_uppercase()))
    }
}

fn escaped(text: &str) -> String {
    text.replace('<', "&lt;")
}

fn typed(field: &FieldDescriptorProto, of: &DescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum => {
            let short = field.type_name().rsplit('.').next().unwrap();
            match of.nested_type.iter().find(|nested| nested.name() == short) {
                Some(entry) => {
                    let [key, value] = &entry.field[..] else { panic!("a map has keys and values") };
                    return format!("map of {} to {}", typed(key, entry), typed(value, entry));
                }
                None => linked(field.type_name()),
            }
        }
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    match field.label() {
        Label::Repeated => format!("repeated {name}"),
        _ if field.proto3_optional() => format!("optional {name}"),
        _ => name,
    }
}

/// A type of this protocol is further down; those that everybody knows are not.
fn linked(name: &str) -> String {
    let short = name.rsplit('.').next().unwrap();
    match name.starts_with(&format!(".{PACKAGE}.")) {
        true => format!("[{short}](#{})", short.to_lowercase()),
        false => format!("`{short}`"),
    }
}
