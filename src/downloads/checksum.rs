//! Expected checksums of a file, and their verification.

use std::{fs::File, io::Read, path::Path};

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512};
use md5::{Digest as _, Md5};

use crate::{
    error::{Error, Kind, Result},
    protocols::{Algorithm, Cid, CidVerifier, Digest},
    units::MIB,
};

/// The checksums of one file, from the user and from its servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checksums(Vec<Digest>);

impl Checksums {
    /// Keeps the first digest of each algorithm: the user's digests come first.
    #[must_use]
    pub fn new(digests: impl IntoIterator<Item = Digest>) -> Self {
        let mut unique: Vec<Digest> = Vec::new();
        for digest in digests {
            if unique.iter().all(|other| other.algorithm != digest.algorithm) {
                unique.push(digest);
            }
        }
        Self(unique)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn list(&self) -> &[Digest] {
        &self.0
    }

    /// A verification that must receive the whole file in order.
    #[must_use]
    pub fn verifier(&self) -> ChecksumVerifier {
        ChecksumVerifier(
            self.0.iter().map(|digest| (Hasher::new(digest), digest.clone())).collect(),
        )
    }

    /// Reads the file at `path` and verifies it.
    ///
    /// # Errors
    /// `Corrupt` when a checksum does not match; I/O errors.
    pub async fn verify_file(&self, path: &Path) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let (mut check, path) = (self.verifier(), path.to_owned());
        let work = move || {
            let context = |e| Error::io(format!("cannot read {}", path.display()), e);
            let mut file = File::open(&path).map_err(context)?;
            let mut buffer = vec![0; usize::try_from(MIB).unwrap_or(1)];
            loop {
                match file.read(&mut buffer).map_err(context)? {
                    0 => return check.finish(&path.display()),
                    len => check.update(&buffer[..len]),
                }
            }
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
            Err(Error::new(Kind::Internal, "checksum verification panicked").because(e))
        })
    }
}

/// A verification in progress.
#[derive(Debug)]
pub struct ChecksumVerifier(Vec<(Hasher, Digest)>);

impl ChecksumVerifier {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.iter_mut().for_each(|(hasher, _)| hasher.update(bytes));
    }

    /// # Errors
    /// `Corrupt`, naming `what`, when a checksum does not match.
    pub fn finish(self, what: &dyn std::fmt::Display) -> Result<()> {
        for (hasher, expected) in self.0 {
            let name = expected.algorithm.name();
            let Some(actual) = hasher.mismatch(&expected) else { continue };
            let text = format!("{what}: {name} is {actual}, expected {}", value_text(&expected));
            let error = Error::new(Kind::Corrupt, text);
            return Err(match expected.algorithm {
                Algorithm::Ipfs => error.hint(CID_HINT),
                _ => error,
            });
        }
        Ok(())
    }
}

/// Hint for a file that does not have its CID.
const CID_HINT: &str = "the CID of a file depends on how it is split into blocks: the same bytes may have this CID if \
    they were added to IPFS with other settings";

enum Hasher {
    Md5(Box<Md5>),
    Sha(Box<Context>),
    /// `None` for a CID that cannot be computed, which matches nothing.
    Cid(Option<Box<CidVerifier>>),
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

impl Hasher {
    fn new(expected: &Digest) -> Self {
        match expected.algorithm {
            Algorithm::Md5 => Self::Md5(Box::default()),
            Algorithm::Sha1 => Self::Sha(Box::new(Context::new(&SHA1_FOR_LEGACY_USE_ONLY))),
            Algorithm::Sha256 => Self::Sha(Box::new(Context::new(&SHA256))),
            Algorithm::Sha512 => Self::Sha(Box::new(Context::new(&SHA512))),
            Algorithm::Ipfs => {
                let verifier = Cid::from_binary(&expected.bytes).map(|cid| CidVerifier::new(&cid));
                Self::Cid(verifier.and_then(Result::ok).map(Box::new))
            }
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(md5) => md5.update(bytes),
            Self::Sha(context) => context.update(bytes),
            Self::Cid(verifier) => verifier.iter_mut().for_each(|cid| cid.update(bytes)),
        }
    }

