//! `app/…`: what this program is.

use serde_json::json;

use super::{
    APP_VERSION, Dialect,
    answer::{Answer, json as json_answer, text},
};

impl Dialect {
    pub(super) fn version(&self) -> Answer {
        Ok(text(APP_VERSION))
    }

    /// Versions of libraries that clients show or compare. Those of qBittorrent, where bae has none.
    pub(super) fn build_info(&self) -> Answer {
        Ok(json_answer(&json!({
            "qt": "6.8.0",
            "libtorrent": "2.0.11.0",
            "boost": "1.86.0",
            "openssl": "3.0.0",
            "zlib": "1.3.1",
            "bitness": usize::BITS,
            "platform": std::env::consts::OS,
            "bae": env!("CARGO_PKG_VERSION"),
        })))
    }

    pub(super) fn default_save_path(&self) -> Answer {
        Ok(text(self.default_folder()))
    }
}
