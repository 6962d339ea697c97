//! The error when nothing arrives: it contains the last messages of trackers and web seeds.

use std::time::Duration;

use super::trackers::Trackers;
use crate::error::{Error, Kind};

/// What is known when an import times out.
#[derive(Debug)]
pub(super) struct Silence<'a> {
    pub(super) timeout: Duration,
    /// Number of pieces that failed their hash.
    pub(super) failed: u64,
    pub(super) trackers: &'a Trackers,
    /// The last messages of the web seeds.
    pub(super) web_seeds: Option<String>,
}

impl Silence<'_> {
    pub(super) fn error(self, what: &str) -> Error {
        let seconds = self.timeout.as_secs_f64();
        let (mut text, hint) = match self.failed {
            0 => (
                format!("{what}: nothing arrived for {seconds} s"),
                "are there peers? name one with --peer, or wait longer with --timeout",
            ),
            failed => (
                format!("{what}: {}, and nothing else for {seconds} s", wrong(failed)),
                "a peer that sends wrong bytes is banned: name another with --peer, or wait longer with --timeout",
            ),
        };
        for said in self.trackers.report().into_iter().chain(self.web_seeds) {
            text.push_str("; ");
            text.push_str(&said);
        }
        Error::new(Kind::Network, text).hint(hint)
    }
}

/// `3 pieces came with wrong bytes`.
pub(super) fn wrong(failed: u64) -> String {
    let pieces = if failed == 1 { "piece" } else { "pieces" };
    format!("{failed} {pieces} came with wrong bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_everybody_is_in_the_error() {
        let mut trackers = Trackers::default();
        let timeout = Duration::from_secs(5);
        let silence = Silence { timeout, failed: 0, trackers: &trackers, web_seeds: None };
        assert_eq!(silence.error("9c4e").report(), "9c4e: nothing arrived for 5 s");
        trackers.refused("http://t".into(), "unregistered torrent".into());
        let web_seeds = Some("web seed x/f: 404 Not Found".to_owned());
        let error = Silence { timeout, failed: 2, trackers: &trackers, web_seeds }.error("9c4e");
        assert_eq!(
            error.report(),
            "9c4e: 2 pieces came with wrong bytes, and nothing else for 5 s; tracker http://t: unregistered torrent; web seed x/f: 404 Not Found"
        );
        assert!(error.hint_text().unwrap().contains("banned"));
    }
}
