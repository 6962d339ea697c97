//! The keys that bae generates.

/// A generated key in parts: `<catalog>/<import>/<number>-<random>` for a chunk, `…/manifest-<number>-<random>` for a
/// manifest. Keys of the first catalogs have no random digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneratedKey<'a> {
    pub catalog: &'a str,
    pub import: &'a str,
    pub number: u64,
    pub is_manifest: bool,
}

impl<'a> GeneratedKey<'a> {
    /// `None` when the key has another form, such as that of a published file.
    #[must_use]
    pub fn parse(key: &'a str) -> Option<Self> {
        let mut parts = key.split('/');
        let (catalog, import, last) = (parts.next()?, parts.next()?, parts.next()?);
        let is_digits = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if parts.next().is_some() || catalog.len() != 16 || import.len() != 8 {
            return None;
        }
        let rest = last.strip_prefix("manifest-");
        let is_manifest = rest.is_some();
        let rest = rest.unwrap_or(last);
        let (digits, random) = match rest.split_once('-') {
            Some((digits, random)) => (digits, Some(random)),
            None => (rest, None),
        };
        if random.is_some_and(|random| random.len() != 16 || !is_digits(random)) {
            return None;
        }
        // 12 digits allow more objects than any catalog will have, and are far below the end of `u64`.
        let fits =
            (8..=12).contains(&digits.len()) && (digits.len() == 8 || !digits.starts_with('0'));
        if !fits || ![catalog, import, digits].into_iter().all(is_digits) {
            return None;
        }
        let number = u64::from_str_radix(digits, 16).ok()?;
        Some(Self { catalog, import, number, is_manifest })
    }

    /// The common prefix of the keys of this import in its catalog.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("{}/{}/", self.catalog, self.import)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_keys_differ_from_file_names() {
        let chunk = GeneratedKey::parse("0123456789abcdef/9c4e01ab/0000002a").unwrap();
        assert_eq!((chunk.number, chunk.is_manifest), (42, false));
        assert_eq!(chunk.folder(), "0123456789abcdef/9c4e01ab/");
        let manifest = GeneratedKey::parse("0123456789abcdef/9c4e01ab/manifest-1000000ff").unwrap();
        assert_eq!((manifest.number, manifest.is_manifest), (0x1_0000_00ff, true));
        let random = "0123456789abcdef/9c4e01ab/0000002a-00112233445566ff";
        assert_eq!(GeneratedKey::parse(random).unwrap().number, 42);
        let manifest =
            GeneratedKey::parse("0123456789abcdef/9c4e01ab/manifest-0000002a-00112233445566ff")
                .unwrap();
        assert_eq!((manifest.number, manifest.is_manifest), (42, true));
        for other in [
            "0123456789abcdef/9c4e01ab/0000002a-00112233445566f",
            "0123456789abcdef/9c4e01ab/0000002a-00112233445566FF",
            "0123456789abcdef/9c4e01ab/0000002a-00112233445566ff-0",
            "An Album/01.flac",
            "0123456789abcdef/9c4e01ab",
            "0123456789abcdef/9c4e01ab/1",
            "0123456789abcdef/9c4e01ab/0000002a/x",
            "0123456789ABCDEF/9c4e01ab/0000002a",
            "0123456789abcdef/9c4e01ab/0000000002a",
            "0123456789abcdef/9c4e01ab/7fffffffffffffff",
            "0123456789abcdef/9c4e01ab/+000002a",
        ] {
            assert_eq!(GeneratedKey::parse(other), None, "{other}");
        }
    }
}
