//! Turns TLS failures into errors with a hint, in one table for all protocols.

use std::{error::Error as StdError, io};

use rustls::{AlertDescription as Alert, CertificateError, Error as TlsError, pki_types::UnixTime};

use crate::{
    error::{Error, Kind},
    hints::{Hint, Setting, hint},
};

/// The error of a failed handshake. The kind is retryable only if the failure may be temporary.
pub(in crate::protocols) fn handshake_error(error: &io::Error) -> Error {
    let Some(tls) = tls_error(error) else {
        let text = match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                "the server closed the connection during the TLS handshake".to_owned()
            }
            _ => format!("connection failed: {error}"),
        };
        return Error::new(Kind::Network, text);
    };
    match tls {
        TlsError::InvalidCertificate(why) => certificate_error(why),
        TlsError::AlertReceived(alert) => alert_error(*alert).unwrap_or_else(|| {
            Error::new(Kind::Network, format!("the server ended the TLS handshake ({alert:?})"))
        }),
        TlsError::PeerIncompatible(why) => {
            Error::new(Kind::Unsupported, format!("no TLS parameters in common ({why:?})"))
                .hint(TLS_VERSION_HINT)
        }
        TlsError::InvalidMessage(_) | TlsError::PeerSentOversizedRecord => {
            Error::new(Kind::Unsupported, "the server's answer is not TLS")
                .hint("for a port without TLS, use the scheme http, ftp or dav")
        }
        other => Error::new(Kind::Network, format!("the TLS handshake failed: {other}")),
    }
}

