//! Names of files at servers, between URLs and what a protocol says on the wire.

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::error::{Error, Kind, Result};

/// Why `text` is no URL, without repeating it.
#[must_use]
pub fn no_url(text: &str, error: url::ParseError) -> String {
    let host = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    match host {
        Some((host, _)) if host.contains('%') => {
            "an IPv6 address with a zone (%25eth0) cannot be in a URL here: give the host's name"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

/// The path of `url` with its percent-escapes undone. No control characters are let through: on a line of FTP they
/// would be further commands.
///
/// # Errors
/// `InvalidInput` for control characters, and for bytes that are no UTF-8.
pub(super) fn decoded_path(url: &Url) -> Result<String> {
    decoded(url.path()).ok_or_else(|| {
        let host = url.host_str().unwrap_or_default();
        Error::new(Kind::InvalidInput, format!("the path of a URL of {host} is no file's name"))
            .hint("names are UTF-8 without control characters")
    })
}

/// Text of a URL with its percent-escapes undone; `None` for what [`decoded_path`] refuses.
pub(super) fn decoded(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    (!text.chars().any(char::is_control)).then(|| text.into_owned())
}

/// The URL of what is called `path` below `folder`. No part of `path` may be empty, `.` or `..`.
pub(super) fn below(folder: &Url, path: &str) -> Url {
    let mut url = folder.clone();
    if let Ok(mut parts) = url.path_segments_mut() {
        parts.pop_if_empty().extend(path.split('/'));
    }
    url
}

/// `url` with a slash at the end of its path.
pub(super) fn as_folder(url: &Url) -> Url {
    let mut url = url.clone();
    if let Ok(mut parts) = url.path_segments_mut() {
        parts.pop_if_empty().push("");
    }
    url
}

/// What a file or folder is called by its URL; the host where the path is empty.
pub(super) fn last_part(url: &Url) -> String {
    let last = url.path().trim_end_matches('/').rsplit('/').next().and_then(decoded);
    last.filter(|name| !name.is_empty()).unwrap_or_else(|| host(url).unwrap_or_default())
}

/// The host of `url` as it is connected to: lower case, IPv6 without brackets.
pub(super) fn host(url: &Url) -> Option<String> {
    match url.host()? {
        Host::Domain("") => None,
        Host::Domain(name) => Some(decoded(name)?.to_lowercase()),
        Host::Ipv4(ip) => Some(ip.to_string()),
        Host::Ipv6(ip) => Some(ip.to_string()),
    }
}

/// What a server said, short enough to show, and on one line.
pub(super) fn said(text: &str) -> String {
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
    fn names_survive_the_way_into_a_url_and_back() {
        for scheme in ["ftp", "sftp", "davs"] {
            let folder = url(&format!("{scheme}://me@h:2121/a%20b"));
            for name in ["x", "a b", "50%", "what?", "a#b", "日本/é.bin", "%2F", "a\\b", "+&;=:@"]
            {
                let below = below(&folder, name);
                assert_eq!(decoded_path(&below).unwrap(), format!("/a b/{name}"), "{below}");
                assert_eq!(below.query(), None);
                assert_eq!(last_part(&below), name.rsplit('/').next().unwrap());
            }
        }
    }

    #[test]
    fn what_would_be_a_line_of_its_own_is_refused() {
        for path in ["a%0d%0aDELE%20b", "a%00", "a%0A", "a%7f", "a%FF"] {
            let error = decoded_path(&url(&format!("ftp://h/{path}"))).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput, "{path}");
        }
    }

    #[test]
    fn a_folder_ends_with_one_slash() {
        for (given, folder) in [("ftp://h", "ftp://h/"), ("sftp://h/a", "sftp://h/a/")] {
            assert_eq!(as_folder(&url(given)).as_str(), folder);
            assert_eq!(as_folder(&url(folder)).as_str(), folder);
        }
        assert_eq!(last_part(&url("sftp://h/a/b/")), "b");
        assert_eq!(last_part(&url("sftp://H:22/")), "h");
    }

    #[test]
    fn hosts_are_what_is_connected_to() {
        for (given, wanted) in [
            ("sftp://EXAMPLE.org/", "example.org"),
            ("sftp://[::1]:22/", "::1"),
            ("ftp://127.0.0.1/", "127.0.0.1"),
        ] {
            assert_eq!(host(&url(given)).unwrap(), wanted);
        }
    }

    proptest! {
        #[test]
        fn any_name_without_control_characters_survives(name in "[^/\\p{C}]{1,40}") {
            prop_assume!(name != "." && name != "..");
            for scheme in ["ftp", "sftp"] {
                let below = below(&url(&format!("{scheme}://h/d/")), &name);
                prop_assert_eq!(decoded_path(&below).unwrap(), format!("/d/{name}"));
            }
        }
    }
}
