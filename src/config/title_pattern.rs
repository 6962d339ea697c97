//! Patterns for titles of items in feeds: words that all occur in a title. Pure.
//!
//! Case is ignored. A word is a whole word of the title, between characters that are no letters or digits. A `*` at its
//! start or end allows more letters there: `debian netinst`, `s01e*`, `*wrt`. A search takes linear time.

use crate::error::{Error, Kind, Result};

/// Longest pattern in bytes.
const MAX_PATTERN: usize = 1024;

/// The words of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TitlePattern {
    text: String,
    words: Vec<Word>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    text: String,
    /// Letters may be before it.
    open_start: bool,
    /// Letters may be after it.
    open_end: bool,
}

impl TitlePattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// `InvalidInput` for a pattern without words, with a `*` inside of a word, or of more than 1,024 bytes.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = |why: &str| {
            Err(Error::new(Kind::InvalidInput, format!("pattern {text:?}: {why}"))
                .hint("a pattern is words, each with a * at its start or end or without"))
        };
        if text.len() > MAX_PATTERN {
            return refused("it is longer than 1024 bytes");
        }
        let words: Vec<Word> = text.split_whitespace().map(Word::parse).collect();
        if words.is_empty() {
            return refused("it has no words");
        }
        if words.iter().any(|word| word.text.contains('*')) {
            return refused("a * is inside of a word");
        }
        Ok(Self { text: text.to_owned(), words })
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether all words occur in `title`.
    #[must_use]
    pub fn matches(&self, title: &str) -> bool {
        let title = title.to_lowercase();
        self.words.iter().all(|word| word.occurs_in(&title))
    }
}

impl Word {
    fn parse(text: &str) -> Self {
        let inner = text.trim_matches('*');
        Self {
            text: inner.to_lowercase(),
            open_start: text.starts_with('*'),
            open_end: text.ends_with('*'),
        }
    }

    /// `title` is in lower case.
    fn occurs_in(&self, title: &str) -> bool {
        let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let starts = !self.open_start && is_part(self.text.chars().next());
        let ends = !self.open_end && is_part(self.text.chars().next_back());
        title.match_indices(&self.text).any(|(at, found)| {
            let before = title[..at].chars().next_back();
            let after = title[at + found.len()..].chars().next();
            !(starts && is_part(before) || ends && is_part(after))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, title: &str) -> bool {
        TitlePattern::parse(pattern).unwrap().matches(title)
    }

    #[test]
    fn all_words_of_a_pattern_occur_in_any_order_and_case() {
        let title = "Debian-12.5.0-amd64-netinst.iso";
        assert!(matches("netinst DEBIAN", title) && matches("12.5.0 amd64", title));
        assert!(!matches("debian dvd", title) && !matches("deb", title) && !matches("net", title));
        assert!(matches("deb* *inst", title) && matches("*bia*", title) && matches("*", title));
        assert!(matches("élan", "L'ÉLAN vital") && !matches("lan", "L'ÉLAN vital"));
        assert!(matches("[group]", "[Group] Title") && matches("c++", "C++ course"));
        assert!(matches("1", "x 11 1") && !matches("1", "x 11"));
    }

    #[test]
    fn unusable_patterns_are_refused() {
        for bad in ["", "  ", "a*b", &"x".repeat(1025)] {
            assert_eq!(TitlePattern::parse(bad).unwrap_err().kind(), Kind::InvalidInput, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_title_is_read_without_panic(pattern in "[a-z*éß ]{1,12}", title in ".{0,40}") {
            if let Ok(pattern) = TitlePattern::parse(&pattern) {
                let _ = pattern.matches(&title);
            }
        }
    }
}
