//! Multihashes: a digest with the code of its hash function. Two blocks are equal if their multihashes are.

use std::fmt;

use aws_lc_rs::digest::{self, digest};
use blake2::{Blake2b, Digest as _, digest::consts::U32};
use bytes::Bytes;

use super::varint::{self, Varint};
use crate::error::{Error, Kind, Result};

/// Maximum length of a digest in bytes, also of an identity digest, which is the block itself.
pub(in crate::protocols::ipfs) const MAX_DIGEST: usize = 128;
/// Minimum length of a digest of a hash function in bytes. A shorter one could be forged.
const MIN_DIGEST: usize = 20;

pub(in crate::protocols::ipfs) const IDENTITY: u64 = 0;
pub(in crate::protocols::ipfs) const SHA2_256: u64 = 0x12;
const SHA2_512: u64 = 0x13;
const SHA3_512: u64 = 0x14;
const SHA3_256: u64 = 0x16;
const BLAKE3: u64 = 0x1e;
const BLAKE2B_256: u64 = 0xb220;

/// A digest with the code of its hash function.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(in crate::protocols::ipfs) struct Multihash {
    code: u64,
    digest: Bytes,
}

impl Multihash {
    pub(in crate::protocols::ipfs) fn sha2_256(block: &[u8]) -> Self {
        let digest = Bytes::copy_from_slice(digest(&digest::SHA256, block).as_ref());
        Self { code: SHA2_256, digest }
    }

    #[cfg(test)]
    pub(in crate::protocols::ipfs) fn identity(block: Bytes) -> Self {
        Self { code: IDENTITY, digest: block }
    }

    /// Reads the multihash at the start of `bytes`. Also returns its length; `None` for bytes that are none.
    pub(in crate::protocols::ipfs) fn read(bytes: &Bytes) -> Option<(Self, usize)> {
        let Varint::Value(code, code_len) = varint::read(bytes) else { return None };
        let Varint::Value(len, len_len) = varint::read(&bytes[code_len..]) else { return None };
        let start = code_len + len_len;
        let len = usize::try_from(len).ok().filter(|len| *len <= MAX_DIGEST)?;
        let end = start + len;
        (end <= bytes.len()).then(|| (Self { code, digest: bytes.slice(start..end) }, end))
    }

    pub(in crate::protocols::ipfs) fn write(&self, out: &mut Vec<u8>) {
        varint::write(self.code, out);
        varint::write(self.digest.len() as u64, out);
        out.extend_from_slice(&self.digest);
    }

    pub(in crate::protocols::ipfs) fn code(&self) -> u64 {
        self.code
    }

    pub(in crate::protocols::ipfs) fn digest(&self) -> &Bytes {
        &self.digest
    }

    /// The block itself, if this is an identity multihash.
    pub(in crate::protocols::ipfs) fn identity_block(&self) -> Option<&Bytes> {
        (self.code == IDENTITY).then_some(&self.digest)
    }

    /// A copy that does not keep the block alive from which it was read.
    pub(in crate::protocols::ipfs) fn detached(&self) -> Self {
        Self { code: self.code, digest: Bytes::copy_from_slice(&self.digest) }
    }

    /// # Errors
    /// `Unsupported` if blocks cannot be verified with this multihash.
    pub(in crate::protocols::ipfs) fn check_supported(&self) -> Result<()> {
        let refused = |reason: String| Err(Error::new(Kind::Unsupported, reason));
        let Some(max) = max_digest(self.code) else {
            return refused(format!("the hash function {} is not supported", name_of(self.code)));
        };
        if self.code != IDENTITY && !(MIN_DIGEST..=max).contains(&self.digest.len()) {
            let (len, name) = (self.digest.len(), name_of(self.code));
            return refused(format!("a {name} digest of {len} bytes is not supported"));
        }
        Ok(())
    }

    // ANCHOR: verifies
    /// Whether `block` has this hash. `false` for an unsupported hash function.
    #[must_use]
    pub(in crate::protocols::ipfs) fn verifies(&self, block: &[u8]) -> bool {
        if self.check_supported().is_err() {
            return false;
        }
        let wanted = &self.digest[..];
        // A digest may be cut to its first bytes.
        let starts_with = |full: &[u8]| full.get(..wanted.len()) == Some(wanted);
        match self.code {
            IDENTITY => wanted == block,
            SHA2_256 => starts_with(digest(&digest::SHA256, block).as_ref()),
            SHA2_512 => starts_with(digest(&digest::SHA512, block).as_ref()),
            SHA3_256 => starts_with(digest(&digest::SHA3_256, block).as_ref()),
            SHA3_512 => starts_with(digest(&digest::SHA3_512, block).as_ref()),
            BLAKE2B_256 => starts_with(Blake2b::<U32>::digest(block).as_ref()),
            BLAKE3 => {
                let mut full = [0; MAX_DIGEST];
                blake3::Hasher::new().update(block).finalize_xof().fill(&mut full);
                starts_with(&full)
            }
            _ => false,
        }
    }
    // ANCHOR_END: verifies
}

