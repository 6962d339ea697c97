//! Public keys of IPNS names, as protobuf messages of libp2p, and their signatures.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256K1_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};

use super::super::content::protobuf::Fields;
use crate::error::{Error, Kind, Result};

/// A public key.
pub(super) struct PublicKey<'a> {
    algorithm: &'static dyn VerificationAlgorithm,
    key: &'a [u8],
}

impl<'a> PublicKey<'a> {
    /// Parses the message.
    ///
    /// # Errors
    /// `Corrupt` for anything but a key; `Unsupported` for an unknown kind of key.
    pub(super) fn parse(message: &'a [u8]) -> Result<Self> {
        let malformed = || Error::new(Kind::Corrupt, "the public key is not valid");
        let (mut kind, mut key) = (None, None);
        for field in Fields::of(message) {
            match field.map_err(|_| malformed())? {
                (1, value) => kind = Some(value.varint().map_err(|_| malformed())?),
                (2, value) => key = Some(value.bytes().map_err(|_| malformed())?),
                _ => {}
            }
        }
        let algorithm: &'static dyn VerificationAlgorithm = match kind.ok_or_else(malformed)? {
            0 => &RSA_PKCS1_2048_8192_SHA256,
            1 => &ED25519,
            2 => &ECDSA_P256K1_SHA256_ASN1,
            3 => &ECDSA_P256_SHA256_ASN1,
            other => {
                return Err(Error::new(Kind::Unsupported, format!("a public key of kind {other}")));
            }
        };
        Ok(Self { algorithm, key: key.ok_or_else(malformed)? })
    }

    /// Whether `signature` is a valid signature of `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, self.key).verify(message, signature).is_ok()
    }
}
