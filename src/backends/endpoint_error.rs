//! Errors that no retry fixes: the endpoint is wrong or not a storage server, or a web page was sent instead of an
//! answer.

use crate::error::Kind;

/// Why the endpoint cannot be used as a storage server.
#[derive(Debug)]
pub(super) struct EndpointError {
    pub(super) kind: Kind,
    pub(super) why: String,
    pub(super) hint: &'static str,
}

impl EndpointError {
    /// Recognises such an error by the text of the HTTP, TLS or DNS library, which offers no error code for it.
    pub(super) fn from_message(why: &str) -> Option<Self> {
        let row = ENDPOINT_ERRORS
            .iter()
            .find(|(patterns, ..)| patterns.iter().any(|pattern| why.contains(pattern)));
        row.map(|(_, kind, summary, hint)| {
            let why = match *summary {
                "" => why.to_owned(),
                summary => format!("{summary} ({why})"),
            };
            Self { kind: *kind, why, hint }
        })
    }

    /// The error kind. A server that has answered before is treated as temporarily unreachable (`Network`,
    /// retryable), unless the cause is on this machine.
    pub(super) fn kind_after(&self, answered: bool) -> Kind {
        let is_local = self.kind == Kind::Internal;
        if answered && !is_local { Kind::Network } else { self.kind }
    }
}

type Row = (&'static [&'static str], Kind, &'static str, &'static str);

const ENDPOINT_ERRORS: &[Row] = &[
    (
        &["Too many open files", "No file descriptors available"],
        Kind::Internal,
        "",
        "raise the limit of open files (ulimit -n)",
    ),
    (
        &["InvalidContentType", "corrupt message"],
        Kind::InvalidInput,
        "the server does not use TLS",
        "use http:// in the endpoint, or the server's TLS port",
    ),
    (
        &["invalid peer certificate"],
        Kind::Unauthenticated,
        "the server's certificate is not trusted",
        "if the certificate is from your own authority, add the authority to this system, or set SSL_CERT_FILE to its file",
    ),
    (
        &["received fatal alert"],
        Kind::InvalidInput,
        "the server rejected the TLS handshake",
        "check that the host of the endpoint is the name in the server's certificate",
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
        "the server does not speak HTTP",
        "check the port; a server with TLS needs https://",
    ),
];

/// Whether the content type is HTML.
pub(super) fn is_html_type(content_type: Option<&str>) -> bool {
    let name = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    name.eq_ignore_ascii_case("text/html") || name.eq_ignore_ascii_case("application/xhtml+xml")
}

/// Whether the text starts like an HTML document.
pub(super) fn is_html_document(text: &str) -> bool {
    let start: String = text.trim_start().chars().take(16).collect();
    let start = start.to_ascii_lowercase();
    start.starts_with("<!doctype html") || start.starts_with("<html")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permanent_endpoint_errors_are_distinguished_from_transient_ones() {
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
            let endpoint_error = EndpointError::from_message(why).unwrap();
            assert_eq!(endpoint_error.kind_after(false), kind, "{why}");
            let later = if kind == Kind::Internal { Kind::Internal } else { Kind::Network };
            assert_eq!(endpoint_error.kind_after(true), later, "{why}");
            assert!(endpoint_error.why.contains(why));
        }
        for why in [
            "tcp connect error: Connection refused (os error 111)",
            "failed to lookup address information: Temporary failure in name resolution",
            "connection closed before message completed",
        ] {
            assert!(EndpointError::from_message(why).is_none(), "{why}");
        }
    }
}
