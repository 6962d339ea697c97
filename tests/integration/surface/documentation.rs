//! The pages of `docs`, which are the Download Book, as far as they can be checked without mdbook: every page is in the
//! book, every included part of a source file exists, and every link leads to a page and a heading.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    path::{Path, PathBuf},
};

use crate::layers::collect_sources;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files below `dir`.
fn pages(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut pages(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.insert(path);
        }
    }
    found
}

/// The lines of a page outside of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// The targets of the links and pictures in a page that are no URLs.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        // Every second part is inline code.
        let line: String = line.split('`').step_by(2).collect();
        let ends = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        found.extend(ends.filter(|link| !link.contains("://")).map(str::to_owned));
    }
    found
}

/// The ids that mdbook and GitHub give to the headings of a page.
fn heading_ids(text: &str) -> HashSet<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    let id = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(id).collect()
}

/// The path without its `..`.
fn normalized(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        if part.as_os_str() == ".." {
            out.pop();
        } else {
            out.push(part);
        }
    }
    out
}

/// What is wrong with a link from `page`; `None` if nothing is.
fn wrong_link(page: &Path, link: &str) -> Option<String> {
    let (file, heading) = link.split_once('#').map_or((link, None), |(file, id)| (file, Some(id)));
    let target = match file {
        "" => page.to_owned(),
        file => normalized(&page.parent()?.join(file.replace("%20", " "))),
    };
    if !target.is_file() {
        return Some("no such file".to_owned());
    }
    if !target.starts_with(root().join("docs")) {
        return Some("it leads out of docs, which the built book does not have".to_owned());
    }
    let heading = heading?;
    let text = fs::read_to_string(&target).ok()?;
    (!heading_ids(&text).contains(heading)).then(|| "no such heading".to_owned())
}

#[test]
fn links_between_pages_lead_to_pages_and_headings() {
    let (mut count, mut wrong) = (0, Vec::new());
    for page in pages(&root().join("docs")) {
        for link in links(&fs::read_to_string(&page).unwrap()) {
            count += 1;
            if let Some(reason) = wrong_link(&page, &link) {
                wrong.push(format!("{}: {link}: {reason}", page.display()));
            }
        }
    }
    assert!(count > 100, "only {count} links were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_page_is_in_the_summary_of_the_book() {
    let docs = root().join("docs");
    let summary = docs.join("SUMMARY.md");
    let listed = links(&fs::read_to_string(&summary).unwrap());
    let listed: BTreeSet<_> = listed.iter().map(|link| docs.join(link)).collect();
    let mut expected = pages(&docs);
    expected.remove(&summary);
    let missing: Vec<_> = expected.difference(&listed).collect();
    assert!(missing.is_empty(), "run scripts/book summary; not in docs/SUMMARY.md: {missing:#?}");
}

/// The parts of source files that a page includes: file and anchor.
fn includes(page: &Path) -> Vec<(PathBuf, String)> {
    let text = fs::read_to_string(page).unwrap();
    let inner = text.split("{{#include ").skip(1).filter_map(|rest| rest.split("}}").next());
    let folder = page.parent().unwrap();
    let parts = inner.map(|inner| inner.split_once(':').expect("an include names an anchor"));
    parts.map(|(file, anchor)| (normalized(&folder.join(file)), anchor.to_owned())).collect()
}

#[test]
fn every_included_part_of_the_source_exists_and_every_anchor_is_used() {
    let (mut used, mut wrong) = (HashSet::new(), Vec::new());
    for page in pages(&root().join("docs")) {
        for (file, anchor) in includes(&page) {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let count = |mark: String| text.lines().filter(|line| line.trim() == mark).count();
            let marks =
                (count(format!("// ANCHOR: {anchor}")), count(format!("// ANCHOR_END: {anchor}")));
            if marks != (1, 1) {
                wrong.push(format!("{}: {}:{anchor}: {marks:?}", page.display(), file.display()));
            }
            used.insert((file, anchor));
        }
    }
    let mut sources = Vec::new();
    collect_sources(&root().join("src"), &mut sources);
    collect_sources(&root().join("cpp"), &mut sources);
    for file in sources {
        let text = fs::read_to_string(&file).unwrap();
        let anchors = text.lines().filter_map(|line| line.trim().strip_prefix("// ANCHOR: "));
        for anchor in anchors {
            if !used.contains(&(file.clone(), anchor.to_owned())) {
                wrong.push(format!("{}: {anchor} is in no page", file.display()));
            }
        }
    }
    assert!(used.len() > 10, "only {} includes were found", used.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The texts of errors that the troubleshooting guide quotes are those of the source. `…` stands for a part that varies.
#[test]
fn quoted_errors_are_texts_of_the_source() {
    let guide = fs::read_to_string(root().join("docs/book/troubleshooting.md")).unwrap();
    let (mut files, mut source) = (Vec::new(), String::new());
    collect_sources(&root().join("src"), &mut files);
    files.iter().for_each(|file| source.push_str(&fs::read_to_string(file).unwrap()));
    let symptoms = guide.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let quoted = symptoms.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let quoted: Vec<_> = quoted.filter(|text| text.contains(' ')).collect();
    assert!(quoted.len() > 5, "only {quoted:?} were found");
    let parts = quoted.iter().flat_map(|text| text.split('…')).map(str::trim);
    let missing: Vec<_> = parts.filter(|part| !source.contains(part)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

/// A path in inline code that begins with a folder of the repository is one of a file.
#[test]
fn chapters_name_files_that_exist() {
    let (mut count, mut missing) = (0, Vec::new());
    for page in pages(&root().join("docs/book")) {
        let text = fs::read_to_string(&page).unwrap();
        for line in prose(&text) {
            for name in line.split('`').skip(1).step_by(2) {
                let folder = name.split('/').next().unwrap_or_default();
                let is_path = ["src", "tests", "cpp", "scripts", "docs"].contains(&folder)
                    && name.contains('/')
                    && !name.contains('*');
                let name = name.split(' ').next().unwrap_or_default();
                count += usize::from(is_path);
                if is_path && !root().join(name).exists() {
                    missing.push(format!("{}: {name}", page.display()));
                }
            }
        }
    }
    assert!(count > 20, "only {count} paths were found");
    assert!(missing.is_empty(), "{missing:#?}");
}
