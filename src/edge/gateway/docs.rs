//! `GET /openapi.json` describes the endpoints to programs, `GET /docs` to people. The document is kept by hand beside
//! this file, and tests hold it to what the endpoints do; the page is made of it.

use std::{fmt::Write, sync::LazyLock};

use axum::{
    http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    response::{Html, IntoResponse},
};
use serde_json::{Map, Value};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document: Value =
        serde_json::from_str(include_str!("openapi.json")).expect("a test reads this file of the program's own");
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document
});

static TEXT: LazyLock<String> = LazyLock::new(|| DOCUMENT.to_string());

static PAGE: LazyLock<String> = LazyLock::new(|| render(&DOCUMENT));

pub(super) async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], TEXT.as_str())
}

pub(super) async fn page() -> impl IntoResponse {
    // Nothing on the page is anybody else's, and nothing runs there.
    ([(CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'")], Html(PAGE.as_str()))
}

const STYLE: &str = "
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font-family: ui-monospace, monospace; font-size: .9em }
pre { padding: .75rem; overflow-x: auto; background: #8882; border-radius: .25rem }
section { border-top: 1px solid #8886; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid #8883 }
td:first-child { white-space: nowrap }
";

fn render(document: &Value) -> String {
    let info = &document["info"];
    let (title, version) = (text(&info["title"]), text(&info["version"]));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>{title} <small>{version}</small></h1>\n<p>{} {}</p>\n\
         <p>For programs: <a href=\"/openapi.json\">openapi.json</a>.</p>\n",
        text(&info["summary"]),
        text(&info["description"]),
    );
    for (path, methods) in members(&document["paths"]) {
        for (method, operation) in members(methods) {
            section(&mut page, document, &format!("{} {path}", method.to_uppercase()), operation);
        }
    }
    page.push_str("</body>\n</html>\n");
    page
}

fn section(page: &mut String, document: &Value, name: &str, operation: &Value) {
    let mut write = |line: String| {
        page.push_str(&line);
        page.push('\n');
    };
    write(format!("<section>\n<h2><code>{}</code></h2>", escape(name)));
    write(format!("<p><strong>{}.</strong> {}</p>", text(&operation["summary"]), text(&operation["description"])));
    if operation["security"].is_array() {
        write("<p>Needs <code>Authorization: Bearer TOKEN</code> where the service has a token.</p>".to_owned());
    }
    let body = &operation["requestBody"]["content"]["application/json"];
    if body.is_object() {
        write("<h3>Request</h3>".to_owned());
        write(example(body));
        write(fields(document, &body["schema"]));
    }
    write("<h3>Answers</h3>".to_owned());
    for (code, response) in members(&operation["responses"]) {
        let response = resolve(document, response);
        write(format!("<p><code>{}</code> {}</p>", escape(code), text(&response["description"])));
        let answer = &response["content"]["application/json"];
        write(example(answer));
        if code == "200" {
            write(fields(document, &answer["schema"]));
        }
    }
    write("</section>".to_owned());
}

fn example(body: &Value) -> String {
    match &body["example"] {
        Value::Null => String::new(),
        example => format!("<pre>{}</pre>", escape(&format!("{example:#}"))),
    }
}

/// A table of an object's fields, those of objects inside it among them.
fn fields(document: &Value, schema: &Value) -> String {
    let mut rows = String::new();
    add_fields(&mut rows, document, schema, "");
    if rows.is_empty() { rows } else { format!("<table>\n<tr><th>Field<th>Type<th>Meaning\n{rows}</table>") }
}

fn add_fields(rows: &mut String, document: &Value, schema: &Value, before: &str) {
    let schema = resolve(document, schema);
    for (name, field) in members(&schema["properties"]) {
        let required = schema["required"].as_array().is_some_and(|required| required.iter().any(|it| it == name));
        let optional = if required || schema["required"].is_null() { "" } else { ", optional" };
        let kind = match &resolve(document, field)["type"] {
            Value::Array(kinds) => kinds.iter().map(text).collect::<Vec<_>>().join(" or "),
            kind => text(kind),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            rows,
            "<tr><td><code>{before}{}</code><td>{kind}{optional}<td>{}",
            escape(name),
            text(&field["description"])
        );
        add_fields(rows, document, field, &format!("{before}{}.", escape(name)));
    }
}

/// What a reference stands for.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let reference = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    reference.map_or(value, |pointer| document.pointer(pointer).unwrap_or(&Value::Null))
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value of the document, from the outermost in.
    fn all(value: &Value) -> Vec<&Value> {
        let inner: Box<dyn Iterator<Item = &Value>> = match value {
            Value::Array(values) => Box::new(values.iter()),
            Value::Object(object) => Box::new(object.values()),
            _ => Box::new(std::iter::empty()),
        };
        std::iter::once(value).chain(inner.flat_map(all)).collect()
    }

    /// A schema of the document, which its references lead into.
    fn validator(schema: &Value) -> jsonschema::Validator {
        let mut schema = schema.clone();
        schema["components"] = DOCUMENT["components"].clone();
        jsonschema::validator_for(&schema).expect("it is a schema")
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_example_fits_its_schema() {
        let values = all(&DOCUMENT);
        let references: Vec<_> = values.iter().filter(|value| value["$ref"].is_string()).collect();
        assert!(references.len() > 10, "{references:?}");
        for reference in references {
            assert!(resolve(&DOCUMENT, reference).is_object(), "{reference}");
        }
        let examples: Vec<_> = values.iter().filter(|value| !value["example"].is_null()).collect();
        assert!(examples.len() > 10, "{examples:?}");
        for media in examples {
            validator(&media["schema"]).validate(&media["example"]).expect("it fits");
        }
        for (name, schema) in members(&DOCUMENT["components"]["schemas"]) {
            assert!(!validator(schema).is_valid(&Value::Array(vec![])), "{name} takes anything");
        }
    }

    #[test]
    fn the_page_has_every_endpoint_and_field() {
        for part in [
            "<h2><code>POST /execute</code></h2>",
            "<h2><code>GET /status</code></h2>",
            "<tr><td><code>tool.uniq_id</code><td>string<td>",
            "<tr><td><code>reset_workspace</code><td>boolean, optional<td>",
            "<tr><td><code>pool.slots_by_state</code><td>object<td>",
            "<tr><td><code>metadata.exit_code</code><td>integer<td>",
        ] {
            assert!(PAGE.contains(part), "{part}: {}", *PAGE);
        }
        assert!(
            !PAGE.contains("http://") && !PAGE.contains("https://") && !PAGE.contains("<script"),
            "it needs others"
        );
    }

    #[test]
    fn text_is_not_markup() {
        let document = serde_json::json!({"info": {"title": "<b>&\""}, "paths": {"/<i>": {"get": {"summary": "<s>"}}}});
        let page = render(&document);
        assert!(page.contains("&lt;b&gt;&amp;&quot;") && page.contains("GET /&lt;i&gt;") && page.contains("&lt;s&gt;"));
        for tag in ["<b>", "<i>", "<s>"] {
            assert!(!page.contains(tag), "{tag}");
        }
    }
}
