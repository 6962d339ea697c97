//! Parses a certificate (X.509, DER): its dates, its names and its key. Pure.
//!
//! Only for certificates that the user trusts directly: no chain is followed and no signature is checked here. All
//! X.509 versions are accepted. A certificate without `subjectAltName` is valid for the common name of its subject;
//! `openssl req` makes such certificates.

use std::net::IpAddr;

/// One parsed certificate.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Certificate<'a> {
    /// Seconds since 1970-01-01 UTC.
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    /// The `dNSName` entries of the `subjectAltName`.
    pub(super) hosts: Vec<&'a str>,
    pub(super) addresses: Vec<&'a [u8]>,
    pub(super) common_name: Option<&'a str>,
    /// The whole `SubjectPublicKeyInfo`.
    pub(super) key: &'a [u8],
    /// Parts of `key`: the content of its `AlgorithmIdentifier`, and the key bits.
    pub(super) key_algorithm: &'a [u8],
    pub(super) key_bits: &'a [u8],
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

impl<'a> Certificate<'a> {
    /// `None` if `der` is not a certificate.
    pub(super) fn parse(der: &'a [u8]) -> Option<Self> {
        let mut outer = DerReader(der);
        let mut tbs = DerReader(DerReader(outer.take(SEQUENCE)?).take(SEQUENCE)?);
        if tbs.is_next(VERSION) {
            tbs.take(VERSION)?;
        }
        tbs.take(INTEGER)?;
        tbs.take(SEQUENCE)?;
        tbs.take(SEQUENCE)?;
        let mut validity = DerReader(tbs.take(SEQUENCE)?);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        let common_name = common_name(tbs.take(SEQUENCE)?);
        let (key, content) = tbs.take_with_header(SEQUENCE)?;
        let mut content = DerReader(content);
        let key_algorithm = content.take(SEQUENCE)?;
        // A key consists of whole bytes, so the count of unused bits is 0.
        let key_bits = content.take(BIT_STRING)?.strip_prefix(&[0])?;
        let mut found = Self {
            not_before,
            not_after,
            common_name,
            key,
            key_algorithm,
            key_bits,
            ..Self::default()
        };
        while let Some((tag, content)) = tbs.next() {
            if tag == EXTENSIONS {
                found.read_names(content)?;
            }
        }
        Some(found)
    }

    fn read_names(&mut self, extensions: &'a [u8]) -> Option<()> {
        let mut extensions = DerReader(DerReader(extensions).take(SEQUENCE)?);
        while !extensions.0.is_empty() {
            let mut extension = DerReader(extensions.take(SEQUENCE)?);
            if extension.take(OID)? != SUBJECT_ALT_NAME {
                continue;
            }
            // An optional flag may precede the value.
            let value =
                std::iter::from_fn(|| extension.next()).find(|(tag, _)| *tag == OCTET_STRING)?;
            let mut names = DerReader(DerReader(value.1).take(SEQUENCE)?);
            while let Some((tag, name)) = names.next() {
                match tag {
                    DNS_NAME => self.hosts.extend(std::str::from_utf8(name).ok()),
                    IP_ADDRESS => self.addresses.push(name),
                    _ => {}
                }
            }
        }
        Some(())
    }

    /// Whether the certificate is valid for this host name or IP address.
    pub(super) fn is_valid_for(&self, host: &str) -> bool {
        let has_no_alt_names = self.hosts.is_empty() && self.addresses.is_empty();
        if has_no_alt_names && self.common_name.is_some_and(|name| name_matches(name, host)) {
            return true;
        }
        match host.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => self.addresses.contains(&&ip.octets()[..]),
            Ok(IpAddr::V6(ip)) => self.addresses.contains(&&ip.octets()[..]),
            Err(_) => self.hosts.iter().any(|name| name_matches(name, host)),
        }
    }

    /// The names of the certificate, for display.
    pub(super) fn names(&self) -> Vec<String> {
        let address = |bytes: &&[u8]| {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok()
        };
        let mut names: Vec<_> = self.hosts.iter().map(|host| (*host).to_owned()).collect();
        names.extend(self.addresses.iter().filter_map(address).map(|ip| ip.to_string()));
        if names.is_empty() {
            names.extend(self.common_name.map(str::to_owned));
        }
        names
    }
}

