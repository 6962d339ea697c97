//! Compares the bytes of a file with an expected CID, in one pass.

use super::{
    super::{
        MAX_BLOCK,
        cid::{Cid, RAW},
        multihash::Multihash,
    },
    CidProfile, FileImporter,
};
use crate::error::{Error, Kind, Result};

/// A comparison in progress.
#[derive(Debug)]
pub struct CidVerifier {
    expected: Cid,
    method: Method,
}

#[derive(Debug)]
enum Method {
    /// The file is one block. `None` if it has turned out to be longer.
    Block(Option<Vec<u8>>),
    /// The file is split by one of these profiles.
    Tree(Vec<(CidProfile, FileImporter)>),
}

impl CidVerifier {
    /// # Errors
    /// `Unsupported` for a CID that no profile makes: with another hash function, or of other data than a file.
    pub fn new(expected: &Cid) -> Result<Self> {
        expected.check_supported()?;
        let method = match expected.codec() {
            RAW => Method::Block(Some(Vec::new())),
            _ if expected.is_sha2_256() => {
                let profiles = CidProfile::candidates(expected).iter();
                Method::Tree(profiles.map(|p| (*p, FileImporter::new(*p))).collect())
            }
            _ => {
                let text = format!("{expected}: only CIDs with sha2-256 can be computed");
                return Err(Error::new(Kind::Unsupported, text));
            }
        };
        Ok(Self { expected: expected.clone(), method })
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.method {
            Method::Block(block) => {
                let fits = |block: &Vec<u8>| block.len() + bytes.len() <= MAX_BLOCK;
                *block = block.take().filter(fits);
                block.iter_mut().for_each(|block| block.extend_from_slice(bytes));
            }
            Method::Tree(importers) => {
                importers
                    .iter_mut()
                    .for_each(|(_, importer)| importer.update(bytes, &mut |_, _| {}));
            }
        }
    }

    /// `None` if the file has the expected CID; otherwise the CIDs that it has.
    #[must_use]
    pub fn finish(self) -> Option<String> {
        match self.method {
            Method::Block(Some(block)) if self.expected.hash().verifies(&block) => None,
            Method::Block(Some(block)) => {
                Some(Cid::v1(RAW, Multihash::sha2_256(&block)).to_string())
            }
            Method::Block(None) => Some("that of a file with several blocks".to_owned()),
            Method::Tree(importers) => {
                let finish = |(profile, importer): (CidProfile, FileImporter)| {
                    (importer.finish(&mut |_, _| {}).cid, profile.name())
                };
                let cids: Vec<_> = importers.into_iter().map(finish).collect();
                // The same block may be named in both versions.
                if cids.iter().any(|(cid, _)| cid.hash() == self.expected.hash()) {
                    return None;
                }
                let cids: Vec<_> =
                    cids.iter().map(|(cid, name)| format!("{cid} ({name})")).collect();
                Some(cids.join(" or "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(expected: &str, data: &[u8]) -> Option<String> {
        let mut verifier = CidVerifier::new(&expected.parse().unwrap()).unwrap();
        data.chunks(300_000).for_each(|part| verifier.update(part));
        verifier.finish()
    }

    #[test]
    fn a_file_is_compared_with_the_cid_of_every_profile() {
        let data = vec![7; 3_000_000];
        for profile in CidProfile::ALL {
            let mut importer = FileImporter::new(profile);
            importer.update(&data, &mut |_, _| {});
            let cid = importer.finish(&mut |_, _| {}).cid.to_string();
            assert_eq!(verify(&cid, &data), None, "{profile:?}");
            let actual = verify(&cid, &data[1..]).unwrap();
            assert!(actual.contains(profile.name()), "{actual}");
        }
    }

    #[test]
    fn a_file_of_one_block_is_compared_by_its_hash() {
        let hello = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
        assert_eq!(verify(hello, b"hello world"), None);
        assert!(verify(hello, b"hello").unwrap().starts_with("bafkrei"));
        let long = vec![0; MAX_BLOCK + 1];
        assert!(verify(hello, &long).unwrap().contains("several blocks"));
        let exact = vec![1; MAX_BLOCK];
        let cid = Cid::v1(RAW, Multihash::sha2_256(&exact)).to_string();
        assert_eq!(verify(&cid, &exact), None);
        assert!(verify(&cid, &long).is_some());
    }

    #[test]
    fn cids_that_cannot_be_computed_are_refused() {
        let dag_cbor = Cid::v1(0x71, Multihash::sha2_256(b""));
        assert_eq!(CidVerifier::new(&dag_cbor).unwrap_err().kind(), Kind::Unsupported);
        let identity = Cid::v1(super::super::super::cid::DAG_PB, Multihash::identity("x".into()));
        assert_eq!(CidVerifier::new(&identity).unwrap_err().kind(), Kind::Unsupported);
    }
}
