//! Dependencies between the folders of `src/` point one way: a layer uses only layers before it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// From the lowest layer to the highest. Modules of one entry do not use each other.
const LAYERS: &[&[&str]] = &[
    &[
        "error",
        "units",
        "memory",
        "events",
        "folders",
        "hints",
        "config",
        "redact",
        "calendar",
        "clock",
        "content_root",
        "names",
        "open_files",
        "ranges",
        "rate",
        "text",
    ],
    &["backends", "catalog"],
    // After `backends`, because the protocol `s3` uses the S3 client of the backend.
    &["protocols"],
    &["storage"],
    &["torrents"],
    &["downloads"],
    &["engine"],
    &["queue"],
    &["embedding"],
    &["api"],
    &["daemon"],
    &["cli"],
];
/// The base layer consists of small modules that may use each other.
const BASE: usize = 0;

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Adds the Rust and C++ files below `dir`.
pub(crate) fn collect_sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs" || e == "cpp" || e == "hpp") {
            out.push(path);
        }
    }
}

/// Inside of a layer, from the lowest room to the highest. A room is a folder or file; one that is not named here, like
/// `mod.rs`, may be used by all and use all.
const ROOMS: &[(&str, &[&str])] = &[
    ("catalog", &["sql", "sqlite"]),
    ("storage", &["retry_loop", "map", "read", "sweep", "files", "write", "recover", "estimate"]),
    (
        "protocols",
        &["http", "webdav", "ipfs", "segments", "hls", "dash", "web", "registry", "conformance"],
    ),
    ("torrents", &["metainfo", "picker", "disk", "session", "web_seeds", "download"]),
    (
        "engine",
        &[
            "plan", "session", "running", "storages", "get", "serve", "import", "estimate",
            "usage", "seed", "maintain",
        ],
    ),
    ("cli", &["telemetry", "output", "context", "secret", "args", "commands"]),
];

/// The paths below `crate` that a source file names, such as `storage::map::layout`, in `use` statements and elsewhere.
/// `module` is the path of the file's own module.
fn used_paths(text: &str, module: &[String]) -> Vec<Vec<String>> {
    let code: String = text.lines().map(|l| l.split("//").next().unwrap_or("")).collect();
    let code = code.split("mod tests {").next().unwrap_or_default();
    let mut out = Vec::new();
    for head in ["crate::", "super::"] {
        for (at, _) in code.match_indices(head) {
            let before = &code[..at];
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let mut base = if head == "crate::" { Vec::new() } else { module.to_vec() };
            let mut rest = &code[at..];
            while let Some(after) = rest.strip_prefix("super::") {
                base.pop();
                rest = after;
            }
            flatten(rest.strip_prefix("crate::").unwrap_or(rest), &base, &mut out);
        }
    }
    out
}

/// Adds the paths of the tree at the beginning of `text`, each below `base`. Returns the rest of the text.
fn flatten<'t>(text: &'t str, base: &[String], out: &mut Vec<Vec<String>>) -> &'t str {
    let mut path = base.to_vec();
    let mut rest = text.trim_start();
    loop {
        if let Some(mut group) = rest.strip_prefix('{') {
            loop {
                group = flatten(group, &path, out).trim_start();
                match group.chars().next() {
                    Some(',') => group = &group[1..],
                    Some('}') => return &group[1..],
                    _ => return group,
                }
            }
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end > 0 {
            path.push(rest[..end].to_owned());
        }
        rest = &rest[end..];
        match rest.strip_prefix("::") {
            Some(after) => rest = after,
            None => {
                out.push(path);
                return rest;
            }
        }
    }
}

fn source_files() -> Vec<(PathBuf, Vec<String>, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect_sources(&src, &mut files);
    let read = |file: PathBuf| {
        let relative = file.strip_prefix(&src).unwrap().to_owned();
        let text = fs::read_to_string(&file).unwrap();
        let module = relative.with_extension("");
        let module = module.iter().map(|part| part.to_str().unwrap().to_owned());
        let module = module.filter(|part| !["mod", "lib", "main"].contains(&part.as_str()));
        let module = module.collect();
        (relative, module, text)
    };
    files.into_iter().map(read).collect()
}

#[test]
fn a_use_tree_is_read_as_its_paths() {
    let module = ["storage".to_owned(), "read".to_owned(), "cache".to_owned()];
    let text = "use crate::{error::Result, storage::{map::layout::{self, Layout}, write}};\n\
                use super::super::files;\nfn f() { crate::units::MIB; }";
    let paths: Vec<_> = used_paths(text, &module).iter().map(|path| path.join("::")).collect();
    let expected = [
        "error::Result",
        "storage::map::layout::self",
        "storage::map::layout::Layout",
        "storage::write",
        "units::MIB",
        "storage::files",
    ];
    assert_eq!(paths, expected);
}

