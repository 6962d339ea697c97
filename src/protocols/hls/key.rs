//! The keys of segments, from `EXT-X-KEY` and `EXT-X-SESSION-KEY`. Pure.

use std::sync::Arc;

use super::attributes::Attributes;
use crate::error::{Error, Kind, Result};

/// The system of keys that the standard itself defines: the key is the file at the URI.
const IDENTITY: &str = "identity";

/// How segments are encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// `AES-128`, or a method that is not supported.
    method: String,
    uri: Option<String>,
    /// `None` means the media sequence number.
    iv: Option<[u8; 16]>,
    /// The system of keys.
    format: String,
}

/// A key of AES-128 in CBC mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AesKey<'a> {
    pub(super) uri: &'a str,
    pub(super) iv: Option<[u8; 16]>,
}

impl Key {
    /// The key of a tag; `None` for `METHOD=NONE`.
    ///
    /// # Errors
    /// `Unsupported` for a key without a method, and for an IV that is not a hexadecimal number of 128 bits.
    pub(super) fn from_attributes(attributes: &Attributes) -> Result<Option<Self>> {
        let Some(method) = attributes.text("METHOD") else {
            return Err(Error::new(Kind::Unsupported, "a key of the playlist has no method"));
        };
        if method.eq_ignore_ascii_case("NONE") {
            return Ok(None);
        }
        let iv = attributes.text("IV").map(|text| parse_iv(&text)).transpose()?;
        let format = attributes.text("KEYFORMAT").unwrap_or_else(|| IDENTITY.to_owned());
        Ok(Some(Self { method, uri: attributes.text("URI"), iv, format }))
    }

    /// The name of the system for digital rights management, if this key belongs to one.
    pub(super) fn drm_system(&self) -> Option<String> {
        let format = self.format.to_ascii_lowercase();
        let uri = self.uri.as_deref().unwrap_or_default();
        if format == "com.apple.streamingkeydelivery" || uri.starts_with("skd:") {
            return Some("FairPlay".into());
        }
        if format == "com.microsoft.playready" {
            return Some("PlayReady".into());
        }
        if format.contains("edef8ba9-79d6-4ace-a3c8-27dcd51d21ed") {
            return Some("Widevine".into());
        }
        if self.method.to_ascii_uppercase().starts_with("SAMPLE-AES") {
            return Some(self.method.to_ascii_uppercase());
        }
        (format != IDENTITY).then(|| self.format.clone())
    }

    fn as_aes(&self) -> Option<AesKey<'_>> {
        let is_aes = self.method.eq_ignore_ascii_case("AES-128");
        let uri = self.uri.as_deref().filter(|_| is_aes && self.drm_system().is_none())?;
        Some(AesKey { uri, iv: self.iv })
    }
}

/// The keys that apply to a segment: the last one of each system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Keys(Arc<Vec<Key>>);

impl Keys {
    /// The keys after another tag.
    pub(super) fn with(&self, key: Option<Key>) -> Self {
        let Some(key) = key else { return Self::default() };
        let others = self.0.iter().filter(|other| other.format != key.format);
        Self(Arc::new(others.cloned().chain([key.clone()]).collect()))
    }

    /// The key to decrypt with; `None` for clear segments.
    ///
    /// # Errors
    /// `Unsupported`, with the name of the system or method, where no key of AES-128 is offered.
    pub(super) fn aes_key(&self) -> Result<Option<AesKey<'_>>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        if let Some(key) = self.0.iter().find_map(Key::as_aes) {
            return Ok(Some(key));
        }
        Err(encrypted_error(&self.0))
    }
}

/// The error of segments that cannot be decrypted.
pub(super) fn encrypted_error(keys: &[Key]) -> Error {
    match keys.iter().find_map(Key::drm_system) {
        Some(system) => drm_error(&system),
        None => {
            let methods: Vec<_> = keys.iter().map(|key| key.method.as_str()).collect();
            let text = format!("the segments are encrypted by {}", methods.join(", "));
            Error::new(Kind::Unsupported, text)
                .hint("only AES-128 with a key at a URI is supported")
        }
    }
}

pub(super) fn drm_error(system: &str) -> Error {
    let text = format!("the stream is protected by {system}: it cannot be downloaded");
    Error::new(Kind::Unsupported, text)
}

