//! The variables of a playlist, from `EXT-X-DEFINE`. Pure.

use std::collections::HashMap;

use url::Url;

use super::attributes::Attributes;
use crate::error::{Error, Kind, Result};

/// Maximum length of a line after its variables are replaced. A variable may be used any number of times.
const MAX_LINE_LEN: usize = 64 << 10;

/// Variables by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Variables(HashMap<String, String>);

impl Variables {
    /// Adds the variable of one `EXT-X-DEFINE`. `imported` are those of the multivariant playlist, and `url` is the
    /// URL of this playlist.
    ///
    /// # Errors
    /// `Unsupported` for a tag that defines nothing, and for a variable that does not exist.
    pub(super) fn define(
        &mut self,
        attributes: &Attributes,
        imported: &Self,
        url: &Url,
    ) -> Result<()> {
        let undefined = |name: &str| {
            Error::new(Kind::Unsupported, format!("the playlist has no value of variable {name:?}"))
        };
        let (name, value) = if let Some(name) = attributes.text("NAME") {
            (name, attributes.get("VALUE").unwrap_or_default().to_owned())
        } else if let Some(name) = attributes.text("IMPORT") {
            let value = imported.0.get(&name).ok_or_else(|| undefined(&name))?;
            (name, value.clone())
        } else if let Some(name) = attributes.text("QUERYPARAM") {
            let found = url.query_pairs().find(|(key, _)| *key == name);
            let value = found.ok_or_else(|| undefined(&name))?.1.into_owned();
            (name, value)
        } else {
            let text = "the playlist has an EXT-X-DEFINE without NAME, IMPORT and QUERYPARAM";
            return Err(Error::new(Kind::Unsupported, text));
        };
        self.0.insert(name, value);
        Ok(())
    }

    /// Replaces each `{$name}`.
    ///
    /// # Errors
    /// `Unsupported` for an undefined variable, and for a result of more than 64 KiB.
    pub(super) fn replace(&self, text: &str) -> Result<String> {
        if self.0.is_empty() || !text.contains("{$") {
            return Ok(text.to_owned());
        }
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{$") {
            let Some((name, left)) = after.split_once('}') else { break };
            let value = self.0.get(name).ok_or_else(|| {
                Error::new(Kind::Unsupported, format!("the playlist has no variable {name:?}"))
            })?;
            out.push_str(before);
            out.push_str(value);
            if out.len() > MAX_LINE_LEN {
                let text = "a line of the playlist is longer than 64 KiB with its variables";
                return Err(Error::new(Kind::Unsupported, text));
            }
            rest = left;
        }
        out.push_str(rest);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attributes(text: &str) -> Attributes {
        Attributes::parse(text, |value| Ok::<_, Error>(value.to_owned())).unwrap()
    }

    #[test]
    fn variables_are_defined_imported_or_taken_from_the_query() {
        let url: Url = "https://x.example/a.m3u8?token=a%2Bb&n=1".parse().unwrap();
        let mut main = Variables::default();
        main.define(&attributes("NAME=\"cdn\",VALUE=\"https://c.example\""), &main.clone(), &url)
            .unwrap();
        let mut own = Variables::default();
        assert_eq!(own.replace("{$cdn}/a").unwrap(), "{$cdn}/a", "nothing is defined");
        own.define(&attributes("IMPORT=\"cdn\""), &main, &url).unwrap();
        own.define(&attributes("QUERYPARAM=\"token\""), &main, &url).unwrap();
        assert_eq!(
            own.replace("{$cdn}/s.ts?t={$token}&x={").unwrap(),
            "https://c.example/s.ts?t=a+b&x={"
        );
        for bad in ["IMPORT=\"none\"", "QUERYPARAM=\"none\"", "VALUE=\"x\""] {
            let error = own.define(&attributes(bad), &main, &url).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported, "{bad}");
        }
        assert!(own.replace("{$none}").unwrap_err().report().contains("\"none\""));
    }

    proptest! {
        #[test]
        fn any_line_is_replaced_or_refused(line in "[a-z{}$=]{0,40}") {
            let url: Url = "https://x.example/?a=b".parse().unwrap();
            let mut variables = Variables::default();
            variables.define(&attributes("QUERYPARAM=\"a\""), &Variables::default(), &url).unwrap();
            let _ = variables.replace(&line);
        }
    }

    #[test]
    fn a_line_has_a_bounded_length_with_its_variables() {
        let url: Url = "https://x.example/".parse().unwrap();
        let mut variables = Variables::default();
        let value = format!("NAME=\"a\",VALUE=\"{}\"", "x".repeat(1000));
        variables.define(&attributes(&value), &Variables::default(), &url).unwrap();
        assert!(variables.replace(&"{$a}".repeat(60)).is_ok());
        assert!(variables.replace(&"{$a}".repeat(100)).is_err());
    }
}
