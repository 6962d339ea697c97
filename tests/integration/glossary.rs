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

/// Commands of other programs that texts name.
const OTHER_PROGRAMS: &[&str] = &["aws configure", "ssh -D", "ulimit -n"];

/// Files that may speak of flags and commands.
const COMMAND_LINE: &[&str] = &["src/cli/", "src/main.rs"];

/// The string literals of a source file, each with its position. Comments and characters are left out.
fn string_literals(text: &str) -> Vec<(usize, &str)> {
    let mut literals = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let hashes =
            rest.strip_prefix('r').map(|raw| raw.len() - raw.trim_start_matches('#').len());
        let raw = hashes.filter(|hashes| rest[1 + hashes..].starts_with('"'));
        let is_word = text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        at += if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(hashes) = raw.filter(|_| !is_word || text[..at].ends_with('b')) {
            let start = hashes + 2;
            let end = format!("\"{}", "#".repeat(hashes));
            let len = rest[start..].find(&end).expect("a raw string ends");
            literals.push((at, &rest[start..start + len]));
            start + len + end.len()
        } else if let Some(string) = rest.strip_prefix('"') {
            let len = end_of_string(string);
            literals.push((at, &string[..len]));
            len + 2
        } else if let Some(len) = char_literal(rest) {
            len
        } else {
            rest.chars().next().map_or(1, char::len_utf8)
        };
    }
    literals
}

/// The length of a string up to its closing quote.
fn end_of_string(string: &str) -> usize {
    let mut escaped = false;
    let mut closing = string.char_indices().filter(|(_, c)| {
        let closes = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        closes
    });
    closing.next().expect("a string ends").0
}

/// The length of a character literal at the start of `rest`; `None` for a lifetime and for anything else.
fn char_literal(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('\'')?;
    let first = inner.chars().next()?;
    let at = match first {
        '\\' => 2,
        first => first.len_utf8(),
    };
    let len = inner.get(at..)?.find('\'')?;
    let is_char = first == '\\' && len < 10 || len == 0;
    is_char.then_some(at + len + 2)
}

/// The flag or command of bae in a text, if there is one.
fn command_line_word(text: &str) -> Option<&str> {
    if text.contains("`bae") {
        return Some("`bae");
    }
    let is_sentence = text.contains(' ');
    let words = text.split([' ', '\n', '(', ')', ',', ';', '`', '\'', '"']);
    let letter = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphabetic());
    words.into_iter().find(|word| {
        let name = word.trim_start_matches('-');
        let is_short = is_sentence && name.len() <= 2 && name.chars().all(char::is_alphabetic);
        match word.len() - name.len() {
            1 => is_short && letter(name.chars().next()),
            2 => letter(name.chars().next()),
            _ => false,
        }
    })
}

#[test]
fn string_literals_are_found_among_comments_characters_and_lifetimes() {
    let source = r###"fn f<'a>(x: &'a str) { // "no"
        let c = ['"', '\'', '\\', '\u{1b}'];
        g("one \" two", r#"raw "three""#, b"four", br"five");
    }"###;
    let texts: Vec<_> = string_literals(source).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["one \\\" two", "raw \"three\"", "four", "five"]);
    assert_eq!(string_literals("\n\n\"x\""), [(2, "x")]);
    for (text, word) in [
        ("run `bae gc`", Some("`bae")),
        ("wait longer with --timeout", Some("--timeout")),
        ("a user (-u)", Some("-u")),
        ("run it again with -vv", Some("-vv")),
        ("--force", Some("--force")),
        ("-c", None),
        ("3 - 4, a-b, 1-3", None),
        ("-----BEGIN CERTIFICATE-----", None),
    ] {
        assert_eq!(command_line_word(text), word, "{text}");
    }
}

/// An API, a page or a program shows the same errors, so each surface has its own words for settings and operations:
/// see `src/hints.rs`.
#[test]
fn only_the_command_line_speaks_of_flags_and_commands() {
    let (mut wrong, mut texts) = (Vec::new(), 0);
    for (file, text) in sources() {
        let path = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_str().unwrap();
        let is_test = path.split('/').any(|part| ["tests", "tests.rs"].contains(&part));
        let is_cli = COMMAND_LINE.iter().any(|start| path.starts_with(start));
        if is_test || is_cli || !path.starts_with("src/") {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (at, literal) in string_literals(code) {
            texts += 1;
            let is_other = OTHER_PROGRAMS.iter().any(|command| literal.contains(command));
            if let Some(word) = command_line_word(literal).filter(|_| !is_other) {
                let line = code[..at].matches('\n').count() + 1;
                wrong.push(format!("{path}:{line}: {word}: {literal}"));
            }
        }
    }
    assert!(texts > 2000, "only {texts} texts were found: the parser is broken");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
