//! aria2's options of one download, as settings. Pure.
//!
//! An option is used, or it has no meaning here and is passed over because every value of it has the same result, or it
//! is refused by its name: nothing that a client requests is lost without notice.

use serde_json::{Map, Value, json};

use super::envelope::{RpcError, RpcResult};
use crate::{
    daemon::folders::{Folders, Target},
    queue::{Download, FetchSettings, RateLimits, SeedLimits},
};

/// Options that change how aria2 itself works on its disk and with its connections. bae has no such choice: each value
/// gives the same result.
const WITHOUT_MEANING: &[&str] = &[
    "allow-overwrite",
    "allow-piece-length-change",
    "always-resume",
    "async-dns",
    "auto-file-renaming",
    "check-integrity",
    "conditional-get",
    "connect-timeout",
    "content-disposition-default-utf8",
    "continue",
    "disk-cache",
    "enable-http-keep-alive",
    "enable-http-pipelining",
    "enable-mmap",
    "enable-peer-exchange",
    "file-allocation",
    "follow-metalink",
    "follow-torrent",
    "force-save",
    "ftp-pasv",
    "ftp-reuse-connection",
    "ftp-type",
    "http-accept-gzip",
    "http-auth-challenge",
    "http-no-cache",
    "lowest-speed-limit",
    "max-file-not-found",
    "max-resume-failure-tries",
    "max-tries",
    "min-split-size",
    "no-file-allocation-limit",
    "no-netrc",
    "parameterized-uri",
    "pause-metadata",
    "piece-length",
    "realtime-chunk-checksum",
    "remote-time",
    "remove-control-file",
    "retry-wait",
    "reuse-uri",
    "rpc-save-upload-metadata",
    "save-not-found",
    "split",
    "stream-piece-selector",
    "timeout",
    "uri-selector",
    "use-head",
];
/// The same, for torrents.
const BT_WITHOUT_MEANING: &[&str] = &[
    "bt-enable-hook-after-hash-check",
    "bt-enable-lpd",
    "bt-force-encryption",
    "bt-hash-check-seed",
    "bt-load-saved-metadata",
    "bt-max-peers",
    "bt-min-crypto-level",
    "bt-prioritize-piece",
    "bt-remove-unselected-file",
    "bt-request-peer-speed-limit",
    "bt-require-crypto",
    "bt-save-metadata",
    "bt-seed-unverified",
    "bt-stop-timeout",
    "bt-tracker-connect-timeout",
    "bt-tracker-interval",
    "bt-tracker-timeout",
];
/// Options that a client may clear, and not set.
const ONLY_EMPTY: &[&str] = &[
    "all-proxy",
    "bt-exclude-tracker",
    "bt-tracker",
    "ftp-passwd",
    "ftp-proxy",
    "ftp-user",
    "http-passwd",
    "http-proxy",
    "http-user",
    "https-proxy",
    "no-proxy",
];
/// Most connections to one server.
const MAX_CONNECTIONS: usize = 64;

/// The options that are used.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Options {
    pub(super) target: Target,
    pub(super) name: Option<String>,
    pub(super) paused: bool,
    pub(super) select: Option<String>,
    pub(super) download_limit: Option<Option<u64>>,
    pub(super) upload_limit: Option<Option<u64>>,
    pub(super) seed_ratio: Option<f64>,
    pub(super) seed_seconds: Option<u64>,
    pub(super) fetch: FetchSettings,
}

/// Parses options.
///
/// # Errors
/// When one is not supported, or its value is malformed.
pub(super) fn parse(options: &Map<String, Value>, folders: &Folders) -> RpcResult<Options> {
    let mut parsed = Options::default();
    for (name, value) in options {
        parsed.set(name, value, folders)?;
    }
    Ok(parsed)
}

impl Options {
    fn set(&mut self, name: &str, value: &Value, folders: &Folders) -> RpcResult<()> {
        if name == "header" {
            self.fetch.headers = headers(value)?;
            return Ok(());
        }
        let text = text_of(name, value)?;
        let text = text.as_str();
        match name {
            "dir" => self.target = folders.resolve(text)?,
            "out" => self.name = file_name(text)?,
            "pause" => self.paused = boolean(name, text)?,
            "select-file" => self.select = Some(text.to_owned()).filter(|text| !text.is_empty()),
            "max-download-limit" => self.download_limit = Some(rate(name, text)?),
            "max-upload-limit" => self.upload_limit = Some(rate(name, text)?),
            "seed-ratio" => self.seed_ratio = Some(number(name, text)?),
            "seed-time" => self.seed_seconds = Some(minutes(name, text)?),
            "referer" => self.fetch.referer = Some(text.to_owned()).filter(|text| !text.is_empty()),
            "user-agent" => {
                self.fetch.user_agent = Some(text.to_owned()).filter(|text| !text.is_empty());
            }
            "checksum" => self.fetch.checksums = vec![text.to_owned()],
            "max-connection-per-server" => {
                let count = text.parse::<usize>().map_err(|_| malformed(name))?;
                self.fetch.connections = Some(count.clamp(1, MAX_CONNECTIONS));
            }
            _ if WITHOUT_MEANING.contains(&name) || BT_WITHOUT_MEANING.contains(&name) => {}
            _ if ONLY_EMPTY.contains(&name) && text.is_empty() => {}
            _ => return Err(RpcError::new(format!("The option {name:?} is not supported."))),
        }
        Ok(())
    }

