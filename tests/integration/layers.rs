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
        "config",
        "telemetry",
        "redact",
        "calendar",
        "names",
        "open_files",
        "rate",
        "text",
    ],
    &["backends", "catalog"],
    // After `backends`, because the protocol `s3` uses the S3 client of the backend.
    &["protocols"],
    &["storage"],
    &["torrents"],
    &["downloads"],
    &["app"],
    &["api"],
    &["cli"],
];
/// The base layer consists of small modules that may use each other.
const BASE: usize = 0;

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn collect_sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The modules that `crate::…` names in a source file, including those in a `use crate::{…}`.
fn used_modules(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        let word = |s: &str| {
            s.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>()
        };
        let Some(group) = rest.strip_prefix('{') else {
            out.push(word(rest));
            continue;
        };
        let (mut depth, mut start) = (0, true);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && c.is_alphabetic() => {
                    out.push(word(&group[i..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    out
}

#[test]
fn layers_use_only_layers_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect_sources(&src, &mut files);
    let mut wrong = Vec::new();
    let mut uses = 0;
    for file in files {
        let relative = file.strip_prefix(&src).unwrap();
        let module =
            relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        let from = layer(&module).unwrap_or_else(|| panic!("{module} is not in LAYERS"));
        for to in used_modules(&fs::read_to_string(&file).unwrap()) {
            let Some(to_layer) = layer(&to) else { continue };
            uses += 1;
            let sideways = to_layer == from && to != module && from != BASE;
            if to_layer > from || sideways {
                wrong.push(format!("{} uses {to}", relative.display()));
            }
        }
    }
    assert!(uses > 100, "only {uses} uses were found: the parser is broken");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_code_is_only_in_the_bridge() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect_sources(&src, &mut files);
    let files_with_unsafe: Vec<_> = files
        .iter()
        .filter(|f| {
            let text = fs::read_to_string(f).unwrap();
            text.lines().any(|l| {
                let code = l.split("//").next().unwrap_or_default();
                code.contains("unsafe {")
                    || code.contains("unsafe impl")
                    || code.contains("unsafe fn")
            })
        })
        .map(|f| f.strip_prefix(&src).unwrap().to_owned())
        .collect();
    assert_eq!(files_with_unsafe, [Path::new("torrents/disk/ffi.rs")]);
}
