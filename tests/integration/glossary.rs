//! The words of the code: names that once meant several things do not return.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::layers::collect_sources;

/// Words that no identifier of `src/` and `tests/` contains, each with the terms that replace it. The glossary in
/// CONTRIBUTING.md has the meanings of those.
const BANNED: &[(&str, &str)] = &[
    ("asking", "probing, prompting, requesting"),
    ("begun", "started"),
    ("beside", "sidecar, shared"),
    ("books", "usage"),
    ("bringing", "fetch"),
    ("demand", "read deadlines"),
    ("employ", "spawn"),
    ("heard", "event"),
    ("hurry", "set deadlines"),
    ("insist", "retry until ok"),
    ("lane", "sequential file, limiter"),
    ("needle", "import ref"),
    ("patience", "timeouts, retry policy"),
    ("silence", "idle timeout"),
    ("spent", "cost"),
    ("stamp", "object version"),
    ("steering", "chunk priorities"),
    ("told", "reported"),
    ("turn", "permit"),
    ("under_way", "in flight"),
    ("whom", "the noun itself"),
];

/// Words that no comment or text of bae contains, because the subject of a sentence is the thing.
const BANNED_IN_TEXT: &[&str] = &["nobody", "whom", "whoever"];

/// User names of test servers.
const NAMES_OF_USERS: &[&str] = &["User nobody", "`nobody`", "\"nobody\"", "as nobody"];

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "tests", "cpp"] {
        collect_sources(&root.join(dir), &mut files);
    }
    files.retain(|file| !file.ends_with("glossary.rs"));
    files.into_iter().map(|file| (file.clone(), fs::read_to_string(file).unwrap())).collect()
}

/// The identifiers of a line, in lower case with `_` between their words.
fn identifiers(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    // Every second part is the text of a string.
    let code: String = code.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter(|word| !word.is_empty()).map(snake_case).collect()
}

fn snake_case(word: &str) -> String {
    let mut out = String::new();
    for c in word.chars() {
        if c.is_uppercase() && !out.is_empty() && !out.ends_with('_') {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

#[test]
fn identifiers_use_the_words_of_the_glossary() {
    assert_eq!(
        identifiers("let x = UnderWay::new(\"told\"); // turn"),
        ["let", "x", "under_way", "new"]
    );
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            for identifier in identifiers(line) {
                let parts = format!("_{identifier}_");
                let banned = BANNED.iter().find(|(word, _)| parts.contains(&format!("_{word}_")));
                if let Some((word, instead)) = banned {
                    let at = format!("{}:{}", file.display(), number + 1);
                    wrong.push(format!("{at}: {identifier}: not {word}, but {instead}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn sentences_name_their_subject() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let is_user = NAMES_OF_USERS.iter().any(|name| line.contains(name));
            let words = line.split(|c: char| !c.is_alphabetic()).map(str::to_lowercase);
            if !is_user && words.into_iter().any(|word| BANNED_IN_TEXT.contains(&word.as_str())) {
                wrong.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
