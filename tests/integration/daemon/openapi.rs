//! The description of the REST API: it has every path and method that is served, and answers are as described.

use std::{collections::BTreeSet, fs, io::Read as _, path::Path, process::Command};

use serde_json::{Value, json};

use super::{home, id_of};
use crate::support::{daemon::Daemon, tools::tool};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

fn document(daemon: &Daemon) -> Value {
    daemon.call("GET", "/api/v1/openapi.json", "").expect(200).json()
}

/// The head of the answer to a request without a body. The body may be endless.
fn head(daemon: &Daemon, method: &str, path: &str) -> String {
    let headers = [
        format!("Host: {}", daemon.addr()),
        format!("Authorization: Bearer {}", daemon.token()),
        "Content-Type: application/json".to_owned(),
    ];
    let mut stream = daemon.send(&method.to_uppercase(), path, &headers, b"");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn every_path_and_method_that_is_served_is_described_and_the_other_way_round() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let document = document(&daemon);
    let paths = document["paths"].as_object().unwrap();
    let mut ids = BTreeSet::new();
    for (path, described) in paths {
        let described = described.as_object().unwrap();
        let concrete = path.replace(['{', '}'], "");
        for method in METHODS {
            let head = head(&daemon, method, &concrete);
            let is_served = !head.contains(" 405 ");
            assert_eq!(is_served, described.contains_key(method), "{method} {path}: {head}");
        }
        for operation in described.values() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{operation:#}");
            assert!(operation["responses"]["default"].is_object(), "{path}");
            assert!(operation["responses"].as_object().unwrap().len() > 1, "{path} has no answer");
        }
    }
    assert!(paths.len() > 25, "{} paths", paths.len());
    for path in ["/api/v1/openapi.json", "/api/v1/events", "/healthz", "/metrics"] {
        assert!(paths.contains_key(path), "{path}");
    }
    // Only described routes are added to the router of the REST API.
    let rest = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/daemon/rest");
    for file in fs::read_dir(rest).unwrap() {
        let file = file.unwrap().path();
        assert!(!fs::read_to_string(&file).unwrap().contains(".route("), "{}", file.display());
    }
    assert_references_resolve(&document, &document);
}

fn assert_references_resolve(document: &Value, part: &Value) {
    match part {
        Value::Object(object) => {
            if let Some(Value::String(target)) = object.get("$ref") {
                let pointer = target.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{target}");
            }
            object.values().for_each(|part| assert_references_resolve(document, part));
        }
        Value::Array(parts) => {
            parts.iter().for_each(|part| assert_references_resolve(document, part));
        }
        _ => {}
    }
}

#[test]
fn the_description_needs_the_token() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let host = format!("Host: {}", daemon.addr());
    daemon.call_with("GET", "/api/v1/openapi.json", &[host], b"").expect(401);
    let document = document(&daemon);
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["paths"]["/api/v1/session"]["get"]["security"], json!([]));
    assert!(document["paths"]["/api/v1/downloads"]["get"]["security"].is_null());
    assert!(document["components"]["securitySchemes"]["token"].is_object());
}

/// Checks that `value` has the required properties of its schema and no others, all the way down.
fn assert_described(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(target) = schema["$ref"].as_str() {
        let schema = document.pointer(target.strip_prefix('#').unwrap()).unwrap();
        return assert_described(document, schema, value, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let other = any.iter().find(|schema| schema["type"] != "null").unwrap();
        if !value.is_null() {
            assert_described(document, other, value, at);
        }
        return;
    }
    match value {
        Value::Object(object) => {
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(object.contains_key(name.as_str().unwrap()), "{at} has no {name}");
            }
            for (name, value) in object {
                let property = match &schema["properties"][name] {
                    Value::Null => &schema["additionalProperties"],
                    property => property,
                };
                assert!(!property.is_null(), "{at}/{name} is not described");
                assert_described(document, property, value, &format!("{at}/{name}"));
            }
        }
        Value::Array(values) => {
            for value in values {
                assert_described(document, &schema["items"], value, at);
            }
        }
        _ => {}
    }
}

#[test]
fn answers_are_as_described() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let added = daemon.add(&json!({ "url": "http://127.0.0.1:9/f", "tags": ["t"] }));
    daemon.wait_for_state(&id_of(&added), "retrying");
    let document = document(&daemon);
    let id = id_of(&added);
    for (path, concrete) in [
        ("/downloads", "/downloads".to_owned()),
        ("/downloads/{id}", format!("/downloads/{id}")),
        ("/downloads/counts", "/downloads/counts".to_owned()),
        ("/imports", "/imports".to_owned()),
        ("/settings", "/settings".to_owned()),
        ("/storages", "/storages".to_owned()),
        ("/version", "/version".to_owned()),
        ("/tags", "/tags".to_owned()),
        ("/categories", "/categories".to_owned()),
        ("/session", "/session".to_owned()),
        ("/feeds", "/feeds".to_owned()),
    ] {
        let answer = daemon.call("GET", &format!("/api/v1{concrete}"), "").expect(200).json();
        let described = &document["paths"][format!("/api/v1{path}")]["get"]["responses"]["200"];
        let schema = &described["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{path}");
        assert_described(&document, schema, &answer, path);
    }
    let problem = daemon.call("GET", "/api/v1/downloads?limit=x", "").expect(400);
    assert_eq!(problem.header("content-type"), Some("application/problem+json"));
    let refused = daemon.call("GET", "/api/v1/imports?offset=-1", "").expect(400);
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    let schema = &document["components"]["responses"]["Problem"]["content"]["application/problem+json"]
        ["schema"];
    assert_described(&document, schema, &refused.json(), "problem");
}

#[test]
#[ignore = "schemathesis comes with the servers that take long to install: scripts/test --all"]
fn made_up_requests_get_only_described_answers() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    for name in ["d", "e"] {
        daemon.add(&json!({ "url": format!("http://127.0.0.1:9/{name}"), "paused": true }));
    }
    let config = bae.home().join("schemathesis.toml");
    fs::write(&config, "[parameters]\n\"path.id\" = \"d\"\n").unwrap();
    let url = format!("http://{}/", daemon.addr());
    let mut command = Command::new(tool("cloud", "schemathesis", "all-servers"));
    command.arg("--config-file").arg(config).arg("run").arg(format!("{url}api/v1/openapi.json"));
    command.args(["--url", &url, "--header", &format!("Authorization: Bearer {}", daemon.token())]);
    // A stream has no end; a wrong token makes its client wait; a removed download is not there for the others.
    for path in ["/api/v1/events", "/api/v1/session", "/api/v1/tokens"] {
        command.args(["--exclude-path", path]);
    }
    command.args(["--exclude-method", "DELETE", "--max-examples", "10", "--seed", "1"]);
    command.args(["--generation-database", "none", "--no-color", "--phases", "coverage,fuzzing"]);
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,\
                  response_schema_conformance,unsupported_method";
    command.args(["--checks", checks]).env("no_proxy", "*").current_dir(bae.home());
    let out = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&out.stderr));
    daemon.stop();
}
