//! Content identifiers: the multihash of a block, and how the block is encoded.

use std::{fmt, str::FromStr};

use bytes::Bytes;

use super::{
    multibase::{decode, decode_base58, encode_base32, encode_base58},
    multihash::{Multihash, SHA2_256},
    varint::{self, Varint},
};
use crate::error::{Error, Kind, Result};

pub(in crate::protocols::ipfs) const RAW: u64 = 0x55;
pub(in crate::protocols::ipfs) const DAG_PB: u64 = 0x70;
pub(in crate::protocols::ipfs) const LIBP2P_KEY: u64 = 0x72;

/// The first two bytes of a CID of version 0: the code and the length of a sha2-256 digest.
const VERSION_0: [u8; 2] = [0x12, 0x20];
const VERSION_0_LEN: usize = 34;
/// Length of a CID of version 0 as text.
const VERSION_0_TEXT: usize = 46;

/// A content identifier.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Cid {
    version: Version,
    codec: u64,
    hash: Multihash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Version {
    V0,
    V1,
}

impl Cid {
    /// A CID of version 0, which is of a dag-pb block.
    pub(in crate::protocols::ipfs) fn v0(hash: Multihash) -> Self {
        Self { version: Version::V0, codec: DAG_PB, hash }
    }

    pub(in crate::protocols::ipfs) fn v1(codec: u64, hash: Multihash) -> Self {
        Self { version: Version::V1, codec, hash }
    }

    /// Reads the CID at the start of `bytes`. Also returns its length; `None` for bytes that are none.
    pub(in crate::protocols::ipfs) fn read(bytes: &Bytes) -> Option<(Self, usize)> {
        if bytes.starts_with(&VERSION_0) {
            let (hash, len) = Multihash::read(bytes)?;
            return (len == VERSION_0_LEN).then(|| (Self::v0(hash), len));
        }
        let Varint::Value(1, version_len) = varint::read(bytes) else { return None };
        let Varint::Value(codec, codec_len) = varint::read(&bytes[version_len..]) else {
            return None;
        };
        let start = version_len + codec_len;
        let (hash, hash_len) = Multihash::read(&bytes.slice(start..))?;
        Some((Self::v1(codec, hash), start + hash_len))
    }

    /// The CID that is exactly `bytes`.
    pub(in crate::protocols::ipfs) fn from_bytes(bytes: &Bytes) -> Option<Self> {
        Self::read(bytes).filter(|(_, len)| *len == bytes.len()).map(|(cid, _)| cid)
    }

    /// Parses the binary form.
    #[must_use]
    pub fn from_binary(bytes: &[u8]) -> Option<Self> {
        Self::from_bytes(&Bytes::copy_from_slice(bytes))
    }

    /// The binary form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 + self.hash.digest().len());
        if self.version == Version::V1 {
            varint::write(1, &mut bytes);
            varint::write(self.codec, &mut bytes);
        }
        self.hash.write(&mut bytes);
        bytes
    }

    #[must_use]
    pub(in crate::protocols::ipfs) fn codec(&self) -> u64 {
        self.codec
    }

    #[must_use]
    pub(in crate::protocols::ipfs) fn hash(&self) -> &Multihash {
        &self.hash
    }

    #[must_use]
    pub(in crate::protocols::ipfs) fn is_version_0(&self) -> bool {
        self.version == Version::V0
    }

    /// Whether profiles of this program make such a CID: a sha2-256 digest of a raw or dag-pb block.
    #[must_use]
    pub(in crate::protocols::ipfs) fn is_sha2_256(&self) -> bool {
        self.hash.code() == SHA2_256 && self.hash.digest().len() == 32
    }

    /// The same block in version 1, as routers require it.
    pub(in crate::protocols::ipfs) fn to_version_1(&self) -> Self {
        Self { version: Version::V1, ..self.clone() }
    }

    /// A copy that does not keep the block alive from which it was read.
    pub(in crate::protocols::ipfs) fn detached(&self) -> Self {
        Self { hash: self.hash.detached(), ..self.clone() }
    }

    /// Whether the block can hold a file or a folder, and be verified.
    ///
    /// # Errors
    /// `Unsupported`, with the name of the codec or hash function.
    pub(in crate::protocols::ipfs) fn check_supported(&self) -> Result<()> {
        let with_cid = |e: Error| e.with_context(self);
        self.hash.check_supported().map_err(with_cid)?;
        let name = match self.codec {
            RAW | DAG_PB => return Ok(()),
            0x71 => "dag-cbor",
            0x129 => "dag-json",
            0x51 => "cbor",
            0x200 => "json",
            LIBP2P_KEY => "libp2p-key",
            0x78 => "git-raw",
            _ => {
                let text = format!("data of the codec 0x{:x} is not a file", self.codec);
                return Err(with_cid(Error::new(Kind::Unsupported, text)));
            }
        };
        let error = with_cid(Error::new(Kind::Unsupported, format!("{name} data is not a file")));
        Err(match self.codec {
            LIBP2P_KEY => error.hint("this is a name: write it as ipns://"),
            _ => error,
        })
    }
}

