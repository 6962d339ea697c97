//! `bae get` into a folder of the test's home, and what it leaves there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    bae::{Bae, CommandOutput, Running},
    scripted_http::{Answer, Request},
};

/// `get ARGS… -d HOME/out`.
pub(crate) fn args(bae: &Bae, args: &[&str]) -> Vec<String> {
    let mut all = vec!["--json".to_owned(), "get".to_owned()];
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    all.extend(["-d".to_owned(), out_path(bae, "").display().to_string()]);
    all
}

pub(crate) fn get(bae: &Bae, list: &[&str]) -> CommandOutput {
    bae.run(args(bae, list))
}

pub(crate) fn start(bae: &Bae, list: &[&str]) -> Running {
    bae.start(args(bae, list))
}

/// The path at which `get` writes `name`.
pub(crate) fn out_path(bae: &Bae, name: &str) -> PathBuf {
    bae.home().join("out").join(name)
}

pub(crate) fn event(output: &CommandOutput, name: &str) -> Value {
    let lines = output.json();
    let found = lines.iter().rev().find(|line| line["event"] == name);
    found.unwrap_or_else(|| panic!("no {name} in:\n{}", output.stdout)).clone()
}

pub(crate) fn assert_file(path: &Path, expected: &[u8]) {
    let found = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(found == expected, "{} differs from the file on the server", path.display());
}

/// The bytes that the state file of `name` records as done.
pub(crate) fn recorded_bytes(bae: &Bae, name: &str) -> u64 {
    let Ok(text) = fs::read(out_path(bae, &format!("{name}.bae-part"))) else { return 0 };
    let state: Value = serde_json::from_slice(&text).unwrap();
    let runs = state["done"].as_array().unwrap().iter();
    runs.map(|run| run[1].as_u64().unwrap() - run[0].as_u64().unwrap()).sum()
}

/// The answer of a server that handles ranges correctly.
pub(crate) fn ranged(request: &Request, body: &[u8]) -> Answer {
    let range = request.header("range").and_then(|text| text.strip_prefix("bytes="));
    let Some((first, last)) = range.and_then(|text| text.split_once('-')) else {
        return Answer::new(200, body);
    };
    let (start, end) = match first.parse::<usize>() {
        Ok(start) => {
            (start, last.parse::<usize>().map_or(body.len(), |last| (last + 1).min(body.len())))
        }
        // The last bytes.
        Err(_) => (body.len().saturating_sub(last.parse().unwrap()), body.len()),
    };
    let text = format!("bytes {start}-{}/{}", end - 1, body.len());
    Answer::new(206, &body[start..end]).with("Content-Range", text)
}
