//! IPNS names: the multihash of a public key, as text.

use std::fmt;

use bytes::Bytes;

use super::super::content::{
    cid::{Cid, DAG_PB, LIBP2P_KEY},
    multibase::{decode_base58, encode_base36},
    multihash::Multihash,
};

/// An IPNS name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(in crate::protocols::ipfs) struct IpnsName(Multihash);

impl IpnsName {
    /// Parses the forms `k51…` (any multibase) and `12D3Koo…` or `Qm…` (base 58). `None` for other text, as a DNS name.
    pub(in crate::protocols::ipfs) fn parse(text: &str) -> Option<Self> {
        if text.starts_with("12D3Koo") || text.starts_with("16Uiu2") || text.starts_with("Qm") {
            let bytes = Bytes::from(decode_base58(text)?);
            let (hash, len) = Multihash::read(&bytes)?;
            return (len == bytes.len()).then_some(Self(hash));
        }
        let cid: Cid = text.parse().ok()?;
        // Early names had the codec of files.
        matches!(cid.codec(), LIBP2P_KEY | DAG_PB).then(|| Self(cid.hash().clone()))
    }

    /// The multihash of the public key.
    pub(in crate::protocols::ipfs) fn hash(&self) -> &Multihash {
        &self.0
    }

    /// The public key itself, if the name contains it, as in names of Ed25519 keys.
    pub(in crate::protocols::ipfs) fn inline_key(&self) -> Option<&Bytes> {
        self.0.identity_block()
    }
}

impl fmt::Display for IpnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode_base36(&Cid::v1(LIBP2P_KEY, self.0.clone()).to_bytes()))
    }
}

impl fmt::Debug for IpnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_a_name_are_equal() {
        let key = [&[0x08, 0x01, 0x12, 0x20][..], &[7; 32]].concat();
        let hash = Multihash::identity(key.clone().into());
        let name = IpnsName(hash.clone());
        let text = name.to_string();
        assert!(text.starts_with("k51qzi5uqu5d"), "{text}");
        let base32 = Cid::v1(LIBP2P_KEY, hash.clone()).to_string();
        assert!(base32.starts_with("bafzaajaiaejc"), "{base32}");
        let mut bytes = Vec::new();
        hash.write(&mut bytes);
        let base58 = super::super::super::content::multibase::encode_base58(&bytes);
        assert!(base58.starts_with("12D3Koo"), "{base58}");
        for form in [text, base32, base58] {
            assert_eq!(IpnsName::parse(&form).as_ref(), Some(&name), "{form}");
        }
        assert_eq!(name.inline_key().map(|key| key.to_vec()), Some(key));
    }

    #[test]
    fn names_of_rsa_keys_are_hashes() {
        let name = IpnsName::parse("QmVujd5Vb7moysJj8itnGufN7MEtPRCNHkKpNuA4onsRa3").unwrap();
        assert_eq!(name.inline_key(), None);
        assert!(name.to_string().starts_with("k2k4r8"));
    }

    #[test]
    fn dns_names_and_cids_of_files_are_not_ipns_names() {
        for text in [
            "example.org",
            "",
            "Qm",
            "12D3Koo",
            "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
        ] {
            assert_eq!(IpnsName::parse(text), None, "{text}");
        }
    }
}
