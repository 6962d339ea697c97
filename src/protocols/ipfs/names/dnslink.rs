//! DNSLink: a TXT record of `_dnslink.HOST` that says which content a DNS name means.

use super::content_path::ContentPath;
use crate::error::{Error, Kind, Result};

/// The label below which the record is.
pub(in crate::protocols::ipfs) const LABEL: &str = "_dnslink";

/// The content that the TXT records of `host` name: `dnslink=/ipfs/CID`, or the path alone. Other records are ignored,
/// as are equal ones.
///
/// # Errors
/// `NotFound` without such a record; `Corrupt` if records name different content.
pub(in crate::protocols::ipfs) fn target(host: &str, records: &[String]) -> Result<ContentPath> {
    let mut targets: Vec<ContentPath> = Vec::new();
    for record in records {
        let path = record.strip_prefix("dnslink=").unwrap_or(record).trim();
        match ContentPath::parse(path) {
            Ok(path) if !targets.contains(&path) => targets.push(path),
            _ => {}
        }
    }
    let name = format!("{LABEL}.{host}");
    match targets.len() {
        0 => Err(Error::new(Kind::NotFound, format!("{name} has no DNSLink record"))),
        1 => Ok(targets.remove(0)),
        count => {
            let text = format!("{name} has {count} DNSLink records for different content");
            Err(Error::new(Kind::Corrupt, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/ipfs/bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
    const B: &str = "/ipns/docs.ipfs.tech/guide";

    fn of(records: &[&str]) -> Result<ContentPath> {
        let records: Vec<_> = records.iter().map(|text| (*text).to_owned()).collect();
        target("example.org", &records)
    }

    #[test]
    fn the_record_names_the_content() {
        let a = ContentPath::parse(A).unwrap();
        assert_eq!(of(&["v=spf1 -all", &format!("dnslink={A}")]).unwrap(), a);
        assert_eq!(of(&[A]).unwrap(), a);
        assert_eq!(of(&[&format!("dnslink={A}"), A]).unwrap(), a, "equal records");
        assert_eq!(of(&[&format!("dnslink={B}")]).unwrap().segments, [b"guide"]);
    }

    #[test]
    fn no_record_and_two_different_ones_are_errors() {
        for records in [&[][..], &["dnslink=/ipfs/nothing"], &["dnslink="], &["/etc/passwd"]] {
            let error = of(records).unwrap_err();
            assert_eq!(error.kind(), Kind::NotFound);
            assert!(error.report().contains("_dnslink.example.org"));
        }
        let error = of(&[&format!("dnslink={A}"), &format!("dnslink={B}")]).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{}", error.report());
    }
}
