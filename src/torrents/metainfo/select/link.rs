//! The selection of a magnet link: `so=0,2,4-6` (BEP 53).

use std::ops::RangeInclusive;

use super::{bad, indices};
use crate::{
    error::{Error, Result},
    hints::{Setting, hint},
    torrents::metainfo::File,
};

/// The files that `so=` of a magnet link selects, as ascending indices into `files`; never a pad, never empty.
///
/// # Errors
/// `InvalidInput` when a part cannot be parsed or is out of range, or when no file is selected.
pub fn select_by_link(spec: &str, files: &[File]) -> Result<Vec<u32>> {
    let mut chosen = vec![false; files.len()];
    for range in ranges(spec)? {
        if *range.end() >= files.len() {
            let last = files.len() - 1;
            return Err(invalid(spec, &format!("there are only files 0 to {last}")));
        }
        chosen[range].fill(true);
    }
    for (chosen, file) in chosen.iter_mut().zip(files) {
        *chosen &= !file.pad;
    }
    match indices(&chosen) {
        none if none.is_empty() => Err(invalid(spec, "it selects no file")),
        some => Ok(some),
    }
}

/// Checks that `so=` can be parsed, before the files are known.
///
/// # Errors
/// `InvalidInput` when it cannot.
pub fn check_link_selection(spec: &str) -> Result<()> {
    ranges(spec).map(drop)
}

fn ranges(spec: &str) -> Result<Vec<RangeInclusive<usize>>> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // A number too large for its type is above any count.
        digits.then(|| text.parse::<usize>().unwrap_or(usize::MAX))
    };
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let range = number(from.trim())?..=number(to.trim())?;
        (!range.is_empty()).then_some(range)
    };
    let parts = spec.split(',').map(str::trim).filter(|part| !part.is_empty());
    let ranges: Vec<_> = parts
        .map(|part| {
            range(part).ok_or_else(|| invalid(spec, &format!("{part:?} is not a number or range")))
        })
        .collect::<Result<_>>()?;
    if ranges.is_empty() { Err(invalid(spec, "it is empty")) } else { Ok(ranges) }
}

fn invalid(spec: &str, why: &str) -> Error {
    bad(format!("the magnet link's selection so={spec}: {why}")).hint(hint![
        "use ",
        Setting::Select,
        " instead (",
        Setting::Select.with("*"),
        " for all), or remove so= from the link",
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Vec<File> {
        let file = |(i, pad): (u64, &bool)| File {
            path: format!("t/{i}"),
            range: i..i + 1,
            pad: *pad,
            executable: false,
            symlink: None,
        };
        (0..).zip(&[false, true, false, false]).map(file).collect()
    }

    #[test]
    fn files_are_counted_from_zero_with_the_pads() {
        let select = |spec| select_by_link(spec, &files()).unwrap();
        assert_eq!(select("0"), [0]);
        assert_eq!(select("2, 0-1"), [0, 2]);
        assert_eq!(select("3,3,"), [3]);
    }

    #[test]
    fn errors_name_the_selection_and_the_problem() {
        for (spec, why) in [
            ("4", "there are only files 0 to 3"),
            ("0-4294967295", "there are only files 0 to 3"),
            ("99999999999999999999999", "there are only files 0 to 3"),
            ("1", "it selects no file"),
            ("", "it is empty"),
            ("-1", "\"-1\" is not a number or range"),
            ("2-", "\"2-\" is not a number or range"),
            ("3-2", "\"3-2\" is not a number or range"),
            ("0,a", "\"a\" is not a number or range"),
        ] {
            let e = select_by_link(spec, &files()).unwrap_err();
            assert_eq!(e.to_string(), format!("the magnet link's selection so={spec}: {why}"));
        }
        assert!(check_link_selection("5").is_ok() && check_link_selection("x").is_err());
    }
}