impl FromStr for Cid {
    type Err = Error;

    /// Parses a CID in any base.
    fn from_str(text: &str) -> Result<Self> {
        let bytes = match text.len() {
            VERSION_0_TEXT if text.starts_with("Qm") => decode_base58(text),
            // The base of a CID of version 0 is never named.
            _ => decode(text).filter(|bytes| !bytes.starts_with(&VERSION_0)),
        };
        bytes.and_then(|bytes| Self::from_bytes(&bytes.into())).ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            Error::new(Kind::InvalidInput, format!("{shown:?} is not a CID"))
                .hint("a CID begins with Qm, bafy or bafk")
        })
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.to_bytes();
        f.write_str(&match self.version {
            Version::V0 => encode_base58(&bytes),
            Version::V1 => encode_base32(&bytes),
        })
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cid(text: &str) -> Cid {
        text.parse().unwrap()
    }

    #[test]
    fn both_versions_and_all_bases_are_read() {
        let v1 = cid("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
        assert_eq!((v1.codec(), v1.is_version_0()), (RAW, false));
        assert!(v1.hash().verifies(b""));
        let bytes = v1.to_bytes();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        for text in [format!("f{hex}"), format!("F{}", hex.to_uppercase()), encode_base32(&bytes)] {
            assert_eq!(cid(&text), v1, "{text}");
        }
        assert_eq!(cid(&v1.to_string().to_uppercase()), v1);
        let v0 = cid("QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH");
        assert_eq!((v0.codec(), v0.is_version_0()), (DAG_PB, true));
        assert!(v0.hash().verifies(&[0x0a, 0x04, 0x08, 0x02, 0x18, 0x00]));
        assert_eq!(v0.to_string(), "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH");
        assert_eq!(v0.to_version_1().hash(), v0.hash());
        assert!(v0.to_version_1().to_string().starts_with("bafybei"));
        assert_eq!(cid("bafkqaaa").hash().identity_block().map(|b| b.len()), Some(0));
    }

    #[test]
    fn text_that_is_no_cid_is_refused() {
        for text in [
            "",
            "Qm",
            "hello",
            "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQ0",
            "zQmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH",
            "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvykuaa",
        ] {
            assert_eq!(text.parse::<Cid>().unwrap_err().kind(), Kind::InvalidInput, "{text}");
        }
    }

    #[test]
    fn data_that_is_not_a_file_is_refused_by_name() {
        let of = |codec| Cid::v1(codec, Multihash::sha2_256(b"")).check_supported();
        assert!(of(RAW).is_ok() && of(DAG_PB).is_ok());
        for (codec, name) in [(0x71, "dag-cbor"), (0x129, "dag-json"), (0x9999, "0x9999")] {
            let error = of(codec).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.report().contains(name), "{}", error.report());
        }
        assert!(of(LIBP2P_KEY).unwrap_err().hint_text().unwrap().contains("ipns://"));
    }

    proptest! {
        #[test]
        fn a_cid_round_trips(codec in 0u64..1 << 20, digest in prop::collection::vec(any::<u8>(), 0..129)) {
            let v1 = Cid::v1(codec, Multihash::identity(digest.into()));
            prop_assert_eq!(Cid::from_bytes(&v1.to_bytes().into()), Some(v1.clone()));
            prop_assert_eq!(v1.to_string().parse::<Cid>().unwrap(), v1);
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Cid::read(&bytes.into());
        }
    }
}