#[test]
fn layers_use_only_layers_below_them() {
    let mut wrong = Vec::new();
    let mut uses = 0;
    for (file, module, text) in source_files() {
        let Some(module_layer) = module.first() else { continue };
        let from = layer(module_layer).unwrap_or_else(|| panic!("{module_layer} is not in LAYERS"));
        for path in used_paths(&text, &module) {
            let Some((to, to_layer)) = path.first().and_then(|to| Some((to, layer(to)?))) else {
                continue;
            };
            uses += 1;
            let sideways = to_layer == from && to != module_layer && from != BASE;
            if to_layer > from || sideways {
                wrong.push(format!("{} uses {to}", file.display()));
            }
        }
    }
    assert!(uses > 1000, "only {uses} uses were found: the parser is broken");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn rooms_use_only_rooms_below_them() {
    let mut wrong = Vec::new();
    let mut uses = 0;
    for (file, module, text) in source_files() {
        let Some((_, rooms)) =
            ROOMS.iter().find(|(layer, _)| module.first().is_some_and(|m| m == layer))
        else {
            continue;
        };
        let index = |room: &String| rooms.iter().position(|known| known == room);
        let Some(from) = module.get(1).and_then(index) else { continue };
        if module.iter().any(|part| part == "tests") {
            continue;
        }
        for path in used_paths(&text, &module).iter().filter(|path| path.first() == module.first())
        {
            let Some(to) = path.get(1).and_then(index) else { continue };
            uses += 1;
            if to > from {
                wrong.push(format!("{} uses {}", file.display(), path.join("::")));
            }
        }
    }
    assert!(uses > 100, "only {uses} uses were found: the parser is broken");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The names of test functions in `docs/SEMANTICS.md` are those of real tests.
#[test]
fn each_promise_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let promises = fs::read_to_string(root.join("docs/SEMANTICS.md")).unwrap();
    let mut tests = String::new();
    let mut files = Vec::new();
    collect_sources(&root.join("src"), &mut files);
    collect_sources(&root.join("tests"), &mut files);
    files.iter().for_each(|file| tests.push_str(&fs::read_to_string(file).unwrap()));
    let is_test_name = |name: &&str| {
        name.matches('_').count() >= 3
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let names: Vec<&str> = promises.split('`').skip(1).step_by(2).collect();
    let names = names.iter().map(|name| name.rsplit("::").next().unwrap_or_default());
    let names: Vec<&str> = names.filter(is_test_name).collect();
    assert!(names.len() > 100, "only {} names were found", names.len());
    let missing: Vec<_> =
        names.iter().filter(|name| !tests.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Words of statements that only SQLite understands, or that other databases reserve.
const SQLITE_WORDS: &[&str] = &[
    "INSERT OR ",
    "REPLACE INTO",
    "PRAGMA",
    "ROWID",
    "SQLITE_",
    "JSON_EACH",
    "IFNULL(",
    "USER_VERSION",
    "AUTOINCREMENT",
    "VACUUM",
    " GLOB ",
    "ZEROBLOB",
    "STRFTIME",
    ", END",
    ", OFFSET",
];

/// The string literals of a source file, without its tests.
fn literals(text: &str) -> Vec<String> {
    let code: String = text.lines().map(|l| l.split("//").next().unwrap_or("")).collect();
    let code = code.split("mod tests {").next().unwrap_or_default().replace("r#\"", "\"");
    code.split('"').skip(1).step_by(2).map(str::to_uppercase).collect()
}

#[test]
fn sqlite_is_named_only_below_the_port_and_statements_above_it_are_portable() {
    let mut wrong = Vec::new();
    let mut statements = 0;
    for (file, module, text) in source_files() {
        let below = module.len() > 1 && module[0] == "catalog" && module[1] == "sqlite";
        if below || module.last().is_some_and(|last| last == "tests") {
            continue;
        }
        let code = text.split("mod tests {").next().unwrap_or_default();
        if code.contains("rusqlite") {
            wrong.push(format!("{} names rusqlite", file.display()));
        }
        for literal in literals(&text) {
            let is_statement = ["SELECT ", "INSERT INTO", "UPDATE ", "DELETE FROM", "CREATE "];
            if !is_statement.iter().any(|word| literal.contains(word)) {
                continue;
            }
            statements += 1;
            let found = SQLITE_WORDS.iter().filter(|word| literal.contains(**word));
            wrong.extend(found.map(|word| format!("{}: {word} in {literal}", file.display())));
        }
    }
    assert!(statements > 60, "only {statements} statements were found: the parser is broken");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_code_is_only_in_the_bridge() {
    let has_unsafe = |text: &str| {
        text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            ["unsafe {", "unsafe impl", "unsafe fn"].iter().any(|form| code.contains(form))
        })
    };
    let files = source_files().into_iter().filter(|(_, _, text)| has_unsafe(text));
    let files: Vec<_> = files.map(|(file, ..)| file).collect();
    assert_eq!(files, [Path::new("torrents/disk/ffi.rs")]);
}

/// `docs/ARCHITECTURE.md`, `CONTRIBUTING.md` and the decisions name files that exist.
#[test]
fn documents_name_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = vec![root.join("docs/ARCHITECTURE.md"), root.join("CONTRIBUTING.md")];
    for entry in fs::read_dir(root.join("docs/decisions")).unwrap() {
        documents.push(entry.unwrap().path());
    }
    let (mut names, mut missing) = (0, Vec::new());
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for name in text.split('`').skip(1).step_by(2) {
            let is_source = [".rs", ".cpp", ".hpp"].iter().any(|end| name.ends_with(end));
            if !is_source || name.contains(['*', ' ']) || name == "mod.rs" {
                continue;
            }
            names += 1;
            if !root.join(name).exists() && !root.join("src").join(name).exists() {
                missing.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert!(names > 30, "only {names} names were found");
    assert!(missing.is_empty(), "{missing:#?}");
}