impl fmt::Debug for Multihash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", name_of(self.code))?;
        self.digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Maximum length of a digest of a supported hash function, in bytes.
fn max_digest(code: u64) -> Option<usize> {
    match code {
        SHA2_256 | SHA3_256 | BLAKE2B_256 => Some(32),
        SHA2_512 | SHA3_512 => Some(64),
        IDENTITY | BLAKE3 => Some(MAX_DIGEST),
        _ => None,
    }
}

/// The name of a hash function in the table of multicodecs; its code if it is not one of those that IPFS permits.
fn name_of(code: u64) -> String {
    let name = match code {
        IDENTITY => "identity",
        0x11 => "sha1",
        SHA2_256 => "sha2-256",
        SHA2_512 => "sha2-512",
        SHA3_512 => "sha3-512",
        0x15 => "sha3-384",
        SHA3_256 => "sha3-256",
        0x17 => "sha3-224",
        0x18 => "shake-128",
        0x19 => "shake-256",
        0x1a => "keccak-224",
        0x1b => "keccak-256",
        0x1c => "keccak-384",
        0x1d => "keccak-512",
        BLAKE3 => "blake3",
        0x20 => "sha2-384",
        0x22 => "murmur3-x64-64",
        0x56 => "dbl-sha2-256",
        0xd5 => "md5",
        0xb201..=0xb240 => return format!("blake2b-{}", (code - 0xb200) * 8),
        0xb241..=0xb260 => return format!("blake2s-{}", (code - 0xb240) * 8),
        _ => return format!("0x{code:x}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unhex(text: &str) -> Bytes {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    /// Digests of `abc`.
    fn known(code: u64, digest: &str) -> Multihash {
        Multihash { code, digest: unhex(digest) }
    }

    #[test]
    fn blocks_are_verified_with_every_supported_function() {
        for hash in [
            known(0x12, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            known(0x12, "ba7816bf8f01cfea414140de5dae2223b00361a3"),
            known(
                0x13,
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
            known(
                0x14,
                "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0",
            ),
            known(0x16, "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
            known(0x1e, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
            known(0xb220, "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"),
            known(0, "616263"),
        ] {
            hash.check_supported().unwrap();
            assert!(hash.verifies(b"abc"), "{hash:?}");
            assert!(!hash.verifies(b"abd"), "{hash:?}");
        }
    }

    #[test]
    fn other_functions_and_short_digests_are_refused_by_name() {
        let refused = |code, len: usize| {
            let hash = Multihash { code, digest: vec![0; len].into() };
            assert!(!hash.verifies(b""));
            hash.check_supported().unwrap_err().report()
        };
        assert!(refused(0x11, 20).contains("sha1"));
        assert!(refused(0x1b, 32).contains("keccak-256"));
        assert!(refused(0xb260, 32).contains("blake2s-256"));
        assert!(refused(0xb240, 64).contains("blake2b-512"));
        assert!(refused(0x3_0000, 32).contains("0x30000"));
        assert!(refused(SHA2_256, 19).contains("19 bytes"));
        assert!(refused(SHA2_256, 33).contains("33 bytes"));
    }

    #[test]
    fn an_identity_digest_has_at_most_128_bytes() {
        for (len, valid) in [(0, true), (128, true), (129, false)] {
            let mut bytes = vec![0];
            varint::write(len as u64, &mut bytes);
            bytes.extend(vec![7; len]);
            let read = Multihash::read(&bytes.into());
            assert_eq!(read.is_some(), valid, "{len}");
            assert!(read.is_none_or(|(hash, _)| hash.verifies(&vec![7; len])));
        }
    }

    proptest! {
        #[test]
        fn a_multihash_round_trips(code in 0u64..1 << 40, digest in prop::collection::vec(any::<u8>(), 0..129)) {
            let hash = Multihash { code, digest: digest.into() };
            let mut bytes = Vec::new();
            hash.write(&mut bytes);
            let len = bytes.len();
            bytes.push(1);
            prop_assert_eq!(Multihash::read(&bytes.into()), Some((hash, len)));
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Multihash::read(&bytes.into());
        }
    }
}