    /// Rate limits over known ones.
    pub(super) fn limits(&self, known: RateLimits) -> RateLimits {
        RateLimits {
            download: self.download_limit.unwrap_or(known.download),
            upload: self.upload_limit.unwrap_or(known.upload),
        }
    }

    /// Seed limits over known ones. In aria2, too, a ratio of 0 is no limit.
    pub(super) fn seed_limits(&self, known: SeedLimits) -> SeedLimits {
        SeedLimits {
            ratio: self.seed_ratio.or(known.ratio),
            seconds: self.seed_seconds.or(known.seconds),
        }
    }
}

/// The options of a download, as `getOption` returns them. Header lines are left out: they may hold secrets.
pub(super) fn shown(download: &Download, dir: &str) -> Value {
    let settings = &download.settings;
    let rate = |rate: Option<u64>| rate.unwrap_or(0).to_string();
    let mut shown = json!({
        "dir": dir,
        "out": download.name,
        "max-download-limit": rate(settings.limits.download),
        "max-upload-limit": rate(settings.limits.upload),
    });
    let mut put = |name: &str, value: Option<String>| {
        if let (Some(value), Some(fields)) = (value, shown.as_object_mut()) {
            fields.insert(name.to_owned(), value.into());
        }
    };
    put("select-file", settings.select.clone());
    put("seed-ratio", settings.seed_limits.ratio.map(|ratio| ratio.to_string()));
    put("seed-time", settings.seed_limits.seconds.map(|seconds| (seconds / 60).to_string()));
    let connections = settings.fetch.connections.map(|count| count.to_string());
    put("max-connection-per-server", connections);
    put("user-agent", settings.fetch.user_agent.clone());
    put("checksum", settings.fetch.checksums.first().cloned());
    shown
}

fn malformed(name: &str) -> RpcError {
    RpcError::new(format!("The value of the option {name:?} is malformed."))
}

