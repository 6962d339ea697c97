//! Expected checksums of a file, and their verification.

use std::{fs::File, io::Read, path::Path};

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512};
use md5::{Digest as _, Md5};

use crate::{
    error::{Error, Kind, Result},
    protocols::{Algorithm, Digest},
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
            self.0.iter().map(|digest| (Hasher::new(digest.algorithm), digest.clone())).collect(),
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
            let actual = hasher.finish();
            if actual != expected.bytes {
                let name = expected.algorithm.name();
                let (actual, expected) = (hex(&actual), hex(&expected.bytes));
                let text = format!("{what}: {name} is {actual}, expected {expected}");
                return Err(Error::new(Kind::Corrupt, text));
            }
        }
        Ok(())
    }
}

enum Hasher {
    Md5(Box<Md5>),
    Sha(Box<Context>),
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Md5 => Self::Md5(Box::default()),
            Algorithm::Sha1 => Self::Sha(Box::new(Context::new(&SHA1_FOR_LEGACY_USE_ONLY))),
            Algorithm::Sha256 => Self::Sha(Box::new(Context::new(&SHA256))),
            Algorithm::Sha512 => Self::Sha(Box::new(Context::new(&SHA512))),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(md5) => md5.update(bytes),
            Self::Sha(context) => context.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Md5(md5) => md5.finalize().to_vec(),
            Self::Sha(context) => context.finish().as_ref().to_vec(),
        }
    }
}

/// Parses `sha-256=HEX`, the form of aria2.
///
/// # Errors
/// `InvalidInput` for any other form.
pub fn parse(text: &str) -> Result<Digest> {
    let bad = |why: String| {
        let names: Vec<_> = Algorithm::ALL.iter().map(|algorithm| algorithm.name()).collect();
        Error::new(Kind::InvalidInput, format!("checksum {text:?}: {why}"))
            .hint(format!("write it as sha-256=HEX; algorithms: {}", names.join(", ")))
    };
    let (name, digits) = text.split_once('=').ok_or_else(|| bad("it has no `=`".into()))?;
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
    format!("{}={}", digest.algorithm.name(), hex(&digest.bytes))
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

    #[test]
    fn invalid_checksums_are_rejected() {
        for bad in
            ["sha-256", "sha-256=ab", "crc32=00000000", "md5=zz0150983cd24fb0d6963f7d28e17f72"]
        {
            assert_eq!(parse(bad).unwrap_err().kind(), Kind::InvalidInput, "{bad}");
        }
    }
}
