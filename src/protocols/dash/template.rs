//! The templates of URLs in `SegmentTemplate`: `$RepresentationID$`, `$Number%05d$`, `$Time$`, `$Bandwidth$`, `$$`. Pure.

use crate::error::{Error, Kind, Result};

/// Maximum width of a number.
const MAX_WIDTH: usize = 32;

/// The values of one segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) representation: &'a str,
    pub(super) bandwidth: u64,
    pub(super) number: u64,
    pub(super) time: u64,
}

/// Replaces the identifiers of `template`.
///
/// # Errors
/// `Unsupported` for a template that is not valid.
pub(super) fn expand(template: &str, values: Values<'_>) -> Result<String> {
    let invalid = || {
        let text = format!("{template:?} is not a valid template of a URL");
        Error::new(Kind::Unsupported, text)
    };
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        let (identifier, left) = after.split_once('$').ok_or_else(invalid)?;
        out.push_str(before);
        let (name, format) = identifier.split_once('%').unwrap_or((identifier, ""));
        match name {
            "" => out.push('$'),
            "RepresentationID" => out.push_str(values.representation),
            "Number" => out.push_str(&number(values.number, format).ok_or_else(invalid)?),
            "Time" => out.push_str(&number(values.time, format).ok_or_else(invalid)?),
            "Bandwidth" => out.push_str(&number(values.bandwidth, format).ok_or_else(invalid)?),
            _ => return Err(invalid()),
        }
        rest = left;
    }
    out.push_str(rest);
    Ok(out)
}

/// Formats a number as `05d`: with leading zeros, in decimal (`d`, `i`, `u`), hexadecimal (`x`, `X`) or octal (`o`).
fn number(number: u64, format: &str) -> Option<String> {
    if format.is_empty() {
        return Some(number.to_string());
    }
    let kind = format.chars().next_back()?;
    let width = &format[..format.len() - kind.len_utf8()];
    let width =
        if width.is_empty() { 0 } else { width.parse().ok().filter(|w| *w <= MAX_WIDTH)? };
    match kind {
        'd' | 'i' | 'u' => Some(format!("{number:0width$}")),
        'x' => Some(format!("{number:0width$x}")),
        'X' => Some(format!("{number:0width$X}")),
        'o' => Some(format!("{number:0width$o}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(template: &str) -> Result<String> {
        expand(template, Values { representation: "v1", bandwidth: 500, number: 7, time: 90_000 })
    }

    #[test]
    fn identifiers_are_replaced() {
        for (template, expected) in [
            ("$RepresentationID$/$Number%05d$.m4s", "v1/00007.m4s"),
            ("a-$Time$-$Bandwidth$", "a-90000-500"),
            ("$Number$$$$Number%03x$", "7$007"),
            ("plain", "plain"),
        ] {
            assert_eq!(of(template).unwrap(), expected);
        }
        for bad in ["$Number", "$Other$", "$Number%05s$", "$Number%99d$", "$Number%é$", "$Time%d5$"]
        {
            assert_eq!(of(bad).unwrap_err().kind(), Kind::Unsupported, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_template_gives_text_or_an_error(template in "[$%a-zé0-9]{0,20}") {
            let _ = of(&template);
        }
    }
}