    /// `None` if the bytes have the expected checksum; otherwise the one that they have.
    fn mismatch(self, expected: &Digest) -> Option<String> {
        let actual = match self {
            Self::Md5(md5) => md5.finalize().to_vec(),
            Self::Sha(context) => context.finish().as_ref().to_vec(),
            Self::Cid(Some(verifier)) => return verifier.finish(),
            Self::Cid(None) => return Some("unknown".to_owned()),
        };
        (actual != expected.bytes).then(|| hex(&actual))
    }
}

/// Parses `sha-256=HEX`, the form of aria2, or `ipfs=CID`.
///
/// # Errors
/// `InvalidInput` for any other form, and for a CID that cannot be computed.
pub fn parse(text: &str) -> Result<Digest> {
    let bad = |why: String| {
        let names: Vec<_> = Algorithm::ALL.iter().map(|algorithm| algorithm.name()).collect();
        Error::new(Kind::InvalidInput, format!("checksum {text:?}: {why}"))
            .hint(format!("write it as sha-256=HEX or ipfs=CID; algorithms: {}", names.join(", ")))
    };
    let (name, digits) = text.split_once('=').ok_or_else(|| bad("it has no `=`".into()))?;
    if name.eq_ignore_ascii_case(Algorithm::Ipfs.name()) {
        let cid: Cid = digits.trim().parse().map_err(|e: Error| bad(e.report()))?;
        CidVerifier::new(&cid).map_err(|e| bad(e.report()))?;
        return Ok(Digest { algorithm: Algorithm::Ipfs, bytes: cid.to_bytes() });
    }
    let algorithm =
        Algorithm::from_name(name).ok_or_else(|| bad(format!("unknown algorithm {name:?}")))?;
    let bytes = unhex(digits.trim()).ok_or_else(|| bad("not hexadecimal".into()))?;
    if bytes.len() != algorithm.len() {
        let digits = 2 * algorithm.len();
        return Err(bad(format!("{} has {digits} hexadecimal digits", algorithm.name())));
    }
    Ok(Digest { algorithm, bytes })
}

/// Formats a digest in the form that [`parse`] reads.
#[must_use]
pub fn to_text(digest: &Digest) -> String {
    format!("{}={}", digest.algorithm.name(), value_text(digest))
}

/// The value of a digest as text: a CID, or hexadecimal digits.
fn value_text(digest: &Digest) -> String {
    let cid = match digest.algorithm {
        Algorithm::Ipfs => Cid::from_binary(&digest.bytes),
        _ => None,
    };
    cid.map_or_else(|| hex(&digest.bytes), |cid| cid.to_string())
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let all_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    if !all_hex || !digits.len().is_multiple_of(2) {
        return None;
    }
    let pair = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok();
    (0..digits.len()).step_by(2).map(pair).collect()
}

fn hex(bytes: &[u8]) -> String {
    crate::catalog::hex(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checksums of `abc`.
    const KNOWN: [&str; 4] = [
        "md5=900150983cd24fb0d6963f7d28e17f72",
        "sha-1=a9993e364706816aba3e25717850c26c9cd0d89d",
        "SHA256=BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
        "sha-512=ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    ];

    #[tokio::test]
    async fn a_file_is_verified_against_every_checksum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let all = Checksums::new(KNOWN.map(|text| parse(text).unwrap()));
        assert_eq!(all.list().len(), 4);
        all.verify_file(&path).await.unwrap();
        std::fs::write(&path, "abd").unwrap();
        let e = all.verify_file(&path).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Corrupt);
        assert!(e.report().contains("expected 900150983cd24fb0d6963f7d28e17f72"), "{}", e.report());
        assert_eq!(to_text(&all.list()[0]), KNOWN[0]);
    }

    #[tokio::test]
    async fn a_file_is_verified_against_a_cid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hello");
        std::fs::write(&path, "hello world").unwrap();
        let v1 = "ipfs=bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
        let v0 = "ipfs=Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD";
        for text in [v1, v0] {
            let checksums = Checksums::new([parse(text).unwrap()]);
            assert_eq!(to_text(&checksums.list()[0]), text);
            checksums.verify_file(&path).await.unwrap();
        }
        std::fs::write(&path, "hello").unwrap();
        let e = Checksums::new([parse(v0).unwrap()]).verify_file(&path).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Corrupt);
        assert!(e.report().contains("expected Qmf412jQ"), "{}", e.report());
        assert!(e.hint_text().is_some_and(|hint| hint.contains("other settings")));
    }

    #[test]
    fn invalid_checksums_are_rejected() {
        for bad in [
            "sha-256",
            "sha-256=ab",
            "crc32=00000000",
            "md5=zz0150983cd24fb0d6963f7d28e17f72",
            "ipfs=hello",
            "ipfs=",
        ] {
            assert_eq!(parse(bad).unwrap_err().kind(), Kind::InvalidInput, "{bad}");
        }
    }
}