/// The permanent error of a TLS alert that arrives after the handshake; `None` for all other errors. Some servers
/// demand a client certificate in this way.
pub(in crate::protocols) fn permanent_alert_error(
    error: &(dyn StdError + 'static),
) -> Option<Error> {
    let tls = match error.downcast_ref::<io::Error>() {
        Some(error) => tls_error(error)?,
        None => error.downcast_ref::<TlsError>()?,
    };
    match tls {
        TlsError::AlertReceived(alert) => alert_error(*alert),
        _ => None,
    }
}

/// The text of a lost connection. Removes advice that a TLS library gives to its developers.
pub(in crate::protocols) fn readable_io_error(words: &str) -> String {
    match words.contains("close_notify") {
        true => "the server closed the connection without a TLS close".to_owned(),
        false => words.to_owned(),
    }
}

fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

const TLS_VERSION_HINT: &str =
    "the server must support TLS 1.2 or 1.3, with forward secrecy and AEAD ciphers";

/// The error of a permanent alert; `None` for alerts that may affect only this connection.
fn alert_error(alert: Alert) -> Option<Error> {
    let unsupported = |text: &str| Error::new(Kind::Unsupported, text);
    Some(match alert {
        Alert::ProtocolVersion => {
            unsupported("the server supports neither TLS 1.2 nor 1.3").hint(TLS_VERSION_HINT)
        }
        Alert::HandshakeFailure | Alert::InsufficientSecurity => unsupported(
            "the server refuses the TLS handshake: no cipher suite in common, or it requires a client certificate",
        )
        .hint(TLS_VERSION_HINT),
        Alert::CertificateRequired | Alert::NoCertificate | Alert::BadCertificate => {
            Error::new(Kind::Unauthenticated, "the server requires a client certificate")
                .hint("bae does not support client certificates")
        }
        Alert::AccessDenied => {
            Error::new(Kind::PermissionDenied, "the server refuses the TLS handshake")
        }
        Alert::UnrecognisedName => unsupported("the server has no certificate for this host name"),
        Alert::NoApplicationProtocol => unsupported("the server does not support HTTP over TLS"),
        _ => return None,
    })
}

const CLOCK_HINT: &str = "check the clock of this machine, and renew the certificate";

fn trust_hint() -> Hint {
    hint![
        "if you trust the server, set its certificate, or its authority's, with ",
        Setting::CaCertificates,
    ]
}

fn certificate_error(why: &CertificateError) -> Error {
    let untrusted = |reason: &str| {
        let text = format!("the server's certificate is not trusted: {reason}");
        Error::new(Kind::Unauthenticated, text)
    };
    match why {
        CertificateError::Expired => untrusted("it has expired").hint(CLOCK_HINT),
        CertificateError::ExpiredContext { not_after, .. } => {
            untrusted(&format!("it expired on {}", format_date(*not_after))).hint(CLOCK_HINT)
        }
        CertificateError::NotValidYet => untrusted("it is not valid yet").hint(CLOCK_HINT),
        CertificateError::NotValidYetContext { not_before, .. } => {
            untrusted(&format!("it is valid from {} on", format_date(*not_before))).hint(CLOCK_HINT)
        }
        CertificateError::NotValidForName => {
            untrusted("it is for another host").hint(HOST_NAME_HINT)
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = match presented.as_slice() {
                [] => "no host".to_owned(),
                names => names.iter().map(|name| quoted_name(name)).collect::<Vec<_>>().join(", "),
            };
            untrusted(&format!("it is for {names}, not for {}", expected.to_str()))
                .hint(HOST_NAME_HINT)
        }
        CertificateError::UnknownIssuer => {
            untrusted("it is signed by an unknown authority").hint(trust_hint())
        }
        CertificateError::Revoked => untrusted("it was revoked"),
        CertificateError::BadEncoding | CertificateError::BadSignature => {
            untrusted("it is damaged")
        }
        other => error_from_text(&other.to_string(), untrusted),
    }
}

const HOST_NAME_HINT: &str = "use a host name that the certificate is for";

/// Recognises failures by their text, where the TLS libraries have no type for them.
fn error_from_text(words: &str, untrusted: impl Fn(&str) -> Error) -> Error {
    let says = |word: &str| words.contains(word);
    if says("CaUsedAsEndEntity") {
        return untrusted("it is signed by itself").hint(trust_hint());
    }
    if says("UnsupportedCertVersion") {
        return untrusted("it is of version 1, without an authority").hint(trust_hint());
    }
    if says("EkuError") || says("key usage") || says("purpose") {
        return untrusted("it is not for servers (extended key usage)").hint(trust_hint());
    }
    if says("nsupportedSignatureAlgorithm") || says("signature algorithm") {
        return untrusted("its signature algorithm is unsafe or unknown");
    }
    untrusted(words)
}

/// Extracts the name from text such as `DnsName("x.example")`.
fn quoted_name(name: &str) -> String {
    match name.split_once('"') {
        Some((_, rest)) => rest.split('"').next().unwrap_or_default().to_owned(),
        None => name.to_owned(),
    }
}

fn format_date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let date = chrono::DateTime::from_timestamp(seconds, 0);
    date.map_or_else(|| "an invalid date".to_owned(), |date| date.format("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use rustls::{InvalidMessage, OtherError, pki_types::ServerName};

    use super::*;

    fn handshake_failure(error: TlsError) -> Error {
        handshake_error(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn a_refused_certificate_has_a_reason_and_a_hint() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let bad = |why: CertificateError| handshake_failure(why.into());
        let expired =
            bad(CertificateError::ExpiredContext { time: at(99 << 20), not_after: at(86400) });
        assert_eq!(
            expired.report(),
            "the server's certificate is not trusted: it expired on 1970-01-02"
        );
        assert_eq!(expired.kind(), Kind::Unauthenticated);
        assert!(!expired.typed_hint().unwrap().names_setting(Setting::CaCertificates));
        let other = bad(CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("a.example").unwrap(),
            presented: vec!["DnsName(\"b.example\")".into()],
        });
        assert!(other.report().ends_with("it is for b.example, not for a.example"), "{other}");
        let unknown = bad(CertificateError::UnknownIssuer);
        assert!(unknown.typed_hint().unwrap().names_setting(Setting::CaCertificates));
        let own = OtherError(Arc::new(io::Error::other("CaUsedAsEndEntity")));
        let own = bad(CertificateError::Other(own));
        assert!(own.report().contains("signed by itself"), "{}", own.report());
    }

    #[test]
    fn incompatible_tls_is_not_retryable() {
        for alert in [Alert::ProtocolVersion, Alert::HandshakeFailure, Alert::CertificateRequired] {
            let error = handshake_failure(TlsError::AlertReceived(alert));
            assert!(!error.kind().is_retryable(), "{}", error.report());
        }
        let plain = handshake_failure(TlsError::InvalidMessage(InvalidMessage::InvalidContentType));
        assert_eq!(plain.report(), "the server's answer is not TLS");
        assert!(
            handshake_failure(TlsError::AlertReceived(Alert::InternalError)).kind().is_retryable()
        );
        assert!(handshake_error(&io::ErrorKind::UnexpectedEof.into()).kind().is_retryable());
    }

    #[test]
    fn only_permanent_alerts_give_permanent_errors() {
        let alert_kind = |alert| {
            let error = io::Error::new(io::ErrorKind::InvalidData, TlsError::AlertReceived(alert));
            permanent_alert_error(&error).map(|e| e.kind())
        };
        assert_eq!(alert_kind(Alert::CertificateRequired), Some(Kind::Unauthenticated));
        assert_eq!(alert_kind(Alert::InternalError), None);
        assert!(
            !readable_io_error(
                "peer closed connection without sending TLS close_notify: https://x"
            )
            .contains("https")
        );
    }
}
