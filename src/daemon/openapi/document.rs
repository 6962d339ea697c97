//! Writes the document of described routes.

use schemars::{
    SchemaGenerator,
    generate::SchemaSettings,
    transform::{Transform, transform_subschemas},
};
use serde_json::{Map, Value, json};

use super::operation::{Content, Description, SchemaOf};
use crate::daemon::{access::SESSION_COOKIE, problem};

/// The document of all routes, for a daemon below `base_path`.
pub(in crate::daemon) fn document(described: &[(String, Description)], base_path: &str) -> Value {
    let mut schemas = Schemas::new();
    let problem = schemas.written(problem::schema);
    let mut paths: Map<String, Value> = Map::new();
    for (path, description) in described {
        let (shown, parameters) = path_parameters(path);
        let operation = operation(&shown, parameters, description, &mut schemas);
        let methods = paths.entry(shown).or_insert_with(|| json!({}));
        methods[description.method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "bae",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "The queue of downloads of a bae daemon, and what it has stored",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": if base_path.is_empty() { "/" } else { base_path } }],
        "security": [{ "token": [] }, { "password": [] }, { "session": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas.definitions(),
            "responses": {
                "Problem": {
                    "description": "An error (RFC 9457). `kind` tells what the client can do.",
                    "content": { "application/problem+json": { "schema": problem } },
                },
            },
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer" },
                "password": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The token as password of any user",
                },
                "session": { "type": "apiKey", "in": "cookie", "name": SESSION_COOKIE },
            },
        },
    })
}

/// The path as OpenAPI writes it, and its parameters.
fn path_parameters(path: &str) -> (String, Vec<Value>) {
    let shown = path.replace("{*", "{");
    let names = shown.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let parameter = |name: &str| {
        json!({ "name": name, "in": "path", "required": true,
                "schema": { "type": "string", "minLength": 1 } })
    };
    let parameters = names.map(parameter).collect();
    (shown, parameters)
}

fn operation(
    path: &str,
    mut parameters: Vec<Value>,
    description: &Description,
    schemas: &mut Schemas,
) -> Value {
    if let Some(query) = description.query {
        parameters.extend(query_parameters(&schemas.read(query)));
    }
    if let Some((name, text)) = description.header {
        parameters.push(json!({ "name": name, "in": "header", "description": text,
                                "schema": { "type": "string" } }));
    }
    let mut responses = Map::new();
    for answer in &description.answers {
        let status = hyper::StatusCode::from_u16(answer.status).ok();
        let reason = status.and_then(|status| status.canonical_reason()).unwrap_or("Answer");
        let mut response = json!({ "description": reason });
        let content = match &answer.content {
            Content::Empty => None,
            Content::Json(schema) => {
                Some(("application/json", json!({ "schema": schemas.written(*schema) })))
            }
            Content::Other(media_type) => Some((*media_type, json!({}))),
        };
        if let Some((media_type, content)) = content {
            response["content"][media_type] = content;
        }
        responses.insert(answer.status.to_string(), response);
    }
    responses.insert("default".into(), json!({ "$ref": "#/components/responses/Problem" }));
    let mut operation = json!({
        "operationId": operation_id(path, description.method),
        "summary": description.summary,
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(body) = description.body {
        let content = json!({ "application/json": { "schema": schemas.read(body) } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    if description.is_open {
        operation["security"] = json!([]);
    }
    operation
}

/// `get_downloads_id` for GET of `/api/v1/downloads/{id}`.
fn operation_id(path: &str, method: &str) -> String {
    let path = path.strip_prefix("/api/v1").unwrap_or(path);
    let parts = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    [method].into_iter().chain(parts).collect::<Vec<_>>().join("_")
}

/// A parameter for each property of an object.
fn query_parameters(schema: &Value) -> Vec<Value> {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let properties = schema["properties"].as_object().into_iter().flatten();
    let parameter = |(name, schema): (&String, &Value)| {
        let mut schema = schema.clone();
        let text = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        let mut parameter = json!({ "name": name, "in": "query", "schema": given(schema),
                                    "required": required.contains(&json!(name)) });
        if let Some(text) = text {
            parameter["description"] = text;
        }
        parameter
    };
    properties.map(parameter).collect()
}

/// The schema of a value that is given: a parameter is not null, it is left out.
fn given(mut schema: Value) -> Value {
    let Some(object) = schema.as_object_mut() else { return schema };
    if object.get("default") == Some(&Value::Null) {
        object.remove("default");
    }
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            object.insert("type".into(), one);
        }
    }
    if let Some(Value::Array(any)) = object.get_mut("anyOf") {
        any.retain(|schema| schema["type"] != "null");
        if let [one] = any.as_slice() {
            return one.clone();
        }
    }
    schema
}

/// Makes schemas of what bae writes and reads. A type has another schema for each: a field that may be left out in a
/// request is always in an answer.
struct Schemas {
    writing: SchemaGenerator,
    reading: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.meta_schema = None;
                settings.definitions_path = "/components/schemas".into();
            })
        };
        let writing = settings().for_serialize().into_generator();
        let inline =
            settings().for_deserialize().with(|settings| settings.inline_subschemas = true);
        Self { writing, reading: inline.into_generator() }
    }

    /// A reference into the document's schemas.
    fn written(&mut self, schema: SchemaOf) -> Value {
        bounded(schema(&mut self.writing).to_value())
    }

    /// A schema that is complete in itself.
    fn read(&mut self, schema: SchemaOf) -> Value {
        bounded(schema(&mut self.reading).to_value())
    }

    fn definitions(mut self) -> Value {
        let all = self.writing.take_definitions(true);
        Value::Object(all.into_iter().map(|(name, schema)| (name, bounded(schema))).collect())
    }
}

/// Adds the largest value of unsigned integers.
fn bounded(schema: Value) -> Value {
    struct Bound;
    impl Transform for Bound {
        fn transform(&mut self, schema: &mut schemars::Schema) {
            let format = schema.get("format").and_then(Value::as_str);
            if matches!(format, Some("uint" | "uint64")) {
                schema.insert("maximum".into(), u64::MAX.into());
            }
            transform_subschemas(self, schema);
        }
    }
    let Ok(mut schema) = schemars::Schema::try_from(schema.clone()) else { return schema };
    Bound.transform(&mut schema);
    schema.to_value()
}
