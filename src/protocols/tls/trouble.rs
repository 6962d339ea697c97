//! Turns TLS failures into errors with a hint, in one table for all protocols.

use std::{error::Error as StdError, io};

use rustls::{AlertDescription as Alert, CertificateError, Error as TlsError, pki_types::UnixTime};

use crate::error::{Error, Kind};

/// The error of a failed handshake. The kind is retryable only if the failure may be temporary.
pub(in crate::protocols) fn handshake(error: &io::Error) -> Error {
    let Some(tls) = tls_error(error) else {
        let what = match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                "the server hung up during the TLS handshake".to_owned()
            }
            _ => format!("no connection: {error}"),
        };
        return Error::new(Kind::Network, what);
    };
    match tls {
        TlsError::InvalidCertificate(why) => certificate(why),
        TlsError::AlertReceived(alert) => refused(*alert).unwrap_or_else(|| {
            Error::new(Kind::Network, format!("the server ended the TLS handshake ({alert:?})"))
        }),
        TlsError::PeerIncompatible(why) => {
            Error::new(Kind::Unsupported, format!("no common way to speak TLS ({why:?})"))
                .hint(OLD_TLS)
        }
        TlsError::InvalidMessage(_) | TlsError::PeerSentOversizedRecord => {
            Error::new(Kind::Unsupported, "the server's answer is not TLS")
                .hint("is it a port without TLS? then the scheme is http, ftp or dav")
        }
        other => Error::new(Kind::Network, format!("no TLS connection: {other}")),
    }
}

/// The permanent error of a TLS alert that arrives after the handshake; `None` for all other errors. Some servers
/// demand a client certificate in this way.
pub(in crate::protocols) fn told_later(error: &(dyn StdError + 'static)) -> Option<Error> {
    let tls = match error.downcast_ref::<io::Error>() {
        Some(error) => tls_error(error)?,
        None => error.downcast_ref::<TlsError>()?,
    };
    match tls {
        TlsError::AlertReceived(alert) => refused(*alert),
        _ => None,
    }
}

/// The text of a lost connection. Removes advice that a TLS library gives to its developers.
pub(in crate::protocols) fn plain(words: &str) -> String {
    match words.contains("close_notify") {
        true => "the server hung up without a TLS close".to_owned(),
        false => words.to_owned(),
    }
}

fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

const OLD_TLS: &str = "the server must speak TLS 1.2 or 1.3, with forward secrecy and AEAD ciphers";

/// The error of a permanent alert; `None` for alerts that may affect only this connection.
fn refused(alert: Alert) -> Option<Error> {
    let unsupported = |what: &str| Error::new(Kind::Unsupported, what);
    Some(match alert {
        Alert::ProtocolVersion => {
            unsupported("the server speaks neither TLS 1.2 nor 1.3").hint(OLD_TLS)
        }
        Alert::HandshakeFailure | Alert::InsufficientSecurity => unsupported(
            "the server refuses the TLS handshake: no cipher suite in common, or it wants a client certificate",
        )
        .hint(OLD_TLS),
        Alert::CertificateRequired | Alert::NoCertificate | Alert::BadCertificate => {
            Error::new(Kind::Unauthenticated, "the server wants a client certificate")
                .hint("bae has none to give; ask for another way in")
        }
        Alert::AccessDenied => {
            Error::new(Kind::PermissionDenied, "the server refuses the TLS handshake")
        }
        Alert::UnrecognisedName => unsupported("the server has no certificate for this host name"),
        Alert::NoApplicationProtocol => unsupported("the server speaks no HTTP by TLS"),
        _ => return None,
    })
}

const BY_CACERT: &str =
    "if the server is yours, name this certificate, or its authority's, with --cacert";
const CLOCK: &str = "check the clock of this machine, and have the certificate renewed";

fn certificate(why: &CertificateError) -> Error {
    let untrusted = |what: &str| {
        Error::new(Kind::Unauthenticated, format!("its certificate cannot be trusted: {what}"))
    };
    match why {
        CertificateError::Expired => untrusted("it has expired").hint(CLOCK),
        CertificateError::ExpiredContext { not_after, .. } => {
            untrusted(&format!("it expired on {}", day(*not_after))).hint(CLOCK)
        }
        CertificateError::NotValidYet => untrusted("it is not valid yet").hint(CLOCK),
        CertificateError::NotValidYetContext { not_before, .. } => {
            untrusted(&format!("it is valid from {} on", day(*not_before))).hint(CLOCK)
        }
        CertificateError::NotValidForName => untrusted("it is for another host").hint(NAME),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = match presented.as_slice() {
                [] => "no host".to_owned(),
                names => names.iter().map(|name| shown(name)).collect::<Vec<_>>().join(", "),
            };
            untrusted(&format!("it is for {names}, not for {}", expected.to_str())).hint(NAME)
        }
        CertificateError::UnknownIssuer => {
            untrusted("it is signed by an unknown authority").hint(BY_CACERT)
        }
        CertificateError::Revoked => untrusted("it was revoked"),
        CertificateError::BadEncoding | CertificateError::BadSignature => {
            untrusted("it is damaged")
        }
        other => by_words(&other.to_string(), untrusted),
    }
}

