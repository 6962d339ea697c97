//! Validation of credentials and other configured text before it is put into HTTP headers.

/// Trims `text` and checks that it can be a header value: printable ASCII, not empty. The error does not contain it.
pub(super) fn header_text(what: &str, text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err(format!("{what} is empty"));
    }
    match text.chars().all(|c| (' '..='~').contains(&c)) {
        true => Ok(text.to_owned()),
        false => Err(format!("{what} contains a character that is not allowed in a header")),
    }
}

/// As [`header_text`], for a secret that is only used for signing: any characters except control characters.
pub(super) fn secret_text(what: &str, text: &str) -> Result<String, String> {
    let text = text.trim();
    match (text.is_empty(), text.chars().any(char::is_control)) {
        (true, _) => Err(format!("{what} is empty")),
        (_, true) => Err(format!("{what} contains a line end or another control character")),
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_text_is_trimmed_and_errors_do_not_contain_the_value() {
        assert_eq!(header_text("region", " us-east-1\r\n").unwrap(), "us-east-1");
        for bad in ["hunter2\nX-Evil: 1", "hunter2\0", "hunter2ü", "\n"] {
            let why = header_text("access_key_id", bad).unwrap_err();
            assert!(why.starts_with("access_key_id") && !why.contains("hunter2"), "{why}");
        }
        assert_eq!(secret_text("k", "päss word\n").unwrap(), "päss word");
        assert!(secret_text("k", "one\ntwo").is_err() && secret_text("k", " ").is_err());
    }
}
