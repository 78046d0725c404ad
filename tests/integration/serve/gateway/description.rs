//! What the service says of its own endpoints, held to what they do.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::support::{
    http::{Answer, Request},
    server::Server,
};

/// The document of a running service.
pub(super) struct Description(Value);

impl Description {
    pub(super) async fn of(server: &Server) -> Self {
        let answer = Request::get(&server.address, "/openapi.json").send().await;
        assert_eq!(answer.header("content-type"), Some("application/json"));
        Self(answer.done())
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        let reference = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        reference.map_or(value, |pointer| self.0.pointer(pointer).expect("it leads somewhere"))
    }

    /// Fails unless this answer to this request is described. One to what is no endpoint need not be.
    pub(super) fn check(&self, method: &str, path: &str, answer: &Answer) {
        let path = path.split('?').next().expect("a path");
        if matches!(answer.status, 404 | 405) {
            return;
        }
        let response = &self.0["paths"][path][method.to_ascii_lowercase()]["responses"][answer.status.to_string()];
        let schema = &self.resolve(response)["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {path} is not said to answer {answer:?}");
        let mut schema = schema.clone();
        schema["components"] = self.0["components"].clone();
        let validator = jsonschema::validator_for(&schema).expect("it is a schema");
        validator.validate(&answer.json()).unwrap_or_else(|error| panic!("{method} {path}: {error}: {answer:?}"));
    }

    /// Every endpoint: method, path and what is said of it.
    fn operations(&self) -> Vec<(String, &str, &Value)> {
        let paths = self.0["paths"].as_object().expect("there are paths").iter();
        let operations = paths.flat_map(|(path, methods)| {
            let methods = methods.as_object().expect("a path has methods").iter();
            methods.map(move |(method, operation)| (method.to_uppercase(), &**path, operation))
        });
        operations.collect()
    }
}

fn body(operation: &Value) -> &Value {
    &operation["requestBody"]["content"]["application/json"]
}

#[tokio::test]
async fn every_endpoint_is_there_and_answers_as_it_is_described() {
    let server = Server::start();
    let description = Description::of(&server).await;
    assert_eq!(description.0["openapi"], "3.1.0");
    assert_eq!(description.0["info"]["version"], env!("CARGO_PKG_VERSION"));
    let operations = description.operations();
    let names: BTreeSet<_> = operations.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    let all = [
        "GET /",
        "GET /docs",
        "GET /health",
        "GET /metrics",
        "GET /openapi.json",
        "GET /status",
        "POST /artifacts/archive",
        "POST /artifacts/list",
        "POST /artifacts/read",
        "POST /execute",
        "POST /release",
    ];
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), all);
    for (method, path, operation) in operations {
        let request = Request::new(&server.address, &method, path).header("Content-Type", "application/json");
        let example = &body(operation)["example"];
        let answer = request.body(if example.is_null() { String::new() } else { example.to_string() }).send().await;
        assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
        // Those are no JSON.
        if !["/docs", "/metrics"].contains(&path) {
            description.check(&method, path, &answer);
        }
        let answer = Request::new(&server.address, "PATCH", path).send().await;
        assert_eq!((answer.status, answer.header("allow").is_some()), (405, true), "{path}: {answer:?}");
    }
}

/// A value of another type than these.
fn unfit(schema: &Value) -> Value {
    let types = schema["type"].to_string();
    if types.contains("object") || types.contains("string") { json!(5) } else { json!(["x"]) }
}

#[tokio::test]
async fn a_body_is_taken_exactly_as_it_is_described() {
    let server = Server::start();
    let description = Description::of(&server).await;
    let mut tried = 0;
    for (_, path, operation) in description.operations() {
        if body(operation).is_null() {
            continue;
        }
        let example = &body(operation)["example"];
        let outer = description.resolve(&body(operation)["schema"]);
        let inner = outer["properties"].as_object().expect("it has fields").iter();
        let inner = inner.map(|(name, schema)| (vec!["body", name], description.resolve(schema)));
        let schemas = inner.filter(|(_, schema)| schema["properties"].is_object()).chain([(vec!["body"], outer)]);
        for (place, schema) in schemas {
            let pointer = place[1..].iter().map(|name| format!("/{name}")).collect::<String>();
            let required = schema["required"].as_array().expect("something is required");
            for (name, field) in schema["properties"].as_object().expect("it has fields") {
                let change = |change: &dyn Fn(&mut Map<String, Value>)| {
                    let mut changed = example.clone();
                    change(changed.pointer_mut(&pointer).and_then(Value::as_object_mut).expect("the example has it"));
                    changed
                };
                let mut loc = place.clone();
                loc.push(name);
                let without = change(&|object| _ = object.shift_remove(name));
                let answer = Request::post(&server.address, path, &without).send().await;
                description.check("POST", path, &answer);
                if required.contains(&json!(name)) {
                    assert_eq!(answer.status, 422, "{path} without {loc:?}");
                    let fault = &answer.json()["detail"][0];
                    assert_eq!((&fault["type"], &fault["loc"]), (&json!("missing"), &json!(loc)));
                } else {
                    answer.done();
                }
                let wrong = change(&|object| _ = object.insert(name.clone(), unfit(description.resolve(field))));
                let answer = Request::post(&server.address, path, &wrong).send().await;
                description.check("POST", path, &answer);
                assert_eq!(answer.status, 422, "{path} with a wrong {loc:?}: {answer:?}");
                assert_eq!(answer.json()["detail"][0]["loc"], json!(loc));
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 21);
}

#[tokio::test]
async fn there_is_a_page_for_people() {
    let server = Server::start();
    let answer = Request::get(&server.address, "/docs").send().await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html; charset=utf-8")));
    for (method, path, _) in Description::of(&server).await.operations() {
        assert!(answer.body.contains(&format!("<code>{method} {path}</code>")), "{method} {path}");
    }
}