const NAME: &str = "use a host name that the certificate is for";

/// Recognises failures by their text, where the TLS libraries have no type for them.
fn by_words(words: &str, untrusted: impl Fn(&str) -> Error) -> Error {
    let says = |word: &str| words.contains(word);
    if says("CaUsedAsEndEntity") {
        return untrusted("it is signed by itself").hint(BY_CACERT);
    }
    if says("UnsupportedCertVersion") {
        return untrusted("it is of version 1, without an authority").hint(BY_CACERT);
    }
    if says("EkuError") || says("key usage") || says("purpose") {
        return untrusted("it is not for servers (extended key usage)").hint(BY_CACERT);
    }
    if says("nsupportedSignatureAlgorithm") || says("signature algorithm") {
        return untrusted("it is signed in a way that is not safe any more, or not known");
    }
    untrusted(words)
}

/// Extracts the name from text such as `DnsName("x.example")`.
fn shown(name: &str) -> String {
    match name.split_once('"') {
        Some((_, rest)) => rest.split('"').next().unwrap_or_default().to_owned(),
        None => name.to_owned(),
    }
}

fn day(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let date = chrono::DateTime::from_timestamp(seconds, 0);
    date.map_or_else(|| "an impossible day".to_owned(), |date| date.format("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use rustls::{InvalidMessage, OtherError, pki_types::ServerName};

    use super::*;

    fn of(error: TlsError) -> Error {
        handshake(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn a_certificate_that_is_refused_says_why_and_what_helps() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let bad = |why: CertificateError| of(why.into());
        let expired =
            bad(CertificateError::ExpiredContext { time: at(99 << 20), not_after: at(86400) });
        assert_eq!(expired.report(), "its certificate cannot be trusted: it expired on 1970-01-02");
        assert_eq!(expired.kind(), Kind::Unauthenticated);
        assert!(!expired.hint_text().unwrap().contains("--cacert"));
        let other = bad(CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("a.example").unwrap(),
            presented: vec!["DnsName(\"b.example\")".into()],
        });
        assert!(other.report().ends_with("it is for b.example, not for a.example"), "{other}");
        let unknown = bad(CertificateError::UnknownIssuer);
        assert!(unknown.hint_text().unwrap().contains("--cacert"));
        let own = OtherError(Arc::new(io::Error::other("CaUsedAsEndEntity")));
        let own = bad(CertificateError::Other(own));
        assert!(own.report().contains("signed by itself"), "{}", own.report());
    }

    #[test]
    fn what_two_sides_cannot_agree_on_is_final() {
        for alert in [Alert::ProtocolVersion, Alert::HandshakeFailure, Alert::CertificateRequired] {
            let error = of(TlsError::AlertReceived(alert));
            assert!(!error.kind().is_retryable(), "{}", error.report());
        }
        let plain = of(TlsError::InvalidMessage(InvalidMessage::InvalidContentType));
        assert_eq!(plain.report(), "the server's answer is not TLS");
        assert!(of(TlsError::AlertReceived(Alert::InternalError)).kind().is_retryable());
        assert!(handshake(&io::ErrorKind::UnexpectedEof.into()).kind().is_retryable());
    }

    #[test]
    fn only_what_a_server_means_for_good_ends_a_connection_for_good() {
        let told = |alert| {
            let error = io::Error::new(io::ErrorKind::InvalidData, TlsError::AlertReceived(alert));
            told_later(&error).map(|e| e.kind())
        };
        assert_eq!(told(Alert::CertificateRequired), Some(Kind::Unauthenticated));
        assert_eq!(told(Alert::InternalError), None);
        assert!(
            !plain("peer closed connection without sending TLS close_notify: https://x")
                .contains("https")
        );
    }
}
