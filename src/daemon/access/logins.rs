//! Limits wrong tokens per client, so that none is guessed, and no client is locked out for good.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::error::{Error, Kind, Result};

/// Failures within [`WINDOW`] after which a client waits.
const MAX_FAILURES: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// Most clients that are remembered.
const MAX_CLIENTS: usize = 4096;

/// Times of failures by client. A success does not clear them: another client behind the same address may be guessing. A client is an IPv4 address, or the network of an IPv6 address.
#[derive(Debug, Default)]
pub(super) struct Logins {
    failures: Mutex<HashMap<IpAddr, Vec<Instant>>>,
}

impl Logins {
    /// # Errors
    /// `RateLimited` when the client has to wait.
    pub(super) fn check(&self, client: Option<IpAddr>) -> Result<()> {
        let Some(client) = client.map(network_of) else { return Ok(()) };
        let mut failures = self.failures.lock();
        let Some(times) = failures.get_mut(&client) else { return Ok(()) };
        times.retain(|time| time.elapsed() < WINDOW);
        if times.len() < MAX_FAILURES {
            return Ok(());
        }
        let wait = times.first().map_or(WINDOW, |first| WINDOW.saturating_sub(first.elapsed()));
        Err(Error::new(Kind::RateLimited, "too many wrong tokens").retry_after(wait))
    }

    pub(super) fn failed(&self, client: Option<IpAddr>) {
        let Some(client) = client.map(network_of) else { return };
        let mut failures = self.failures.lock();
        if failures.len() >= MAX_CLIENTS {
            failures.retain(|_, times| times.iter().any(|time| time.elapsed() < WINDOW));
        }
        if failures.len() < MAX_CLIENTS || failures.contains_key(&client) {
            failures.entry(client).or_default().push(Instant::now());
        }
    }
}

/// An IPv6 client has a /64 for itself.
fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_make_a_client_wait() {
        let logins = Logins::default();
        let client = Some(IpAddr::from([10, 0, 0, 1]));
        for _ in 0..MAX_FAILURES {
            logins.check(client).unwrap();
            logins.failed(client);
        }
        let error = logins.check(client).unwrap_err();
        assert_eq!(error.kind(), Kind::RateLimited);
        assert!(error.requested_wait().is_some_and(|wait| wait <= WINDOW));
        logins.check(Some(IpAddr::from([10, 0, 0, 2]))).unwrap();
        logins.check(None).unwrap();
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(network_of(ip("2001:db8::1")), network_of(ip("2001:db8::ffff:1")));
        assert_ne!(network_of(ip("2001:db8::1")), network_of(ip("2001:db8:0:1::1")));
        assert_eq!(network_of(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
    }
}
