//! The gateways of a download. Selects the one to ask for a block, and asks others when it does not answer well.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    super::content::cid::Cid,
    gateway::{CarRange, CarStream, Gateway, Refusal},
    router::Routers,
};
use crate::{
    error::{Error, Kind, Result},
    hints::{Setting, hint},
};

/// A request is late after this time while no gateway has answered one yet.
const LATE_AT_FIRST: Duration = Duration::from_millis(500);
/// A request is late after so many times the shortest average, but not before the first and at the latest after the
/// second of [`LATE`].
const LATE_FACTOR: u32 = 5;
const LATE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Interval of looking for late requests.
const TICK: Duration = Duration::from_millis(50);
/// Maximum number of gateways that routers add.
const MAX_DISCOVERED: usize = 32;

/// Gateways that are asked for the same blocks.
#[derive(Debug)]
pub(in crate::protocols::ipfs) struct GatewaySet {
    configured: Vec<Arc<Gateway>>,
    /// Gateways that routers named.
    discovered: Mutex<Vec<Arc<Gateway>>>,
    routers: Option<Arc<Routers>>,
}

/// A request in flight for a block.
type Request<'a> = BoxFuture<'a, (Arc<Gateway>, Result<Bytes, Refusal>)>;

impl GatewaySet {
    /// `configured` has at least one entry.
    pub(in crate::protocols::ipfs) fn new(
        configured: Vec<Arc<Gateway>>,
        routers: Option<Arc<Routers>>,
    ) -> Self {
        Self { configured, discovered: Mutex::default(), routers }
    }

    fn all(&self) -> Vec<Arc<Gateway>> {
        let discovered = self.discovered.lock();
        self.configured.iter().chain(discovered.iter()).cloned().collect()
    }

    /// The gateways that may be asked for IPNS records.
    pub(in crate::protocols::ipfs) fn usable(&self) -> Vec<Arc<Gateway>> {
        self.ranked().0
    }

    pub(in crate::protocols::ipfs) fn routers(&self) -> Option<&Arc<Routers>> {
        self.routers.as_ref()
    }

    /// The gateways to ask, the best first, and why the others are not asked.
    fn ranked(&self) -> (Vec<Arc<Gateway>>, Vec<Error>) {
        let now = Instant::now();
        let (mut usable, mut errors) = (Vec::new(), Vec::new());
        let best = self.best_latency();
        for gateway in self.all() {
            let (expected, wait) = {
                let health = gateway.health();
                let expected = health.is_usable().then(|| health.expected_time(best));
                (expected, health.wait(now))
            };
            match (expected, wait) {
                (None, _) => errors.extend(gateway.ban()),
                (Some(_), Some(wait)) => {
                    let seconds = wait.as_secs_f64().ceil();
                    let text = format!("{}: busy for {seconds} s", gateway.name());
                    errors.push(Error::new(Kind::RateLimited, text).retry_after(wait));
                }
                (Some(expected), None) => usable.push((expected, gateway)),
            }
        }
        // Stable: equally good gateways stay in the order of the user.
        usable.sort_by_key(|(expected, _)| *expected);
        (usable.into_iter().map(|(_, gateway)| gateway).collect(), errors)
    }

    fn best_latency(&self) -> Option<Duration> {
        self.all().iter().filter_map(|gateway| gateway.health().latency()).min()
    }

    fn late_after(&self) -> Duration {
        self.best_latency().map_or(LATE_AT_FIRST, |best| (best * LATE_FACTOR).clamp(LATE.0, LATE.1))
    }

    /// Fetches a block, and verifies it. `root` is the root of the file or folder, which providers announce.
    ///
    /// # Errors
    /// `NotFound` if no gateway has it; a retryable kind if one of them may answer later; `Corrupt` if all of them sent
    /// other bytes; `Unsupported` for a CID that cannot be verified. The text names the CID and the gateways.
    pub(in crate::protocols::ipfs) async fn block(
        &self,
        cid: &Cid,
        root: Option<&Cid>,
    ) -> Result<Bytes> {
        cid.check_supported()?;
        let (gateways, mut errors) = self.ranked();
        if let Some(block) = self.ask(gateways, cid, &mut errors).await {
            return Ok(block);
        }
        let found = self.discover(cid, root, &mut errors).await;
        if let Some(block) = self.ask(found, cid, &mut errors).await {
            return Ok(block);
        }
        Err(nowhere_error(cid, &errors))
    }

    /// Asks gateway after gateway until one sends the block. A late request continues next to the following one.
    async fn ask(
        &self,
        gateways: Vec<Arc<Gateway>>,
        cid: &Cid,
        errors: &mut Vec<Error>,
    ) -> Option<Bytes> {
        let mut remaining = gateways.into_iter();
        let mut running: FuturesUnordered<Request<'_>> = FuturesUnordered::new();
        let mut started: Vec<(Arc<Gateway>, Instant)> = Vec::new();
        loop {
            let is_late = |last: &(_, Instant)| last.1.elapsed() >= self.late_after();
            if running.is_empty() || started.last().is_some_and(is_late) {
                match remaining.next() {
                    Some(gateway) => {
                        started.push((Arc::clone(&gateway), Instant::now()));
                        running.push(Box::pin(async move {
                            let block = gateway.block(cid).await;
                            (gateway, block)
                        }));
                    }
                    None if running.is_empty() => return None,
                    None => {}
                }
            }
            tokio::select! {
                Some((gateway, block)) = running.next() => {
                    started.retain(|(other, _)| !Arc::ptr_eq(other, &gateway));
                    match block {
                        Ok(block) => {
                            for (other, since) in started {
                                other.health().was_late(since.elapsed());
                            }
                            return Some(block);
                        }
                        Err(refusal) => {
                            tracing::debug!("{}", refusal.error.report());
                            errors.push(refusal.error);
                        }
                    }
                }
                () = tokio::time::sleep(TICK), if remaining.len() > 0 => {}
            }
        }
    }

