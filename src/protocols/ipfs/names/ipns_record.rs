//! Judges IPNS records. A record is accepted only if all of its checks hold, in the order of the specification: its
//! length, its fields, the key and the name, the signature, the copies of the signed values, and the time.

use std::time::SystemTime;

use bytes::Bytes;

use super::{
    super::content::protobuf::{Fields, Value},
    cbor::{self, Item},
    content_path::ContentPath,
    ipns_name::IpnsName,
    public_key::PublicKey,
};
use crate::error::{Error, Kind, Result};

/// Maximum length of a record in bytes.
pub(in crate::protocols::ipfs) const MAX_RECORD: usize = 10 << 10;
/// What the signature covers before the data.
const SIGNED_PREFIX: &[u8] = b"ipns-signature:";

/// A record whose checks hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocols::ipfs) struct IpnsRecord {
    /// The content that the name means.
    pub(in crate::protocols::ipfs) value: ContentPath,
    pub(in crate::protocols::ipfs) sequence: u64,
    pub(in crate::protocols::ipfs) valid_until: SystemTime,
}

impl IpnsRecord {
    /// Whether this record replaces `other`.
    pub(in crate::protocols::ipfs) fn is_newer_than(&self, other: &Self) -> bool {
        (self.sequence, self.valid_until) > (other.sequence, other.valid_until)
    }

    /// Checks the record of `name` at the time `now`.
    ///
    /// # Errors
    /// `Corrupt` for a record that is not valid or not of this name; `NotFound` for one that has expired; `Unsupported`
    /// for an unknown kind of key.
    pub(in crate::protocols::ipfs) fn verify(
        message: &Bytes,
        name: &IpnsName,
        now: SystemTime,
    ) -> Result<Self> {
        if message.len() > MAX_RECORD {
            return Err(refused("it has more than 10 KiB"));
        }
        let fields = RecordFields::parse(message)?;
        let (Some(signature), Some(data)) = (&fields.signature, &fields.data) else {
            return Err(refused("it has no signature of version 2"));
        };
        verify_signature(name, fields.public_key.as_ref(), data, signature)?;
        let signed = SignedValues::parse(data)?;
        fields.check_copies(&signed)?;
        if signed.validity_type != 0 {
            return Err(refused("its validity is of an unknown kind"));
        }
        if i64::try_from(signed.ttl).is_err() {
            return Err(refused("its time to live is negative"));
        }
        let (valid_until, text) = parse_time(&signed.validity)?;
        if valid_until <= now {
            let error = Error::new(Kind::NotFound, format!("the IPNS record expired at {text}"));
            return Err(error.hint("its owner must publish the name again"));
        }
        let value =
            std::str::from_utf8(&signed.value).map_err(|_| refused("its value is no path"))?;
        let value = ContentPath::parse(value).map_err(|e| refused(&e.report()))?;
        Ok(Self { value, sequence: signed.sequence, valid_until })
    }
}

fn refused(reason: &str) -> Error {
    Error::new(Kind::Corrupt, format!("the IPNS record is not valid: {reason}"))
}

// ANCHOR: verify_signature
/// The key comes from the name or the record, and its multihash is the name.
fn verify_signature(
    name: &IpnsName,
    sent_key: Option<&Bytes>,
    data: &[u8],
    signature: &[u8],
) -> Result<()> {
    let key = sent_key.or(name.inline_key()).ok_or_else(|| refused("it has no public key"))?;
    if !name.hash().verifies(key) {
        return Err(refused("its public key is not that of the name"));
    }
    let signed = [SIGNED_PREFIX, data].concat();
    match PublicKey::parse(key)?.verifies(&signed, signature) {
        true => Ok(()),
        false => Err(refused("its signature is wrong")),
    }
}
// ANCHOR_END: verify_signature

/// The values in the signed data.
struct SignedValues {
    value: Bytes,
    validity_type: u64,
    validity: Bytes,
    sequence: u64,
    ttl: u64,
}

