//! Parses the name in a `Content-Disposition` (RFC 6266): `filename*` if present, else `filename`.

use hyper::header::HeaderValue;
use percent_encoding::percent_decode_str;

/// The file name that the server suggests. Only the last path segment is returned. It is not sanitised.
pub(super) fn suggested_file_name(value: &HeaderValue) -> Option<String> {
    // Non-ASCII bytes are decoded as browsers do: as UTF-8, else as Latin-1.
    let text = match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.to_owned(),
        Err(_) => value.as_bytes().iter().map(|byte| char::from(*byte)).collect(),
    };
    let parameters = parameters(&text);
    let find = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, v)| v.as_str());
    let found =
        find("filename*").and_then(decode_extended).or_else(|| find("filename").map(str::to_owned));
    let last = found?.rsplit(['/', '\\']).next().unwrap_or_default().trim().to_owned();
    (!last.is_empty()).then_some(last)
}

/// Decodes the extended form of RFC 8187, for example `UTF-8'en'na%C3%AFve`.
fn decode_extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_language, encoded) = rest.split_once('\'')?;
    let bytes: Vec<u8> = percent_decode_str(encoded).collect();
    match charset.to_ascii_lowercase().as_str() {
        "utf-8" => String::from_utf8(bytes).ok(),
        "iso-8859-1" => Some(bytes.into_iter().map(char::from).collect()),
        _ => None,
    }
}

/// The parameters after the first semicolon: names in lower case, values without quotes.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.split_once(';').map_or("", |(_, rest)| rest);
    while let Some((name, after)) = rest.split_once('=') {
        let (value, left) = split_value(after.trim_start());
        let name = name.trim_matches(|c: char| c == ';' || c.is_whitespace());
        found.push((name.to_ascii_lowercase(), value));
        rest = left;
    }
    found
}

/// Splits off the first value. Returns the value and the text after it.
fn split_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return (text[..end].trim().to_owned(), &text[end..]);
    };
    let (mut out, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                out.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (out, &quoted[at + 1..]),
            _ => out.push(c),
        }
    }
    (out, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Option<String> {
        suggested_file_name(&HeaderValue::from_bytes(text.as_bytes()).unwrap())
    }

    #[test]
    fn the_extended_name_precedes_the_plain_one() {
        for (text, wanted) in [
            ("attachment; filename=\"x.bin\"; filename*=UTF-8''na%C3%AFve.bin", "naïve.bin"),
            ("attachment; FileName = plain.txt", "plain.txt"),
            ("inline; filename=\"a \\\"b\\\"; c.txt\"; size=3", "a \"b\"; c.txt"),
            ("attachment; filename*=iso-8859-1'en'%A3.txt", "£.txt"),
            ("attachment; filename*=klingon''x; filename=y", "y"),
            ("attachment; filename=\"../../etc/passwd\"", "passwd"),
            ("attachment; filename=\"C:\\\\a\\\\b.txt\"", "b.txt"),
            ("attachment; filename=\"not ended", "not ended"),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(wanted), "{text}");
        }
        for none in ["attachment", "attachment; filename=\"\"", "", "filename=x"] {
            assert_eq!(parsed(none), None, "{none}");
        }
        let latin = HeaderValue::from_bytes(b"attachment; filename=caf\xe9").unwrap();
        assert_eq!(suggested_file_name(&latin).as_deref(), Some("café"));
    }

    proptest! {
        #[test]
        fn any_value_gives_a_name_without_folders_or_none(text in "[ -~é]{0,80}") {
            if let Some(name) = parsed(&text) {
                prop_assert!(!name.is_empty() && !name.contains(['/', '\\']));
            }
        }
    }
}
