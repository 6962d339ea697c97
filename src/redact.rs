//! Removes passwords, and parts that may be passkeys, from URLs before display and logging.

use url::Url;

/// A tracker's scheme, host and port. The rest may contain a passkey.
pub(crate) fn tracker_origin(url: &str) -> String {
    match Url::parse(url) {
        Ok(url) => {
            let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
            format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
        }
        Err(_) => "?".to_owned(),
    }
}

/// A message from a tracker, without the parts of its URL that may be passkeys, cut to 300 characters.
pub(crate) fn tracker_message(url: &str, text: &str) -> String {
    let mut text: String = text.chars().take(MAX_MESSAGE_LEN).collect();
    if let Ok(url) = Url::parse(url) {
        let path = url.path().split('/').map(str::to_owned);
        let query = url.query_pairs().map(|(_, value)| value.into_owned());
        for secret in path.chain(query).filter(|part| part.len() >= MIN_PASSKEY_LEN) {
            text = text.replace(&secret, "…");
        }
    }
    text
}

/// Minimum length of a passkey in bytes. Shorter parts of a URL are words like `announce`.
const MIN_PASSKEY_LEN: usize = 12;
const MAX_MESSAGE_LEN: usize = 300;

/// A source as given, without the user, password and query of a URL and the trackers of a magnet link, which may
/// contain passkeys.
pub(crate) fn source(text: &str) -> String {
    match Url::parse(text) {
        // A path on a disk may parse as a URL, but has no host.
        Ok(mut url) if url.has_host() => {
            url.set_query(None);
            let _ = url.set_password(None);
            let _ = url.set_username("");
            url.into()
        }
        Ok(url) if url.scheme() == "magnet" => {
            let public = url.query_pairs().filter(|(k, _)| k.starts_with("xt") || k == "dn");
            let public: Vec<String> = public.map(|(k, v)| format!("{k}={v}")).collect();
            format!("magnet:?{}", public.join("&"))
        }
        _ => text.to_owned(),
    }
}

/// A URL without its user name and password. Passkeys stay; the torrent contains them as well.
pub(crate) fn without_password(text: &str) -> String {
    match Url::parse(text) {
        Ok(mut url) if !url.username().is_empty() || url.password().is_some() => {
            let _ = url.set_password(None);
            let _ = url.set_username("");
            url.into()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracker_messages_contain_no_passkey() {
        let url = "https://t.example/0123456789abcdef/announce?key=fedcba9876543210";
        let message = "0123456789abcdef is unknown, fedcba9876543210 too: announce again";
        assert_eq!(tracker_message(url, message), "… is unknown, … too: announce again");
        assert_eq!(tracker_message("not a URL", &"x".repeat(900)).len(), MAX_MESSAGE_LEN);
    }

    #[test]
    fn only_the_password_is_removed() {
        assert_eq!(without_password("https://u:p@x.example/a?key=1"), "https://x.example/a?key=1");
        for same in ["HTTPS://X.example/a b", "magnet:?xt=urn:btih:00&tr=http%3A%2F%2Ft", "a:b"] {
            assert_eq!(without_password(same), same);
        }
    }

    #[test]
    fn passkeys_are_not_shown() {
        assert_eq!(
            tracker_origin("https://t.example:443/abc123/announce?k=1"),
            "https://t.example"
        );
        assert_eq!(tracker_origin("udp://t.example:6969/announce"), "udp://t.example:6969");
        assert_eq!(source("https://u:p@x.example/a.torrent?key=1"), "https://x.example/a.torrent");
        let magnet = "magnet:?xt=urn:btih:00&tr=https%3A%2F%2Ft%2Fkey";
        assert_eq!(source(magnet), "magnet:?xt=urn:btih:00");
        assert_eq!(source("album.torrent"), "album.torrent");
        assert_eq!(source("sftp://u:p@x.example/a"), "sftp://x.example/a");
        assert_eq!(source("file:///a?b"), "file:///a?b");
    }
}