/// Parses `0x` and at most 32 hexadecimal digits. Fewer digits are a number with leading zeros.
fn parse_iv(text: &str) -> Result<[u8; 16]> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let is_valid =
        (1..=32).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let number = is_valid.then(|| u128::from_str_radix(digits, 16).ok()).flatten();
    let error = || Error::new(Kind::Unsupported, "the IV of a key has no 32 hexadecimal digits");
    number.map(u128::to_be_bytes).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> Result<Option<Key>> {
        let attributes = Attributes::parse(text, |value| Ok::<_, Error>(value.to_owned())).unwrap();
        Key::from_attributes(&attributes)
    }

    fn keys(texts: &[&str]) -> Keys {
        texts.iter().fold(Keys::default(), |keys, text| keys.with(key(text).unwrap()))
    }

    proptest! {
        #[test]
        fn any_attributes_give_a_key_or_an_error(
            lists in prop::collection::vec("(METHOD=(NONE|AES-128|SAMPLE-AES|[A-Z]{0,3}),)?(URI=\"[a-z:/,]{0,9}\",?)?(IV=0x[0-9a-g]{0,34},?)?(KEYFORMAT=\"[a-z.]{0,9}\")?", 0..4),
        ) {
            let parse = |text: &String| Attributes::parse(text, |value| Ok::<_, Error>(value.to_owned()));
            let lists: Vec<_> = lists.iter().filter_map(|text| parse(text).ok()).collect();
            let found = lists.iter().filter_map(|list| Key::from_attributes(list).ok());
            let _ = found.fold(Keys::default(), |keys, key| keys.with(key)).aes_key();
        }
    }

    #[test]
    fn an_iv_has_up_to_32_hexadecimal_digits() {
        let iv = |text: &str| parse_iv(text).map(u128::from_be_bytes);
        assert_eq!(iv("0x000000000000000000000000000000FF").unwrap(), 255);
        assert_eq!(iv("0Xff").unwrap(), 255);
        for bad in ["", "0x", "0xg", "0x+f", "0x0000000000000000000000000000000001"] {
            assert!(iv(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_of_aes_128_is_used_also_next_to_one_of_another_system() {
        let aes = "METHOD=AES-128,URI=\"k?a=1,2\",IV=0x1";
        let found = keys(&[aes]);
        let key = found.aes_key().unwrap().unwrap();
        assert_eq!((key.uri, key.iv.map(u128::from_be_bytes)), ("k?a=1,2", Some(1)));
        let both = keys(&[
            "METHOD=SAMPLE-AES,URI=\"skd://x\",KEYFORMAT=\"com.apple.streamingkeydelivery\"",
            aes,
        ]);
        assert_eq!(both.aes_key().unwrap().unwrap().uri, "k?a=1,2");
        let rotated = keys(&[aes, "METHOD=AES-128,URI=\"l\""]);
        assert_eq!(rotated.aes_key().unwrap(), Some(AesKey { uri: "l", iv: None }));
        assert_eq!(keys(&[aes, "METHOD=NONE"]).aes_key().unwrap(), None);
    }

    #[test]
    fn rights_management_is_refused_by_its_name() {
        for (text, name) in [
            (
                "METHOD=SAMPLE-AES,URI=\"skd://key\",KEYFORMAT=\"com.apple.streamingkeydelivery\"",
                "FairPlay",
            ),
            ("METHOD=AES-128,URI=\"skd://key\"", "FairPlay"),
            (
                "METHOD=SAMPLE-AES-CTR,KEYFORMAT=\"com.microsoft.playready\",URI=\"data:x\"",
                "PlayReady",
            ),
            (
                "METHOD=SAMPLE-AES-CTR,KEYFORMAT=\"urn:uuid:edef8ba9-79d6-4ace-a3c8-27dcd51d21ed\",URI=\"x\"",
                "Widevine",
            ),
            ("METHOD=SAMPLE-AES,URI=\"k\"", "SAMPLE-AES"),
            ("METHOD=AES-128,KEYFORMAT=\"com.example\",URI=\"k\"", "com.example"),
            ("METHOD=ROT-13,URI=\"k\"", "ROT-13"),
            ("METHOD=AES-128", "AES-128"),
        ] {
            let error = keys(&[text]).aes_key().unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.report().contains(name), "{text}: {}", error.report());
        }
        assert!(key("URI=\"k\"").is_err());
    }
}
