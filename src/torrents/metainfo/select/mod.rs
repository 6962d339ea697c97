//! Resolves `--select` to files, and files to the pieces that they need.
//!
//! A selection is a list separated by commas. An entry is one of three things: numbers as `bae info` prints them (`1`,
//! `3-5`, `7-`; counted from 1, without pads); the path of an existing file or folder, with or without the torrent's
//! name, where a folder selects everything below it; or else a glob over the path. `*` also crosses folders, so that
//! `*.flac` selects the FLAC files of all folders. A comma inside an existing path, or inside `{}` or `[]` of a glob,
//! belongs to the entry.
//!
//! The selection of a magnet link (`so=`, BEP 53) consists of numbers alone. They are counted from 0 over all files
//! that the torrent lists, pads included.

mod link;
mod paths;

pub use self::link::{check_link_selection, select_by_link};

use std::{cell::LazyCell, ops::RangeInclusive};

use globset::{GlobBuilder, GlobMatcher};

use self::paths::PathIndex;
use super::{File, Metainfo};
use crate::{
    error::{Error, Kind, Result},
    hints::{Hint, Operation, hint},
};

/// The files that `spec` selects, as ascending indices into `files`; never a pad, and at least one file.
///
/// # Errors
/// `InvalidInput` when a part of `spec` cannot be parsed or selects no file: otherwise a selection with a typo would
/// silently leave something out.
pub fn select(spec: &str, files: &[File]) -> Result<Vec<u32>> {
    let numbered: Vec<usize> = (0..files.len()).filter(|i| !files[*i].pad).collect();
    let mut chosen = vec![false; files.len()];
    let mut any = false;
    let paths = LazyCell::new(|| PathIndex::of(files));
    let mut rest = spec;
    while let Some((part, after)) = next_part(rest, &paths) {
        (rest, any) = (after, true);
        match numbers(part, numbered.len()) {
            Ok(Some(range)) => numbered[range].iter().for_each(|i| chosen[*i] = true),
            not_a_number => match paths.find(part) {
                Some(found) => found.into_iter().for_each(|i| chosen[i] = true),
                None => {
                    not_a_number?;
                    choose_glob(part, files, &numbered, &mut chosen)?;
                }
            },
        }
    }
    if !any {
        return Err(bad("the selection is empty").hint(syntax_hint()));
    }
    Ok(indices(&chosen))
}

fn indices(chosen: &[bool]) -> Vec<u32> {
    let chosen = chosen.iter().enumerate().filter(|(_, chosen)| **chosen);
    chosen.map(|(i, _)| u32::try_from(i).expect("a torrent has far fewer files")).collect()
}

fn syntax_hint() -> Hint {
    hint![
        "give numbers or paths as ",
        Operation::ImportInfo,
        " prints them (1,3-5), a folder, or a pattern over the path (*.flac)",
    ]
}

/// Which pieces hold bytes of the files at the indices `selected`: one flag per piece.
#[must_use]
pub fn wanted_pieces(meta: &Metainfo, selected: &[u32]) -> Vec<bool> {
    let mut wanted = vec![false; meta.pieces() as usize];
    for file in selected.iter().filter_map(|i| meta.files.get(*i as usize)) {
        if file.pad || file.range.is_empty() {
            continue;
        }
        let piece = |offset: u64| {
            usize::try_from(offset / u64::from(meta.piece_length)).expect("at most MAX_PIECES")
        };
        wanted[piece(file.range.start)..=piece(file.range.end - 1)].fill(true);
    }
    wanted
}

/// The first part of `spec` that is not empty, and the rest. The part ends at a comma outside brackets, or at a later
/// comma if that makes it the path of a file or folder. White space around it counts only if a path has it.
fn next_part<'s, 'f, F: FnOnce() -> PathIndex<'f>>(
    spec: &'s str,
    paths: &LazyCell<PathIndex<'f>, F>,
) -> Option<(&'s str, &'s str)> {
    let exact = spec.trim_start_matches(',');
    let spec = spec.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
    if spec.is_empty() {
        return None;
    }
    let after = |spec: &'s str, end: usize| spec.get(end + 1..).unwrap_or_default();
    let first = spec.find(',').unwrap_or(spec.len());
    let is_number = spec[..first].trim().bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if first < spec.len() || !is_number {
        let commas = exact.match_indices(',').map(|(at, _)| at).take(paths.max_commas());
        let mut ends: Vec<usize> = commas.collect();
        ends.push(exact.match_indices(',').nth(ends.len()).map_or(exact.len(), |(at, _)| at));
        for end in ends.into_iter().rev() {
            let whole = &exact[..end];
            if let Some(path) = [whole, whole.trim()].into_iter().find(|path| paths.has(path)) {
                return Some((path, after(exact, end)));
            }
        }
    }
    let end = end_of_glob(spec);
    Some((spec[..end].trim(), after(spec, end)))
}

