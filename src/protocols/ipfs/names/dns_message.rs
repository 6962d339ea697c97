//! DNS messages: a query for TXT records, and its answer.

use crate::error::{Error, Kind, Result};

const TXT: u16 = 16;
const INTERNET: u16 = 1;
/// Maximum number of records that are read.
const MAX_RECORDS: u16 = 512;

/// A query for the TXT records of `name`. `None` for a name that DNS cannot have.
pub(in crate::protocols::ipfs) fn query(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    message.extend(id.to_be_bytes());
    // Recursion is desired; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let question_start = message.len();
    for label in name.split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len))?;
        message.push(len);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend(TXT.to_be_bytes());
    message.extend(INTERNET.to_be_bytes());
    (message.len() - question_start <= 259).then_some(message)
}

/// An answer to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocols::ipfs) enum Answer {
    Texts(Vec<String>),
    /// The answer does not fit into a datagram: it must be requested by TCP.
    Truncated,
    /// It answers another query.
    Other,
}

/// The TXT records in the answer `message` to `query`. Texts that are not UTF-8 are left out.
///
/// # Errors
/// `Unavailable` if the resolver failed; `Corrupt` for a message that is not valid.
pub(in crate::protocols::ipfs) fn parse_answer(query: &[u8], message: &[u8]) -> Result<Answer> {
    let malformed = || Error::new(Kind::Corrupt, "the answer of the DNS resolver is not valid");
    let header = message.get(..12).ok_or_else(malformed)?;
    let is_answer = header[2] & 0x80 != 0;
    // The resolver repeats the question; the case of letters may differ.
    let question = message.get(12..query.len()).unwrap_or_default();
    if header[..2] != query[..2] || !is_answer || !question.eq_ignore_ascii_case(&query[12..]) {
        return Ok(Answer::Other);
    }
    match header[3] & 15 {
        0 => {}
        // The name does not exist.
        3 => return Ok(Answer::Texts(Vec::new())),
        code => {
            let text = format!("the DNS resolver failed with code {code}");
            return Err(Error::new(Kind::Unavailable, text));
        }
    }
    if header[2] & 2 != 0 {
        return Ok(Answer::Truncated);
    }
    let count = u16::from_be_bytes([header[6], header[7]]).min(MAX_RECORDS);
    let mut rest = &message[query.len()..];
    let mut texts = Vec::new();
    for _ in 0..count {
        let (text, after) = read_record(rest).ok_or_else(malformed)?;
        texts.extend(text);
        rest = after;
    }
    Ok(Answer::Texts(texts))
}

/// Reads one record. Returns its text if it is a TXT record, and what follows it.
fn read_record(bytes: &[u8]) -> Option<(Option<String>, &[u8])> {
    let rest = skip_name(bytes)?;
    let (head, rest) = rest.split_at_checked(10)?;
    let len = usize::from(u16::from_be_bytes([head[8], head[9]]));
    let (mut data, rest) = rest.split_at_checked(len)?;
    let is_text = head[..4] == [0, 16, 0, 1];
    if !is_text {
        // For example an alias, which the resolver has followed.
        return Some((None, rest));
    }
    let mut text = Vec::new();
    while let Some((len, more)) = data.split_first() {
        let (part, more) = more.split_at_checked(usize::from(*len))?;
        text.extend_from_slice(part);
        data = more;
    }
    Some((String::from_utf8(text).ok(), rest))
}

fn skip_name(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (len, rest) = bytes.split_first()?;
        match len {
            0 => return Some(rest),
            1..=63 => bytes = rest.get(usize::from(*len)..)?,
            // A reference to an earlier name ends this one.
            192.. => return rest.get(1..),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "_dnslink.example.org";

    fn answer(id: u16, flags: [u8; 2], records: &[Vec<u8>]) -> Vec<u8> {
        let mut message = query(id, NAME).unwrap();
        message[2] = flags[0];
        message[3] = flags[1];
        message[7] = u8::try_from(records.len()).unwrap();
        message.extend(records.concat());
        message
    }

    fn record(kind: u8, data: &[u8]) -> Vec<u8> {
        let len = u8::try_from(data.len()).unwrap();
        [&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, len][..], data].concat()
    }

    #[test]
    fn the_texts_of_an_answer_are_read() {
        let query = query(7, NAME).unwrap();
        let parse = |message: &[u8]| parse_answer(&query, message);
        let texts = [record(5, &[0xc0, 12]), record(16, b"\x03abc\x02de"), record(16, b"\x01\xff")];
        let message = answer(7, [0x81, 0x80], &texts);
        assert_eq!(parse(&message).unwrap(), Answer::Texts(vec!["abcde".into()]));
        let upper: Vec<_> = message.iter().map(u8::to_ascii_uppercase).collect();
        assert!(matches!(parse(&upper).unwrap(), Answer::Texts(_)));
        assert_eq!(parse(&answer(7, [0x81, 0x83], &[])).unwrap(), Answer::Texts(Vec::new()));
        assert_eq!(parse(&answer(7, [0x83, 0x80], &[])).unwrap(), Answer::Truncated);
        assert_eq!(parse(&answer(8, [0x81, 0x80], &[])).unwrap(), Answer::Other);
        assert_eq!(parse(&answer(7, [0x01, 0x80], &[])).unwrap(), Answer::Other);
        let failed = parse(&answer(7, [0x81, 0x82], &[])).unwrap_err();
        assert_eq!(failed.kind(), Kind::Unavailable);
        assert_eq!(parse(&message[..message.len() - 1]).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(parse(&[]).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn a_name_that_dns_cannot_have_is_refused() {
        let long = "a".repeat(64);
        let longer = vec!["a".repeat(60); 5].join(".");
        for name in ["", "a..b", &long, &longer] {
            assert_eq!(query(1, name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..90)) {
            let query = query(7, NAME).unwrap();
            let _ = parse_answer(&query, &bytes);
            let mut message = answer(7, [0x81, 0x80], &[]);
            message[7] = 3;
            message.extend(bytes);
            let _ = parse_answer(&query, &message);
        }
    }
}