impl SignedValues {
    fn parse(data: &Bytes) -> Result<Self> {
        let map = cbor::parse(data).and_then(Item::into_map);
        let map = map.ok_or_else(|| refused("its data is not a map"))?;
        let uint = |key: &str| map.get(key).and_then(Item::as_uint);
        let bytes = |key: &str| map.get(key).and_then(Item::as_bytes).cloned();
        let all = || {
            Some(Self {
                value: bytes("Value")?,
                validity_type: uint("ValidityType")?,
                validity: bytes("Validity")?,
                sequence: uint("Sequence")?,
                ttl: uint("TTL")?,
            })
        };
        all().ok_or_else(|| refused("its data is incomplete"))
    }
}

/// The fields of a record. Those of version 1 are only copies.
#[derive(Default)]
struct RecordFields {
    value: Option<Bytes>,
    signature_v1: Option<Bytes>,
    validity_type: Option<u64>,
    validity: Option<Bytes>,
    sequence: Option<u64>,
    ttl: Option<u64>,
    public_key: Option<Bytes>,
    signature: Option<Bytes>,
    data: Option<Bytes>,
}

impl RecordFields {
    fn parse(message: &Bytes) -> Result<Self> {
        let malformed = || refused("it is not a protobuf message");
        let mut fields = Self::default();
        for field in Fields::of(message) {
            let (number, value) = field.map_err(|_| malformed())?;
            let bytes = |value: Value<'_>| {
                value.bytes().map(|bytes| Some(message.slice_ref(bytes))).map_err(|_| malformed())
            };
            let number_of = |value: Value<'_>| value.varint().map(Some).map_err(|_| malformed());
            match number {
                1 => fields.value = bytes(value)?,
                2 => fields.signature_v1 = bytes(value)?,
                3 => fields.validity_type = number_of(value)?,
                4 => fields.validity = bytes(value)?,
                5 => fields.sequence = number_of(value)?,
                6 => fields.ttl = number_of(value)?,
                7 => fields.public_key = bytes(value)?.filter(|key| !key.is_empty()),
                8 => fields.signature = bytes(value)?.filter(|signature| !signature.is_empty()),
                9 => fields.data = bytes(value)?.filter(|data| !data.is_empty()),
                _ => {}
            }
        }
        Ok(fields)
    }

    /// Old programs read only the copies, so they may not differ from the signed values.
    fn check_copies(&self, signed: &SignedValues) -> Result<()> {
        let is_empty = |bytes: &Option<Bytes>| bytes.as_ref().is_none_or(Bytes::is_empty);
        if is_empty(&self.value) && is_empty(&self.signature_v1) {
            return Ok(());
        }
        let equal = self.value.clone().unwrap_or_default() == signed.value
            && self.validity.clone().unwrap_or_default() == signed.validity
            && self.validity_type.unwrap_or(0) == signed.validity_type
            && self.sequence.unwrap_or(0) == signed.sequence
            && self.ttl.unwrap_or(0) == signed.ttl;
        if equal { Ok(()) } else { Err(refused("its fields differ from the signed data")) }
    }
}