/// The text of a value; clients also send numbers and booleans.
pub(super) fn text_of(name: &str, value: &Value) -> RpcResult<String> {
    match value {
        Value::String(text) => Ok(text.trim().to_owned()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(on) => Ok(on.to_string()),
        _ => Err(malformed(name)),
    }
}

/// Header lines: one, or an array of them.
fn headers(value: &Value) -> RpcResult<Vec<(String, String)>> {
    let lines: Vec<&str> = match value {
        Value::String(line) => vec![line],
        Value::Array(lines) => lines
            .iter()
            .map(Value::as_str)
            .collect::<Option<_>>()
            .ok_or_else(|| malformed("header"))?,
        _ => return Err(malformed("header")),
    };
    let lines = lines.into_iter().filter(|line| !line.is_empty());
    let split = |line: &str| {
        let (name, value) = line.split_once(':').ok_or_else(|| malformed("header"))?;
        Ok((name.trim().to_owned(), value.trim_matches(' ').to_owned()))
    };
    lines.map(split).collect()
}

/// A name without folders.
fn file_name(text: &str) -> RpcResult<Option<String>> {
    let is_bad = text.contains(['/', '\\'])
        || [".", "..", "~"].contains(&text)
        || text.chars().any(char::is_control);
    match (text.is_empty(), is_bad) {
        (true, _) => Ok(None),
        (false, true) => Err(RpcError::new("The option \"out\" is a file name without folders.")),
        (false, false) => Ok(Some(text.to_owned())),
    }
}

fn boolean(name: &str, text: &str) -> RpcResult<bool> {
    match text {
        "true" => Ok(true),
        "false" | "" => Ok(false),
        _ => Err(malformed(name)),
    }
}

/// Bytes per second, with `K` or `M` for powers of 1024; 0 is no limit.
pub(super) fn rate(name: &str, text: &str) -> RpcResult<Option<u64>> {
    let (digits, unit) = match text.chars().last() {
        Some('K' | 'k') => (&text[..text.len() - 1], 1 << 10),
        Some('M' | 'm') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| malformed(name))?;
    let rate = number.checked_mul(unit).ok_or_else(|| malformed(name))?;
    Ok(Some(rate).filter(|rate| *rate > 0))
}

fn number(name: &str, text: &str) -> RpcResult<f64> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| malformed(name))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number from 0 to 1e9 was checked for"
)]
fn minutes(name: &str, text: &str) -> RpcResult<u64> {
    Ok((number(name, text)?.min(1e9) * 60.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::example_download;

    fn parse(options: Value) -> RpcResult<Options> {
        super::parse(options.as_object().unwrap(), &Folders::example())
    }

    #[test]
    fn options_of_browser_extensions_are_used() {
        let parsed = parse(json!({
            "dir": "/cloud", "out": "a film.mkv", "referer": "http://page/", "user-agent": "M",
            "header": ["Cookie: a=b; c=d", "X-A:  y"], "split": "16", "pause": "true",
            "max-connection-per-server": "100", "max-download-limit": "2M", "seed-time": "1.5",
            "seed-ratio": "0.0", "checksum": "md5=0cc175b9c0f1b6a831c399e269772661", "select-file": "1,3-5",
            "all-proxy": "",
        }))
        .unwrap();
        assert_eq!(parsed.target.storage.as_deref(), Some("cloud"));
        assert_eq!(parsed.name.as_deref(), Some("a film.mkv"));
        let expected =
            [("Cookie", "a=b; c=d"), ("X-A", "y")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(parsed.fetch.headers, expected);
        assert_eq!(parsed.fetch.connections, Some(64));
        assert_eq!(parsed.download_limit, Some(Some(2 << 20)));
        assert_eq!((parsed.seed_seconds, parsed.seed_ratio), (Some(90), Some(0.0)));
        assert!(parsed.paused && parsed.select.as_deref() == Some("1,3-5"));
        let one = parse(json!({ "header": "A: b" })).unwrap();
        assert_eq!(one.fetch.headers.len(), 1);
    }

    #[test]
    fn no_option_names_a_program_a_proxy_or_a_path() {
        for (name, value) in [
            ("on-download-complete", "/bin/sh"),
            ("on-download-start", ""),
            ("on-bt-download-complete", "x"),
            ("all-proxy", "http://evil:1"),
            ("http-proxy", "http://evil:1"),
            ("load-cookies", "/etc/passwd"),
            ("save-cookies", "/etc/passwd"),
            ("input-file", "/etc/passwd"),
            ("log", "/etc/x"),
            ("conf-path", "/x"),
            ("netrc-path", "/x"),
            ("private-key", "/x"),
            ("ca-certificate", "/x"),
            ("index-out", "1=/etc/x"),
            ("save-session", "/x"),
            ("rpc-secret", "x"),
            ("gid", "0123456789abcdef"),
            ("interface", "eth0"),
            ("unknown", ""),
            ("dir", "/etc"),
            ("dir", "../x"),
            ("dir", "s3://bucket/x"),
            ("dir", "file:///etc"),
            ("out", "../x"),
            ("out", "/etc/passwd"),
            ("out", "a\\..\\b"),
            ("out", ".."),
            ("out", "a\0b"),
            ("out", "a\nb"),
        ] {
            assert!(parse(json!({ name: value })).is_err(), "{name}={value:?}");
        }
    }

    #[test]
    fn malformed_values_are_refused() {
        for (name, value) in [
            ("header", json!("no colon")),
            ("header", json!([1])),
            ("header", json!({})),
            ("seed-ratio", json!("NaN")),
            ("seed-ratio", json!("-1")),
            ("seed-time", json!("inf")),
            ("max-download-limit", json!("-1")),
            ("max-download-limit", json!("99999999999999999999")),
            ("max-download-limit", json!("9999999999999999999M")),
            ("max-download-limit", json!("é")),
            ("max-connection-per-server", json!("x")),
            ("pause", json!("maybe")),
            ("dir", json!(["/cloud"])),
        ] {
            assert!(parse(json!({ name: value })).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn shown_options_have_no_header_lines() {
        let mut download = example_download();
        download.settings.fetch.headers = vec![("Cookie".into(), "hunter2".into())];
        download.settings.limits.download = Some(5);
        let shown = shown(&download, "/disk");
        assert!(!shown.to_string().contains("hunter2"));
        assert_eq!((&shown["dir"], &shown["max-download-limit"]), (&"/disk".into(), &"5".into()));
    }
}