/// Compares names without case. `*` matches the first label only.
fn name_matches(name: &str, host: &str) -> bool {
    let host = host.trim_end_matches('.');
    match name.strip_prefix("*.") {
        Some(rest) => host
            .split_once('.')
            .is_some_and(|(first, below)| !first.is_empty() && below.eq_ignore_ascii_case(rest)),
        None => name.trim_end_matches('.').eq_ignore_ascii_case(host),
    }
}

/// The last common name of a `Name`, which is the most specific one.
fn common_name(name: &[u8]) -> Option<&str> {
    let (mut sets, mut found) = (DerReader(name), None);
    while !sets.0.is_empty() {
        let mut set = DerReader(sets.take(SET)?);
        while !set.0.is_empty() {
            let mut pair = DerReader(set.take(SEQUENCE)?);
            if pair.take(OID)? == COMMON_NAME {
                found = std::str::from_utf8(pair.next()?.1).ok();
            }
        }
    }
    found
}

/// Reads DER elements one after the other.
struct DerReader<'a>(&'a [u8]);

impl<'a> DerReader<'a> {
    fn is_next(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// The content of the next element, whose tag must be `tag`.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.take_with_header(tag).map(|(_, content)| content)
    }

    /// The next element with its header, and its content. Its tag must be `tag`.
    fn take_with_header(&mut self, tag: u8) -> Option<(&'a [u8], &'a [u8])> {
        let before = self.0;
        let (found, content) = self.next()?;
        (found == tag).then(|| (&before[..before.len() - self.0.len()], content))
    }

    /// The tag and the content of the next element.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut len = usize::from(first);
        if first >= 0x80 {
            let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if bytes.is_empty() || bytes.len() > 4 {
                return None;
            }
            len = bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
            rest = after;
        }
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn time(&mut self) -> Option<i64> {
        let (tag, text) = self.next()?;
        let text = std::str::from_utf8(text).ok()?;
        let text = match tag {
            UTC_TIME => {
                let year: u32 = text.get(..2)?.parse().ok()?;
                format!("{}{text}", if year < 50 { "20" } else { "19" })
            }
            GENERALIZED_TIME => text.to_owned(),
            _ => return None,
        };
        let time = chrono::NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%SZ").ok()?;
        Some(time.and_utc().timestamp())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    use super::*;

    /// `openssl req -x509 -newkey ed25519 -days 3650 -subj /CN=nas` with
    /// `subjectAltName=DNS:nas.example,DNS:*.home.example,IP:192.0.2.7`.
    const NAMED: &str = include_str!("named.pem");
    /// `openssl x509 -req` without extensions: version 1, `/O=x/CN=nas.example`.
    const FIRST_VERSION: &str = include_str!("first_version.pem");

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn names_and_addresses_are_parsed() {
        let der = der(NAMED);
        let certificate = Certificate::parse(&der).unwrap();
        assert_eq!(certificate.names(), ["nas.example", "*.home.example", "192.0.2.7"]);
        assert_eq!(certificate.not_after - certificate.not_before, 3650 * 24 * 3600);
        for good in ["nas.example", "NAS.Example", "a.home.example", "192.0.2.7"] {
            assert!(certificate.is_valid_for(good), "{good}");
        }
        for bad in ["nas", "home.example", "a.b.home.example", "192.0.2.8", "x.nas.example"] {
            assert!(!certificate.is_valid_for(bad), "{bad}");
        }
    }

    #[test]
    fn a_certificate_without_extensions_is_valid_for_its_common_name() {
        let der = der(FIRST_VERSION);
        let certificate = Certificate::parse(&der).unwrap();
        assert_eq!(certificate.names(), ["nas.example"]);
        assert!(
            certificate.is_valid_for("nas.example") && !certificate.is_valid_for("other.example")
        );
        assert!(!certificate.key_bits.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(
            at in 0usize..2000, byte in any::<u8>(), cut in 0usize..2000,
        ) {
            let mut der = der(NAMED).to_vec();
            let len = der.len();
            der[at % len] = byte;
            der.truncate(cut.min(len));
            if let Some(certificate) = Certificate::parse(&der) {
                let _ = (certificate.names(), certificate.is_valid_for("nas.example"));
            }
        }
    }
}