    /// Gateways of providers that routers name, and that are not known yet.
    async fn discover(
        &self,
        cid: &Cid,
        root: Option<&Cid>,
        errors: &mut Vec<Error>,
    ) -> Vec<Arc<Gateway>> {
        let Some(routers) = &self.routers else { return Vec::new() };
        let known = self.all();
        let mut found = Vec::new();
        // Often only the roots of content are announced.
        for announced in root.into_iter().chain([cid]) {
            for gateway in routers.providers(announced, errors).await {
                let is_known = |other: &Arc<Gateway>| other.url() == gateway.url();
                if !known.iter().chain(&found).any(is_known) && found.len() < MAX_DISCOVERED {
                    found.push(gateway);
                }
            }
        }
        let mut discovered = self.discovered.lock();
        let room = MAX_DISCOVERED.saturating_sub(discovered.len());
        discovered.extend(found.iter().take(room).cloned());
        found
    }

    /// Requests a range of a file as a CAR, if the best gateway prefers that. `None` otherwise, and if it refuses.
    pub(super) async fn car(&self, root: &Cid, range: CarRange) -> Option<CarStream> {
        let gateway = self.ranked().0.into_iter().next().filter(|best| best.prefers_cars())?;
        match gateway.car(root, range).await {
            Ok(stream) => Some(stream),
            Err(refusal) => {
                tracing::debug!("{}; requesting single blocks", refusal.error.report());
                None
            }
        }
    }

    /// Whether the next range should be requested as a CAR.
    pub(in crate::protocols::ipfs) fn prefers_cars(&self) -> bool {
        self.ranked().0.first().is_some_and(|best| best.prefers_cars())
    }

    /// Whether another gateway can send blocks.
    pub(super) fn has_others(&self, gateway: &Arc<Gateway>) -> bool {
        self.ranked().0.iter().any(|other| !Arc::ptr_eq(other, gateway))
    }
}

/// The error of a block that no gateway sent.
fn nowhere_error(cid: &Cid, errors: &[Error]) -> Error {
    let error = combined_error(&format!("block {cid} was sent by no gateway"), errors);
    match error.kind() {
        Kind::Unauthenticated | Kind::PermissionDenied => error,
        _ => error.hint(hint![
            "name more gateways with ",
            Setting::IpfsGateway.with("URL"),
            ", or a router with ",
            Setting::IpfsRouter.with("URL"),
        ]),
    }
}

/// One error for the answers of several servers. The most hopeful of them decides the kind.
pub(in crate::protocols::ipfs) fn combined_error(context: &str, errors: &[Error]) -> Error {
    const ORDER: [Kind; 8] = [
        Kind::RateLimited,
        Kind::Unavailable,
        Kind::Network,
        Kind::NotFound,
        Kind::Unsupported,
        Kind::Unauthenticated,
        Kind::PermissionDenied,
        Kind::Corrupt,
    ];
    let has = |kind: &Kind| errors.iter().any(|e| e.kind() == *kind);
    let kind = ORDER.into_iter().find(has).unwrap_or(Kind::NotFound);
    let reasons: Vec<_> = errors.iter().map(Error::report).collect();
    let error = Error::new(kind, format!("{context}: {}", reasons.join("; ")));
    let wait = errors.iter().filter_map(Error::requested_wait).min();
    match wait.filter(|_| kind == Kind::RateLimited) {
        Some(wait) => error.retry_after(wait),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::content::multihash::Multihash, *};

    fn kind(kinds: &[Kind]) -> Kind {
        let cid = Cid::v0(Multihash::sha2_256(b""));
        let errors: Vec<_> =
            kinds.iter().map(|kind| Error::new(*kind, format!("{kind:?}"))).collect();
        let error = nowhere_error(&cid, &errors);
        assert!(error.report().contains(&cid.to_string()), "{}", error.report());
        for kind in kinds {
            assert!(error.report().contains(&format!("{kind:?}")), "{}", error.report());
        }
        error.kind()
    }

    #[test]
    fn a_block_that_is_nowhere_has_the_most_hopeful_kind_of_all_answers() {
        assert_eq!(kind(&[Kind::NotFound, Kind::Network]), Kind::Network);
        assert_eq!(kind(&[Kind::Corrupt, Kind::NotFound]), Kind::NotFound);
        assert_eq!(kind(&[Kind::Corrupt]), Kind::Corrupt);
        assert_eq!(kind(&[Kind::Unauthenticated, Kind::Corrupt]), Kind::Unauthenticated);
        assert_eq!(kind(&[]), Kind::NotFound);
    }

    #[test]
    fn the_shortest_requested_wait_is_kept() {
        let busy = |seconds| {
            Error::new(Kind::RateLimited, "busy").retry_after(Duration::from_secs(seconds))
        };
        let cid = Cid::v0(Multihash::sha2_256(b""));
        let error = nowhere_error(&cid, &[busy(60), busy(5)]);
        assert_eq!(error.requested_wait(), Some(Duration::from_secs(5)));
    }
}