/// The time in RFC 3339, with nanoseconds. Also returns the text.
fn parse_time(validity: &[u8]) -> Result<(SystemTime, &str)> {
    let invalid = || refused("its validity is not a time");
    let text = std::str::from_utf8(validity).map_err(|_| invalid())?;
    let time = chrono::DateTime::parse_from_rfc3339(text).map_err(|_| invalid())?;
    Ok((SystemTime::from(time), text))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use aws_lc_rs::{
        rand::SystemRandom,
        rsa::KeySize,
        signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair},
    };
    use proptest::prelude::*;

    use super::{super::content_path::PathRoot, *};
    use crate::protocols::ipfs::content::{
        cid::{Cid, LIBP2P_KEY},
        multihash::Multihash,
        protobuf::{write_bytes, write_varint},
    };

    const PATH: &[u8] = b"/ipfs/bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
    const VALIDITY: &[u8] = b"2030-01-01T00:00:00.123456789Z";

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    /// The parts of a record, to be changed one by one.
    struct Parts {
        data: Vec<u8>,
        copies: Vec<u8>,
        public_key: Vec<u8>,
        signature: Vec<u8>,
    }

    impl Parts {
        fn message(&self) -> Bytes {
            let mut message = self.copies.clone();
            for (number, bytes) in [(7, &self.public_key), (8, &self.signature), (9, &self.data)] {
                if !bytes.is_empty() {
                    write_bytes(number, bytes, &mut message);
                }
            }
            message.into()
        }
    }

    fn key_pair() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap()
    }

    fn key_message(kind: u64, key: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        write_varint(1, kind, &mut message);
        write_bytes(2, key, &mut message);
        message
    }

    fn name_of(key: &[u8]) -> IpnsName {
        let hash = match key.len() {
            ..=42 => Multihash::identity(Bytes::copy_from_slice(key)),
            _ => Multihash::sha2_256(key),
        };
        IpnsName::parse(&Cid::v1(LIBP2P_KEY, hash).to_string()).unwrap()
    }

    fn name() -> IpnsName {
        name_of(&key_message(1, key_pair().public_key().as_ref()))
    }

    fn cbor_bytes(key: &str, bytes: &[u8], out: &mut Vec<u8>) {
        out.push(0x60 + u8::try_from(key.len()).unwrap());
        out.extend_from_slice(key.as_bytes());
        out.extend([0x58, u8::try_from(bytes.len()).unwrap()]);
        out.extend_from_slice(bytes);
    }

    fn cbor_uint(key: &str, value: u64, out: &mut Vec<u8>) {
        out.push(0x60 + u8::try_from(key.len()).unwrap());
        out.extend_from_slice(key.as_bytes());
        out.push(0x1b);
        out.extend(value.to_be_bytes());
    }

    fn data(value: &[u8], validity: &[u8], validity_type: u64, sequence: u64, ttl: u64) -> Vec<u8> {
        let mut data = vec![0xa5];
        cbor_uint("TTL", ttl, &mut data);
        cbor_bytes("Value", value, &mut data);
        cbor_uint("Sequence", sequence, &mut data);
        cbor_bytes("Validity", validity, &mut data);
        cbor_uint("ValidityType", validity_type, &mut data);
        data
    }

    fn copies(value: &[u8], sequence: u64) -> Vec<u8> {
        let mut copies = Vec::new();
        write_bytes(1, value, &mut copies);
        write_bytes(2, b"a signature of version 1", &mut copies);
        write_varint(3, 0, &mut copies);
        write_bytes(4, VALIDITY, &mut copies);
        write_varint(5, sequence, &mut copies);
        write_varint(6, 60, &mut copies);
        copies
    }

    fn signed(data: Vec<u8>) -> Parts {
        let signature = key_pair().sign(&[SIGNED_PREFIX, &data].concat()).as_ref().to_vec();
        Parts { data, copies: Vec::new(), public_key: Vec::new(), signature }
    }

    fn good() -> Parts {
        signed(data(PATH, VALIDITY, 0, 7, 60))
    }

    fn verify(parts: &Parts) -> Result<IpnsRecord> {
        IpnsRecord::verify(&parts.message(), &name(), now())
    }

    #[test]
    fn a_signed_record_is_accepted() {
        let record = verify(&good()).unwrap();
        assert_eq!(record.sequence, 7);
        assert!(matches!(record.value.root, PathRoot::Cid(_)));
        let with_copies = Parts { copies: copies(PATH, 7), ..good() };
        assert_eq!(verify(&with_copies).unwrap(), record);
        let with_key =
            Parts { public_key: key_message(1, key_pair().public_key().as_ref()), ..good() };
        assert_eq!(verify(&with_key).unwrap(), record);
        let newer = verify(&signed(data(PATH, VALIDITY, 0, 8, 60))).unwrap();
        assert!(newer.is_newer_than(&record) && !record.is_newer_than(&newer));
        let later = verify(&signed(data(PATH, b"2031-01-01T00:00:00Z", 0, 7, 60))).unwrap();
        assert!(later.is_newer_than(&record));
    }

    #[test]
    fn a_record_of_an_rsa_key_needs_the_key_in_the_record() {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let public: &[u8] = pair.public_key().as_ref();
        let public_key = key_message(0, public);
        let data = data(PATH, VALIDITY, 0, 1, 60);
        let mut signature = vec![0; pair.public_modulus_len()];
        let signed = [SIGNED_PREFIX, &data].concat();
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &signed, &mut signature).unwrap();
        let name = name_of(&public_key);
        let mut parts = Parts { data, copies: Vec::new(), public_key, signature };
        IpnsRecord::verify(&parts.message(), &name, now()).unwrap();
        parts.public_key.clear();
        let error = IpnsRecord::verify(&parts.message(), &name, now()).unwrap_err();
        assert!(error.report().contains("no public key"), "{}", error.report());
    }

    #[test]
    fn forged_and_inconsistent_records_are_refused() {
        let other_key = Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap();
        let forged = {
            let data = data(PATH, VALIDITY, 0, 9, 60);
            let signature = other_key.sign(&[SIGNED_PREFIX, &data].concat()).as_ref().to_vec();
            let public_key = key_message(1, other_key.public_key().as_ref());
            Parts { data, copies: Vec::new(), public_key, signature }
        };
        let only_version_1 =
            Parts { data: Vec::new(), signature: Vec::new(), copies: copies(PATH, 7), ..good() };
        for (parts, reason) in [
            (Parts { public_key: Vec::new(), ..forged }, "signature is wrong"),
            (
                Parts { public_key: key_message(1, other_key.public_key().as_ref()), ..good() },
                "not that of the name",
            ),
            (Parts { data: data(PATH, VALIDITY, 0, 8, 60), ..good() }, "signature is wrong"),
            (only_version_1, "no signature of version 2"),
            (Parts { signature: Vec::new(), ..good() }, "no signature of version 2"),
            (Parts { copies: copies(PATH, 6), ..good() }, "differ from the signed data"),
            (Parts { copies: copies(b"/ipfs/other", 7), ..good() }, "differ"),
            (signed(data(PATH, VALIDITY, 1, 7, 60)), "unknown kind"),
            (signed(data(PATH, VALIDITY, 0, 7, u64::MAX)), "time to live"),
            (signed(data(PATH, b"tomorrow", 0, 7, 60)), "not a time"),
            (signed(data(b"/ipld/x", VALIDITY, 0, 7, 60)), "not a path of IPFS"),
            (signed(b"\xa0".to_vec()), "incomplete"),
            (signed(b"\x01".to_vec()), "not a map"),
            (Parts { copies: vec![0; MAX_RECORD], ..good() }, "more than 10 KiB"),
            (Parts { copies: vec![0xff], ..good() }, "not a protobuf message"),
        ] {
            let error = verify(&parts).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{}", error.report());
            assert!(error.report().contains(reason), "{reason}: {}", error.report());
        }
    }

    #[test]
    fn an_expired_record_is_reported_with_its_time() {
        let expired = signed(data(PATH, b"2020-01-01T00:00:00Z", 0, 7, 60));
        let error = verify(&expired).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.report().contains("expired at 2020-01-01"), "{}", error.report());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(IpnsRecord::verify(&bytes.into(), &name(), now()).is_err());
        }

        #[test]
        fn a_record_with_any_changed_bit_is_refused_or_the_same(at in 0usize..2000) {
            let message = good().message();
            let mut changed = message.to_vec();
            let at = at % (8 * changed.len());
            changed[at / 8] ^= 1 << (at % 8);
            let verified = IpnsRecord::verify(&changed.into(), &name(), now());
            let original = IpnsRecord::verify(&message, &name(), now()).unwrap();
            prop_assert!(verified.is_err() || verified.unwrap() == original);
        }
    }
}