/// Position of the first comma outside brackets.
fn end_of_glob(spec: &str) -> usize {
    let (mut depth, mut escaped) = (0usize, false);
    let end = spec.find(|c: char| {
        if std::mem::take(&mut escaped) {
            return false;
        }
        match c {
            '\\' => escaped = true,
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    end.unwrap_or(spec.len())
}

/// `3`, `3-5` or `3-`, as a range of 0-based numbers below `count`; `None` when it is not a number.
fn numbers(part: &str, count: usize) -> Result<Option<RangeInclusive<usize>>> {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let (from, to) = match part.split_once('-') {
        Some((from, "")) if digits(from) => (from, None),
        Some((from, to)) if digits(from) && digits(to) => (from, Some(to)),
        None if digits(part) => (part, Some(part)),
        _ => return Ok(None),
    };
    // A number too large for its type is above `count` in any case.
    let number = |s: &str| s.parse::<usize>().unwrap_or(usize::MAX);
    let (from, to) = (number(from), to.map_or(count, number));
    if from == 0 || from > count || to > count {
        let what = format!("selection {part:?}: there are only files 1 to {count}");
        return Err(
            bad(what).hint(hint![Operation::ImportInfo, " prints the files with their numbers",])
        );
    }
    if from > to {
        return Err(bad(format!("selection {part:?} ends before it starts")));
    }
    Ok(Some(from - 1..=to - 1))
}

fn choose_glob(glob: &str, files: &[File], among: &[usize], chosen: &mut [bool]) -> Result<()> {
    let matcher = compile(glob)?;
    let mut any = false;
    for i in among {
        let path = files[*i].path.as_str();
        let inner = path.split_once('/').map(|(_, inner)| inner);
        if matcher.is_match(path) || inner.is_some_and(|inner| matcher.is_match(inner)) {
            (chosen[*i], any) = (true, true);
        }
    }
    if any {
        Ok(())
    } else {
        Err(bad(format!("selection {glob:?} matches no file")).hint(syntax_hint()))
    }
}

fn compile(glob: &str) -> Result<GlobMatcher> {
    let built = GlobBuilder::new(glob).literal_separator(false).build();
    let wrong = |e| {
        bad(format!("selection {glob:?} is not a valid pattern")).because(e).hint(syntax_hint())
    };
    Ok(built.map_err(wrong)?.compile_matcher())
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Files of 10 bytes each; those with `.pad` in their path are pads.
    fn files(paths: &[&str]) -> Vec<File> {
        let file = |(i, path): (u64, &&str)| File {
            path: (*path).to_owned(),
            range: i * 10..(i + 1) * 10,
            pad: path.contains(".pad"),
            executable: false,
            symlink: None,
        };
        (0..).zip(paths).map(file).collect()
    }

    fn album() -> Vec<File> {
        files(&["t/1.flac", "t/.pad/6", "t/art/a.jpg", "t/art/b, c.png", "t/.pad/9", "t/2.flac"])
    }

    #[test]
    fn numbers_count_from_one_and_skip_pads() {
        let select = |spec| select(spec, &album()).unwrap();
        assert_eq!(select("1"), [0]);
        assert_eq!(select("2-4"), [2, 3, 5]);
        assert_eq!(select("3-, 1,1"), [0, 3, 5]);
        assert_eq!(select("4,2"), [2, 5]);
    }

    #[test]
    fn patterns_match_with_and_without_the_name_of_the_torrent() {
        let select = |spec| select(spec, &album()).unwrap();
        assert_eq!(select("*.flac"), [0, 5]);
        assert_eq!(select("t/art/*"), [2, 3]);
        assert_eq!(select("art/*,1"), [0, 2, 3]);
        assert_eq!(select("*.{jpg,png}"), [2, 3]);
        assert_eq!(select("*[,]*"), [3]);
        assert_eq!(select("*\\, c.png"), [3]);
        assert_eq!(select("*"), [0, 2, 3, 5]);
    }

    #[test]
    fn an_existing_path_takes_precedence_over_a_glob() {
        let shown = files(&[
            "show/[Group] Show - 01 [1080p].mkv",
            "show/x{1}.flac",
            "show/Sub/b.txt",
            "show/Sub/c, d [1].txt",
            "show/7",
            "show/a [b",
            "show/*.txt",
        ]);
        let select = |spec: &str| select(spec, &shown).map_err(|e| e.to_string());
        for (i, file) in (0..).zip(&shown) {
            assert_eq!(select(&file.path).unwrap(), [i], "{}", file.path);
            let inner = file.path.strip_prefix("show/").unwrap();
            let mixed = format!("1,{inner} , 2");
            let wanted = if inner == "7" { None } else { Some(i) };
            if let Some(i) = wanted {
                let mut all = vec![0, 1, i];
                all.sort_unstable();
                all.dedup();
                assert_eq!(select(&mixed).unwrap(), all, "{mixed}");
            }
        }
        for folder in ["show/Sub/", "show/Sub", "Sub/", "Sub"] {
            assert_eq!(select(folder).unwrap(), [2, 3], "{folder}");
        }
        assert_eq!(select("show/").unwrap().len(), 7);
        assert_eq!(select("Sub/*").unwrap(), [2, 3]);
        // A number is tried as a number first, and as a file name only when there is no file with that number.
        assert_eq!(select("7").unwrap(), [6]);
        assert_eq!(select_one("9", "9"), Ok(vec![0]));
        assert!(select("Su").is_err() && select("b.txt/").is_err());
    }

    #[test]
    fn white_space_counts_only_if_a_path_has_it() {
        let shown = files(&["t/a", "t/ a", "t/a ", "t/ b, c"]);
        let select = |spec: &str| select(spec, &shown).map_err(|e| e.to_string());
        for (spec, wanted) in [("a", 0), (" a", 1), ("a ", 2), ("t/a ", 2), (" b, c", 3)] {
            assert_eq!(select(spec), Ok(vec![wanted]), "{spec:?}");
        }
        assert_eq!(select("t/a, t/ a"), Ok(vec![0, 1]));
        assert_eq!(select(" 1 , 2 "), Ok(vec![0, 1]));
    }

    fn select_one(path: &str, spec: &str) -> Result<Vec<u32>, String> {
        select(spec, &files(&[path])).map_err(|e| e.to_string())
    }

    #[test]
    fn selections_without_a_file_are_refused_with_a_hint() {
        let table = [
            ("", "the selection is empty"),
            (" , ", "the selection is empty"),
            ("0", "selection \"0\": there are only files 1 to 4"),
            ("5", "selection \"5\": there are only files 1 to 4"),
            ("2-9", "selection \"2-9\": there are only files 1 to 4"),
            (
                "99999999999999999999999",
                "selection \"99999999999999999999999\": there are only files 1 to 4",
            ),
            ("3-2", "selection \"3-2\" ends before it starts"),
            ("*.flac,*.mkv", "selection \"*.mkv\" matches no file"),
            (".pad*", "selection \".pad*\" matches no file"),
            ("{a", "selection \"{a\" is not a valid pattern"),
        ];
        for (spec, message) in table {
            let e = select(spec, &album()).expect_err(spec);
            assert_eq!((e.kind(), e.to_string().as_str()), (Kind::InvalidInput, message));
        }
        assert!(select("x", &album()).unwrap_err().hint_text().is_some());
    }

    #[test]
    fn wanted_pieces_are_those_that_overlap_a_file() {
        let meta = Metainfo::parse(include_bytes!("../testdata/multi_v1.torrent")).unwrap();
        // Pieces of 32768 bytes: a.bin is 0..32868, b.bin the 5 bytes behind it, z.bin the rest.
        assert_eq!(wanted_pieces(&meta, &[0]), [true, true, false, false]);
        assert_eq!(wanted_pieces(&meta, &[1]), [false, true, false, false]);
        assert_eq!(wanted_pieces(&meta, &[2]), [false; 4]);
        assert_eq!(wanted_pieces(&meta, &[3]), [false, true, true, true]);
        assert_eq!(wanted_pieces(&meta, &[99]), [false; 4]);
        let meta = Metainfo::parse(include_bytes!("../testdata/multi_v2.torrent")).unwrap();
        assert_eq!(wanted_pieces(&meta, &[0, 1]), [true, true, false, false, false, false]);
    }

    proptest! {
        #[test]
        fn no_selection_panics_or_selects_a_pad(spec in "[0-9a-z,*?{}\\[\\]\\\\ -]{0,20}") {
            let files = album();
            if let Ok(chosen) = select(&spec, &files) {
                prop_assert!(!chosen.is_empty() && chosen.is_sorted());
                prop_assert!(chosen.iter().all(|i| !files[*i as usize].pad));
            }
        }
    }
}
