//! The error of an import that receives no data: it contains the last messages of trackers and web seeds.

use std::time::Duration;

use super::trackers::Trackers;
use crate::{
    error::{Error, Kind},
    hints::{Setting, hint},
};

/// What is known when an import times out.
#[derive(Debug)]
pub(super) struct IdleTimeout<'a> {
    pub(super) timeout: Duration,
    /// Number of pieces that failed their hash.
    pub(super) failed_pieces: u64,
    pub(super) trackers: &'a Trackers,
    /// The last messages of the web seeds.
    pub(super) web_seeds: Option<String>,
}

impl IdleTimeout<'_> {
    pub(super) fn into_error(self, what: &str) -> Error {
        let seconds = self.timeout.as_secs_f64();
        let (mut text, hint) = match self.failed_pieces {
            0 => (
                format!("{what}: no data received for {seconds} s"),
                hint![
                    "check that the torrent has peers, add one with ",
                    Setting::Peer,
                    ", or wait longer with ",
                    Setting::Timeout,
                ],
            ),
            failed => (
                format!("{what}: {}, and no other data for {seconds} s", wrong_pieces(failed)),
                hint![
                    "peers that send wrong bytes are banned: add another with ",
                    Setting::Peer,
                    ", or wait longer with ",
                    Setting::Timeout,
                ],
            ),
        };
        for message in self.trackers.report().into_iter().chain(self.web_seeds) {
            text.push_str("; ");
            text.push_str(&message);
        }
        Error::new(Kind::Network, text).hint(hint)
    }
}

/// `3 pieces failed their hash (wrong bytes)`.
pub(super) fn wrong_pieces(failed: u64) -> String {
    match failed {
        1 => "1 piece failed its hash (wrong bytes)".to_owned(),
        _ => format!("{failed} pieces failed their hash (wrong bytes)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_contains_the_last_messages_of_trackers_and_web_seeds() {
        let mut trackers = Trackers::default();
        let timeout = Duration::from_secs(5);
        let idle = IdleTimeout { timeout, failed_pieces: 0, trackers: &trackers, web_seeds: None };
        assert_eq!(idle.into_error("9c4e").report(), "9c4e: no data received for 5 s");
        trackers.refused("http://t".into(), "unregistered torrent".into());
        let web_seeds = Some("web seed x/f: 404 Not Found".to_owned());
        let error = IdleTimeout { timeout, failed_pieces: 2, trackers: &trackers, web_seeds }
            .into_error("9c4e");
        assert_eq!(
            error.report(),
            "9c4e: 2 pieces failed their hash (wrong bytes), and no other data for 5 s; tracker http://t: unregistered torrent; web seed x/f: 404 Not Found"
        );
        assert!(error.hint_text().unwrap().contains("banned"));
    }
}
