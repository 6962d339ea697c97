//! Converts file paths between URLs and the bytes that a protocol sends.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use url::{Host, Url};

use crate::error::{Error, Kind, Result};

/// The reason why `text` is not a URL. The reason does not repeat `text`.
#[must_use]
pub fn url_error_reason(text: &str, error: url::ParseError) -> String {
    let host = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    match host {
        Some((host, _)) if host.contains('%') => {
            "an IPv6 address with a zone (%25eth0) is not supported in a URL: use the host's name"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

/// The path of `url` without percent-escapes. Control characters are refused: on an FTP command line they would start
/// further commands.
///
/// # Errors
/// `InvalidInput` for control characters and for bytes that are not UTF-8.
pub(super) fn decoded_path(url: &Url) -> Result<String> {
    percent_decoded(url.path()).ok_or_else(|| {
        let host = url.host_str().unwrap_or_default();
        Error::new(
            Kind::InvalidInput,
            format!("the path of a URL of {host} is not a valid file name"),
        )
        .hint("names are UTF-8 without control characters")
    })
}

/// A part of a URL without percent-escapes; `None` for text that [`decoded_path`] refuses.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    (!text.chars().any(char::is_control)).then(|| text.into_owned())
}

/// The path of `url` as raw bytes, without percent-escapes. Nothing is refused here: each protocol refuses the bytes
/// that its command lines cannot contain.
#[cfg(any(test, feature = "ftp", feature = "sftp"))]
pub(super) fn path_bytes(url: &Url) -> Vec<u8> {
    percent_decode_str(url.path()).collect()
}

/// The last segment of the path of `url`; `None` if it is empty or refused by [`percent_decoded`].
#[cfg(any(test, feature = "ftp", feature = "sftp"))]
pub(super) fn last_segment(url: &Url) -> Option<String> {
    url.path().rsplit('/').next().and_then(percent_decoded).filter(|name| !name.is_empty())
}

/// As [`url_below`], for a path that may not be UTF-8: servers have file names in any encoding.
pub(super) fn url_below_bytes(folder: &Url, path: &[u8]) -> Url {
    if let Ok(text) = std::str::from_utf8(path) {
        return url_below(folder, text);
    }
    let mut url = with_trailing_slash(folder);
    let parts = path.split(|b| *b == b'/').map(|part| percent_encode(part, NON_ALPHANUMERIC));
    let parts: Vec<String> = parts.map(|part| part.to_string()).collect();
    url.set_path(&format!("{}{}", url.path(), parts.join("/")));
    url
}

/// The URL of `path` below `folder`. No segment of `path` may be empty, `.` or `..`.
pub(super) fn url_below(folder: &Url, path: &str) -> Url {
    let mut url = folder.clone();
    if let Ok(mut parts) = url.path_segments_mut() {
        parts.pop_if_empty().extend(path.split('/'));
    }
    url
}

/// `url` with a slash at the end of its path.
pub(super) fn with_trailing_slash(url: &Url) -> Url {
    let mut url = url.clone();
    if let Ok(mut parts) = url.path_segments_mut() {
        parts.pop_if_empty().push("");
    }
    url
}

/// The file or folder name in `url`; the host if the path is empty.
pub(super) fn last_segment_or_host(url: &Url) -> String {
    let last = url.path().trim_end_matches('/').rsplit('/').next().and_then(percent_decoded);
    last.filter(|name| !name.is_empty()).unwrap_or_else(|| dial_host(url).unwrap_or_default())
}

/// The host of `url` in the form to connect to: lower case, IPv6 without brackets.
pub(super) fn dial_host(url: &Url) -> Option<String> {
    match url.host()? {
        Host::Domain("") => None,
        Host::Domain(name) => Some(percent_decoded(name)?.to_lowercase()),
        Host::Ipv4(ip) => Some(ip.to_string()),
        Host::Ipv6(ip) => Some(ip.to_string()),
    }
}

/// Text from a server, shortened to 300 characters on one line, for error messages.
pub(super) fn one_line_excerpt(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(300).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn names_round_trip_through_a_url() {
        for scheme in ["ftp", "sftp", "davs"] {
            let folder = url(&format!("{scheme}://me@h:2121/a%20b"));
            for name in ["x", "a b", "50%", "what?", "a#b", "日本/é.bin", "%2F", "a\\b", "+&;=:@"]
            {
                let below = url_below(&folder, name);
                assert_eq!(decoded_path(&below).unwrap(), format!("/a b/{name}"), "{below}");
                assert_eq!(below.query(), None);
                assert_eq!(last_segment_or_host(&below), name.rsplit('/').next().unwrap());
            }
        }
    }

    #[test]
    fn names_that_are_not_utf_8_round_trip_too() {
        for scheme in ["ftp", "sftp"] {
            let folder = url(&format!("{scheme}://me@h:2121/a%20b"));
            for name in [&b"na\xefve.txt"[..], b"\xff\\x/%2F..\xfe", b"sub/\x93\xfa"] {
                let below = url_below_bytes(&folder, name);
                assert_eq!(path_bytes(&below), [b"/a b/", name].concat(), "{below}");
                assert_eq!(last_segment(&below), None);
            }
            assert_eq!(url_below_bytes(&folder, b"x y").path(), "/a%20b/x%20y");
        }
        assert_eq!(last_segment(&url("sftp://h/a/b%20c")).as_deref(), Some("b c"));
    }

    #[test]
    fn paths_with_control_characters_are_refused() {
        for path in ["a%0d%0aDELE%20b", "a%00", "a%0A", "a%7f", "a%FF"] {
            let error = decoded_path(&url(&format!("ftp://h/{path}"))).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput, "{path}");
        }
    }

    #[test]
    fn a_folder_url_ends_with_one_slash() {
        for (given, folder) in [("ftp://h", "ftp://h/"), ("sftp://h/a", "sftp://h/a/")] {
            assert_eq!(with_trailing_slash(&url(given)).as_str(), folder);
            assert_eq!(with_trailing_slash(&url(folder)).as_str(), folder);
        }
        assert_eq!(last_segment_or_host(&url("sftp://h/a/b/")), "b");
        assert_eq!(last_segment_or_host(&url("sftp://H:22/")), "h");
    }

    #[test]
    fn hosts_are_lower_case_and_without_brackets() {
        for (given, wanted) in [
            ("sftp://EXAMPLE.org/", "example.org"),
            ("sftp://[::1]:22/", "::1"),
            ("ftp://127.0.0.1/", "127.0.0.1"),
        ] {
            assert_eq!(dial_host(&url(given)).unwrap(), wanted);
        }
    }

    proptest! {
        #[test]
        fn any_name_without_control_characters_round_trips(name in "[^/\\p{C}]{1,40}") {
            prop_assume!(name != "." && name != "..");
            for scheme in ["ftp", "sftp"] {
                let below = url_below(&url(&format!("{scheme}://h/d/")), &name);
                prop_assert_eq!(decoded_path(&below).unwrap(), format!("/d/{name}"));
            }
        }
    }
}
