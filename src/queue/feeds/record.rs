//! What is remembered of a feed over restarts, and when it is requested next. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    config::FeedOptions,
    error::{Error, Kind, Result},
    protocols::DocumentVersion,
    queue::{backoff::MAX_DELAY, state::Failure},
};

/// A feed's state in the catalog. Times are seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct FeedRecord {
    /// Hash of the settings that decide what is added. Under other settings the document is read again.
    pub(super) fingerprint: String,
    /// The version that was read to its end.
    pub(super) version: DocumentVersion,
    pub(super) title: String,
    /// The last request.
    pub(super) fetched_at: Option<u64>,
    /// The last request that was answered with a feed, or with "unchanged".
    pub(super) answered_at: Option<u64>,
    pub(super) next_at: u64,
    /// No request before this time: the server's wish.
    pub(super) not_before: u64,
    /// Failures since the last answer.
    pub(super) failures: u32,
    pub(super) error: Option<Failure>,
    /// Items in the last document.
    pub(super) items: usize,
    /// Downloads that were added, over all time.
    pub(super) added: u64,
    ttl_minutes: u64,
}

impl FeedRecord {
    /// Takes over the record of an earlier run. Other settings forget the version, and are fetched at once.
    pub(super) fn under(mut self, fingerprint: String) -> Self {
        if self.fingerprint != fingerprint {
            self.version = DocumentVersion::default();
            self.next_at = self.not_before;
            self.fingerprint = fingerprint;
        }
        self
    }

    /// Checks a request of a client, which may come before the next regular one.
    ///
    /// # Errors
    /// `RateLimited` while the server wants to be left alone.
    pub(super) fn check_not_before(&self, now: u64) -> Result<()> {
        match self.not_before.saturating_sub(now) {
            0 => Ok(()),
            seconds => {
                let text = format!("the server of the feed requested a pause of {seconds} s more");
                let wait = Duration::from_secs(seconds);
                Err(Error::new(Kind::RateLimited, text).retry_after(wait))
            }
        }
    }

    /// A request was answered at `now`. `ttl_minutes` is that of a new document.
    pub(super) fn answered(&mut self, options: &FeedOptions, ttl_minutes: Option<u64>, now: u64) {
        self.ttl_minutes = ttl_minutes.unwrap_or(self.ttl_minutes);
        (self.fetched_at, self.answered_at) = (Some(now), Some(now));
        (self.failures, self.error, self.not_before) = (0, None, 0);
        let ttl = self.ttl_minutes.saturating_mul(60).min(MAX_DELAY);
        self.next_at = now.saturating_add(options.interval.as_secs().max(ttl));
    }

    /// A request failed at `now`. The interval doubles with each failure, up to a day.
    pub(super) fn failed(&mut self, options: &FeedOptions, error: &Error, now: u64) {
        self.fetched_at = Some(now);
        self.failures = self.failures.saturating_add(1);
        self.error = Some(Failure::from(error));
        let interval = options.interval.as_secs();
        let doubled = interval.saturating_mul(1 << (self.failures - 1).min(16));
        let delay = doubled.min(MAX_DELAY.max(interval));
        let requested = error.requested_wait().map_or(0, |wait| wait.as_secs().min(MAX_DELAY));
        self.not_before = if requested > 0 { now.saturating_add(requested) } else { 0 };
        self.next_at = now.saturating_add(delay).max(self.not_before);
    }
}

/// The hash of the settings that decide what is added.
pub(super) fn fingerprint(options: &FeedOptions, url: &str) -> String {
    let FeedOptions { rules, category, private_hosts, .. } = options;
    let text = format!("{url}\n{rules:?}\n{category:?}\n{private_hosts}");
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FeedRules, Secret};

    fn options() -> FeedOptions {
        FeedOptions {
            url: Secret::Text("http://x/rss".into()),
            interval: Duration::from_secs(600),
            category: None,
            rules: FeedRules::default(),
            paused: false,
            private_hosts: false,
        }
    }

    #[test]
    fn the_next_request_comes_after_the_interval_or_the_time_to_live() {
        let mut record = FeedRecord::default();
        record.answered(&options(), None, 1000);
        assert_eq!((record.next_at, record.answered_at), (1600, Some(1000)));
        record.answered(&options(), Some(60), 1000);
        assert_eq!(record.next_at, 4600);
        record.answered(&options(), None, 2000);
        assert_eq!(record.next_at, 5600, "an unchanged document has the same time to live");
        record.answered(&options(), Some(u64::MAX), 0);
        assert_eq!(record.next_at, MAX_DELAY);
    }

    #[test]
    fn failures_double_the_interval_up_to_a_day_and_the_wish_of_the_server_is_kept() {
        let mut record = FeedRecord::default();
        let error = Error::new(Kind::Network, "x");
        let delays: Vec<u64> = (0..40)
            .map(|_| {
                record.failed(&options(), &error, 1000);
                record.next_at - 1000
            })
            .collect();
        assert_eq!((&delays[..3], delays[39]), (&[600, 1200, 2400][..], MAX_DELAY));
        record.answered(&options(), None, 0);
        let busy = Error::new(Kind::RateLimited, "x").retry_after(Duration::from_secs(5000));
        record.failed(&options(), &busy, 1000);
        assert_eq!((record.next_at, record.failures), (6000, 1));
        let refused = record.check_not_before(2000).unwrap_err();
        assert_eq!(refused.requested_wait(), Some(Duration::from_secs(4000)));
        record.check_not_before(6000).unwrap();
    }

    #[test]
    fn other_settings_read_the_document_again_but_not_before_the_server_allows_it() {
        let etag = Some("\"1\"".to_owned());
        let version = DocumentVersion { etag, modified: None };
        let record = FeedRecord {
            fingerprint: fingerprint(&options(), "http://x/rss"),
            version,
            next_at: 5000,
            not_before: 3000,
            ..FeedRecord::default()
        };
        let same = fingerprint(&options(), "http://x/rss");
        assert_eq!(record.clone().under(same).next_at, 5000);
        let rules = FeedRules::parse(&["a".to_owned()], &[]).unwrap();
        let other = fingerprint(&FeedOptions { rules, ..options() }, "http://x/rss");
        let record = record.under(other);
        assert_eq!((record.next_at, record.version), (3000, DocumentVersion::default()));
    }
}
