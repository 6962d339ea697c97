//! The attribute list of a tag: `NAME=value,NAME="quoted, value"`. Pure.

/// The attributes of one tag, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attributes(Vec<Attribute>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Attribute {
    name: String,
    value: String,
    is_quoted: bool,
}

impl Attributes {
    /// Parses the text after the colon of a tag. Values lose their quotes; `replace` is applied to quoted and other
    /// values alike. Parts without `=` are skipped.
    pub(super) fn parse<E>(
        text: &str,
        mut replace: impl FnMut(&str) -> Result<String, E>,
    ) -> Result<Self, E> {
        let mut found = Vec::new();
        let mut rest = text;
        while let Some((name, after)) = rest.split_once('=') {
            // A part without a value before this one ends at its comma.
            let name = name.rsplit(',').next().unwrap_or_default().trim();
            let after = after.trim_start();
            let (value, left) = split_value(after);
            let (name, value) = (name.to_ascii_uppercase(), replace(value)?);
            found.push(Attribute { name, value, is_quoted: after.starts_with('"') });
            rest = left;
        }
        Ok(Self(found))
    }

    /// The value of the first attribute of this name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|found| found.name == name).map(|found| found.value.as_str())
    }

    /// The value as text; `None` if it is empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.trim().parse().ok()
    }

    /// The attributes with another quoted value of `name`.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        for found in self.0.iter_mut().filter(|found| found.name == name) {
            (found.value, found.is_quoted) = (value.to_owned(), true);
        }
        self
    }

    /// The text of the attributes after the colon of a tag.
    pub(super) fn to_text(&self) -> String {
        let text = |Attribute { name, value, is_quoted }: &Attribute| match is_quoted {
            true => format!("{name}=\"{value}\""),
            false => format!("{name}={value}"),
        };
        self.0.iter().map(text).collect::<Vec<_>>().join(",")
    }

    pub(super) fn is_yes(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.trim().eq_ignore_ascii_case("yes"))
    }
}

/// Splits off the first value. Returns the value without quotes, and the text after its comma.
fn split_value(text: &str) -> (&str, &str) {
    let (value, rest) = match text.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
        None => {
            let end = text.find(',').unwrap_or(text.len());
            (text[..end].trim_end(), &text[end..])
        }
    };
    (value, rest.split_once(',').map_or("", |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Attributes {
        Attributes::parse(text, |value| Ok::<_, Infallible>(value.to_owned())).unwrap()
    }

    #[test]
    fn quoted_values_may_contain_commas_and_spaces_may_follow_commas() {
        let found = parse("BANDWIDTH=1280000, CODECS=\"avc1.4d401f, mp4a.40.2\",audio=\"a\", X,Y=");
        assert_eq!(found.number("BANDWIDTH"), Some(1_280_000));
        assert_eq!(found.get("CODECS"), Some("avc1.4d401f, mp4a.40.2"));
        assert_eq!(found.get("AUDIO"), Some("a"));
        assert_eq!((found.get("Y"), found.text("Y")), (Some(""), None));
        assert_eq!(found.get("X"), None);
        assert_eq!(parse("URI=\"no end, A=1").get("URI"), Some("no end, A=1"));
        let key = parse("METHOD=AES-128, URI=\"a,b\",IV=0x1").with("URI", "c");
        assert_eq!(key.to_text(), "METHOD=AES-128,URI=\"c\",IV=0x1");
        assert!(parse("DEFAULT=YES,A=no").is_yes("DEFAULT") && !parse("A=no").is_yes("A"));
    }

    proptest! {
        #[test]
        fn any_text_gives_attributes(text in "[A-Z=,\" a-z0-9]{0,60}") {
            parse(&text);
        }

        #[test]
        fn written_attributes_are_read(pairs in prop::collection::vec(("[A-Z-]{1,8}", "[^\"\r\n]{0,12}"), 0..6)) {
            let text: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
            let found = parse(&text.join(","));
            prop_assert_eq!(found.to_text(), text.join(","));
            let found: Vec<_> = found.0.into_iter().map(|found| (found.name, found.value)).collect();
            prop_assert_eq!(found, pairs);
        }
    }
}
