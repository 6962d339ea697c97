//! The files of the page, in the program.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};

/// A file of the page.
#[derive(Debug)]
pub(super) struct Asset {
    pub(super) name: &'static str,
    pub(super) content_type: &'static str,
    pub(super) bytes: &'static [u8],
    /// Of its bytes, with quotes.
    pub(super) etag: String,
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! files {
    ($($name:literal: $content_type:expr,)*) => {
        &[$(($name, $content_type, include_bytes!(concat!("web/", $name)))),*]
    };
}

const FILES: &[(&str, &str, &[u8])] = files! {
    "index.html": HTML,
    "style.css": STYLE,
    "icon.svg": "image/svg+xml",
    "add.js": SCRIPT,
    "api.js": SCRIPT,
    "app.js": SCRIPT,
    "bytes_map.js": SCRIPT,
    "details.js": SCRIPT,
    "dialog.js": SCRIPT,
    "dom.js": SCRIPT,
    "filters.js": SCRIPT,
    "format.js": SCRIPT,
    "icons.js": SCRIPT,
    "keys.js": SCRIPT,
    "list.js": SCRIPT,
    "live.js": SCRIPT,
    "log.js": SCRIPT,
    "login.js": SCRIPT,
    "player.js": SCRIPT,
    "row.js": SCRIPT,
    "settings.js": SCRIPT,
    "state.js": SCRIPT,
};

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let asset = |(name, content_type, bytes): &(&'static str, &'static str, &'static [u8])| {
        let hash = digest(&SHA256, bytes);
        let etag = format!("\"{}\"", crate::catalog::hex(&hash.as_ref()[..12]));
        Asset { name, content_type, bytes, etag }
    };
    FILES.iter().map(asset).collect()
});

/// The file with this name.
pub(super) fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

#[cfg(test)]
pub(super) fn all() -> &'static [Asset] {
    &ASSETS
}
