//! Errors that no retry fixes: the endpoint is wrong or not a storage server, or a web page was sent instead of an
//! answer.

use crate::error::Kind;

/// Why the endpoint cannot be used as a storage server.
#[derive(Debug)]
pub(super) struct Unfit {
    pub(super) kind: Kind,
    pub(super) why: String,
    pub(super) hint: &'static str,
}

impl Unfit {
    /// Recognises such an error by the text of the HTTP, TLS or DNS library, which offers no error code for it.
    pub(super) fn of(why: &str) -> Option<Self> {
        let row = UNFIT.iter().find(|(said, ..)| said.iter().any(|said| why.contains(said)));
        row.map(|(_, kind, words, hint)| {
            let why = match *words {
                "" => why.to_owned(),
                words => format!("{words} ({why})"),
            };
            Self { kind: *kind, why, hint }
        })
    }

    /// The error kind. A server that has answered before is treated as temporarily unreachable (`Network`,
    /// retryable), unless the cause is on this machine.
    pub(super) fn kind_at(&self, answered: bool) -> Kind {
        let of_this_machine = self.kind == Kind::Internal;
        if answered && !of_this_machine { Kind::Network } else { self.kind }
    }
}

type Row = (&'static [&'static str], Kind, &'static str, &'static str);

const UNFIT: &[Row] = &[
    (
        &["Too many open files", "No file descriptors available"],
        Kind::Internal,
        "",
        "raise the limit of open files (ulimit -n)",
    ),
    (
        &["InvalidContentType", "corrupt message"],
        Kind::InvalidInput,
        "the server speaks no TLS",
        "write http:// in the endpoint, or the port of its TLS",
    ),
    (
        &["invalid peer certificate"],
        Kind::Unauthenticated,
        "its certificate cannot be trusted",
        "if its authority is one of your own, add it to the certificates of this system, or name it with SSL_CERT_FILE",
    ),
    (
        &["received fatal alert"],
        Kind::InvalidInput,
        "the server refuses the TLS connection",
        "is the host of the endpoint the name that the server has?",
    ),
    (
        &[
            "Name or service not known",
            "No address associated with hostname",
            "nodename nor servname",
        ],
        Kind::InvalidInput,
        "there is no such host",
        "correct the endpoint, or the region in it",
    ),
    (
        &[
            "invalid HTTP version",
            "invalid HTTP status",
            "invalid HTTP header",
            "invalid header",
            "http2 error",
            "received unexpected message from connection",
        ],
        Kind::InvalidInput,
        "what answers there does not speak HTTP",
        "is the port right? A server with TLS is https://",
    ),
];

/// Whether the content type is HTML.
pub(super) fn is_page(content_type: Option<&str>) -> bool {
    let name = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    name.eq_ignore_ascii_case("text/html") || name.eq_ignore_ascii_case("application/xhtml+xml")
}

/// Whether the text starts like an HTML document.
pub(super) fn is_html(text: &str) -> bool {
    let start: String = text.trim_start().chars().take(16).collect();
    let start = start.to_ascii_lowercase();
    start.starts_with("<!doctype html") || start.starts_with("<html")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_pass_is_told_from_what_may() {
        for (why, kind) in [
            (
                "TLS handshake failed: received corrupt message of type InvalidContentType",
                Kind::InvalidInput,
            ),
            ("invalid peer certificate: UnknownIssuer", Kind::Unauthenticated),
            (
                "dns error: failed to lookup address information: Name or service not known",
                Kind::InvalidInput,
            ),
            ("invalid HTTP version parsed", Kind::InvalidInput),
            ("io error: Too many open files (os error 24)", Kind::Internal),
        ] {
            let unfit = Unfit::of(why).unwrap();
            assert_eq!(unfit.kind_at(false), kind, "{why}");
            let later = if kind == Kind::Internal { Kind::Internal } else { Kind::Network };
            assert_eq!(unfit.kind_at(true), later, "{why}");
            assert!(unfit.why.contains(why));
        }
        for why in [
            "tcp connect error: Connection refused (os error 111)",
            "failed to lookup address information: Temporary failure in name resolution",
            "connection closed before message completed",
        ] {
            assert!(Unfit::of(why).is_none(), "{why}");
        }
    }
}
