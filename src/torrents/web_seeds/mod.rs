//! Web seeds (BEP 19): fetches pieces from the HTTP and FTP servers that a torrent names in `url-list`.
//!
//! The path of a byte: [`job`] opens ranges of files through `protocols`, fills one piece at a time in blocks of the
//! memory budget, and verifies the piece against the torrent's hashes. A verified piece is offered to the torrent's
//! disk, and libtorrent is told to write it. From there it takes the way of any piece: hashed, passed, written,
//! announced to peers. [`WebSeeds`] chooses what is fetched: runs of pieces in open chunks of which no peer has sent a
//! block. Meanwhile these pieces have libtorrent's lowest priority, so that peers are asked for other pieces first.
//!
//! Refused: schemes other than http, https and ftp; hosts of this machine and its network, unless the torrent names
//! them by a plain URL without query and login. A web seed in the public network never leads to such a host, neither by
//! its name nor by a redirect. The user's logins, cookies and headers are not sent. A web seed that sent wrong bytes is
//! not used again.

mod address;
mod job;
mod names;

use std::{
    collections::{BTreeSet, HashSet},
    future::pending,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

pub(super) use self::job::Outcome;
use self::job::{Seed, Shared, Trouble};
use super::{
    check::PieceHashes,
    metainfo::Metainfo,
    session::Torrent,
    torrent_disk::{Holding, TorrentDisk},
};
use crate::{
    config::NetworkOptions,
    error::Error,
    protocols::{FetchOptions, Outgoing, Protocols, place},
    redact,
};

/// The most web seeds of a torrent that are used. No sensible list of mirrors is longer.
const MOST_SEEDS: usize = 64;
/// Runs in flight at one web seed.
const AT_ONE: usize = 2;
/// Runs in flight at all web seeds together.
const AT_ALL: usize = 4;
/// The length of a run in bytes, unless a piece is longer. A run costs one request, and one wait for its answer.
const RUN: u64 = 8 << 20;
/// The longest wait after consecutive failures; the first wait is one second.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A message about a web seed for the user.
pub(super) type Telling = String;

/// The web seeds of one torrent, and the runs that are fetched from them now.
pub(super) struct WebSeeds {
    shared: Option<Arc<Shared>>,
    seeds: Vec<State>,
    jobs: JoinSet<Outcome>,
    /// Pieces being fetched.
    taken: BTreeSet<u32>,
    at_once: usize,
}

/// The state of one web seed.
struct State {
    seed: Arc<Seed>,
    running: usize,
    /// The web seed is not used any more.
    off: bool,
    /// Files that it does not have, or of which it has a different version.
    absent: HashSet<usize>,
    failures: u32,
    /// No request is sent before this time.
    until: Option<Instant>,
    /// The last failure.
    last: Option<String>,
}

/// The pieces that may be fetched.
pub(super) struct Wants<'a> {
    /// Pieces to start with, the most wanted first.
    pub(super) first: &'a [u32],
    /// Whether a piece is wanted and missing.
    pub(super) is_missing: &'a dyn Fn(u32) -> bool,
    /// Whether pieces that peers have sent a part of may be fetched too, because peers send no more.
    pub(super) partial: bool,
}

impl std::fmt::Debug for WebSeeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSeeds").field("seeds", &self.seeds.len()).finish_non_exhaustive()
    }
}

impl WebSeeds {
    /// For a torrent without web seeds.
    pub(super) fn none() -> Self {
        let (seeds, jobs, taken) = (Vec::new(), JoinSet::new(), BTreeSet::new());
        Self { shared: None, seeds, jobs, taken, at_once: 0 }
    }

    /// The web seeds of `meta`, which was parsed from the bytes `metainfo`, and messages about those that are not used.
    pub(super) fn of(meta: &Metainfo, metainfo: &[u8], torrent: &Torrent) -> (Self, Vec<Telling>) {
        let session = torrent.session();
        let options = session.options();
        if meta.web_seeds.is_empty() || !options.web_seeds {
            return (Self::none(), unused(meta, options.web_seeds));
        }
        let (mut seeds, mut told, mut seen) = (Vec::new(), unused(meta, true), HashSet::new());
        for text in meta.web_seeds.iter().take(MOST_SEEDS) {
            match address::parse(text) {
                Ok(url) if seen.insert(url.clone()) => seeds.push(State::new(Seed::new(url))),
                Ok(_) => {}
                Err(e) => told.push(format!(
                    "web seed {} is not used: {}",
                    redact::source(text),
                    e.report()
                )),
            }
        }
        let budget = session.pool().budget() as u64 / 4;
        let fit = usize::try_from(budget / u64::from(meta.piece_length)).unwrap_or(AT_ALL);
        let shared = Shared {
            names: names::of(meta, metainfo),
            meta: Arc::new(meta.clone()),
            disk: Arc::clone(torrent.disk()),
            session: Arc::clone(session),
            public: client(options, true),
            private: client(options, false),
            by_proxy: options.proxy.is_some(),
        };
        let (jobs, taken) = (JoinSet::new(), BTreeSet::new());
        let at_once = fit.clamp(1, AT_ALL);
        (Self { shared: Some(Arc::new(shared)), seeds, jobs, taken, at_once }, told)
    }

    /// Number of web seeds in use.
    pub(super) fn usable(&self) -> usize {
        self.seeds.iter().filter(|state| !state.off).count()
    }

    /// Whether a piece is being fetched.
    pub(super) fn has_taken(&self, piece: u32) -> bool {
        self.taken.contains(&piece)
    }

    /// Whether a run could start now.
    pub(super) fn is_free(&self, now: Instant) -> bool {
        self.jobs.len() < self.at_once && self.seeds.iter().any(|state| state.is_free(now))
    }

    /// Starts as many runs as may be in flight. Returns the pieces of the new runs.
    pub(super) fn feed(&mut self, wants: &Wants<'_>, now: Instant) -> Vec<u32> {
        let Some(shared) = self.shared.clone() else { return Vec::new() };
        let mut begun = Vec::new();
        while self.is_free(now) {
            let Some((seed, run)) = self.choose(&shared, wants, now) else { break };
            self.taken.extend(run.clone());
            begun.extend(run.clone());
            self.seeds[seed].running += 1;
            let asked = Arc::clone(&self.seeds[seed].seed);
            self.jobs.spawn(job::fetch(Arc::clone(&shared), asked, seed, run));
        }
        begun
    }

    fn choose(
        &self,
        shared: &Shared,
        wants: &Wants<'_>,
        now: Instant,
    ) -> Option<(usize, Range<u32>)> {
        let hashes = PieceHashes::of(&shared.meta);
        let fits = |piece: u32| !self.taken.contains(&piece) && hashes.is_known(piece);
        let untouched = |piece: u32| fits(piece) && holds(&shared.disk, piece, Holding::Nothing);
        let any = |piece: u32| fits(piece) && !holds(&shared.disk, piece, Holding::Whole);
        let mut free: Vec<usize> =
            (0..self.seeds.len()).filter(|n| self.seeds[*n].is_free(now)).collect();
        free.sort_by_key(|n| self.seeds[*n].running);
        let find = |fits: &dyn Fn(u32) -> bool| {
            wants.first.iter().copied().filter(|piece| fits(*piece)).find_map(|piece| {
                let has = |n: &&usize| self.seeds[**n].has(&shared.meta, piece);
                free.iter().find(has).map(|n| (*n, piece))
            })
        };
        let found = match find(&untouched) {
            Some(found) => Some((found, true)),
            None if wants.partial => find(&any).map(|found| (found, false)),
            None => None,
        };
        let ((seed, piece), untouched_only) = found?;
        let state = &self.seeds[seed];
        let goes_on = |piece: u32| {
            let fits = if untouched_only { untouched(piece) } else { any(piece) };
            fits && (wants.is_missing)(piece) && state.has(&shared.meta, piece)
        };
        let most = if state.seed.gives_whole_files() { u64::MAX } else { RUN };
        Some((seed, run_around(piece, &shared.meta, most, goes_on)))
    }

    /// Waits for the next run to end. Never completes while there is none.
    pub(super) async fn next(&mut self) -> Outcome {
        loop {
            match self.jobs.join_next().await {
                Some(Ok(outcome)) => return outcome,
                Some(Err(e)) => tracing::error!("fetching from a web seed panicked: {e}"),
                None => pending().await,
            }
        }
    }

    /// Handles the end of a run. Returns the pieces that it did not fetch, and a message for the user.
    pub(super) fn ended(
        &mut self,
        outcome: Outcome,
        now: Instant,
    ) -> (Range<u32>, Option<Telling>) {
        let Outcome { seed, left, brought, trouble } = outcome;
        let all = left.start.saturating_sub(brought)..left.end;
        self.taken.retain(|piece| !all.contains(piece));
        let state = &mut self.seeds[seed];
        state.running -= 1;
        if brought > 0 {
            state.failures = 0;
        }
        let told = trouble.and_then(|trouble| state.suffer(trouble, now));
        (left, told)
    }

    /// The last failure of each web seed; `None` when there was none.
    pub(super) fn report(&self) -> Option<String> {
        let last = self.seeds.iter().filter_map(|state| {
            let last = state.last.as_ref()?;
            Some(format!("web seed {last}"))
        });
        let all: Vec<_> = last.take(8).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

impl State {
    fn new(seed: Seed) -> Self {
        Self {
            seed: Arc::new(seed),
            running: 0,
            off: false,
            absent: HashSet::new(),
            failures: 0,
            until: None,
            last: None,
        }
    }

    fn is_free(&self, now: Instant) -> bool {
        let most = if self.seed.gives_whole_files() { 1 } else { AT_ONE };
        !self.off && self.running < most && self.until.is_none_or(|until| now >= until)
    }

    /// Whether the web seed has all files with bytes of `piece`, as far as known.
    fn has(&self, meta: &Metainfo, piece: u32) -> bool {
        if self.absent.is_empty() {
            return true;
        }
        let range = meta.piece_range(piece);
        let first = meta.file_at(range.start).map_or(0, |(index, _)| index);
        let files = meta.files.iter().enumerate().skip(first);
        let mut files = files.take_while(|(_, file)| file.range.start < range.end);
        files.all(|(index, file)| file.range.is_empty() || !self.absent.contains(&index))
    }

    /// Records a failure. Returns a message when it is the first one, or when the web seed is not used any more.
    fn suffer(&mut self, trouble: Trouble, now: Instant) -> Option<Telling> {
        let at = place(&self.seed.url);
        let text = match trouble {
            Trouble::WholeFiles => return None,
            Trouble::Wrong(piece) => {
                self.off = true;
                format!("{at}: piece {piece} came with wrong bytes; it is not asked any more")
            }
            Trouble::Never(e) => {
                self.off = true;
                format!("{at} is not used: {}", e.report())
            }
            Trouble::File(index, e) => {
                self.absent.insert(index);
                e.report()
            }
            Trouble::Later(e) => {
                self.until = Some(now + wait_after(self.failures, &e));
                self.failures = self.failures.saturating_add(1);
                e.report()
            }
        };
        let first = self.last.is_none() || self.off;
        self.last = Some(text.clone());
        first.then(|| format!("web seed {text}"))
    }
}

fn wait_after(failures: u32, e: &Error) -> Duration {
    let wait = Duration::from_secs(1 << failures.min(6)).min(LONGEST_WAIT);
    wait.max(e.wait_asked().unwrap_or_default())
}

fn holds(disk: &TorrentDisk, piece: u32, what: Holding) -> bool {
    disk.holding(piece) == what
}

/// The run of pieces around `piece`, at most `most` bytes long. It is extended forwards first.
fn run_around(piece: u32, meta: &Metainfo, most: u64, goes_on: impl Fn(u32) -> bool) -> Range<u32> {
    let most = u32::try_from(most / u64::from(meta.piece_length)).unwrap_or(u32::MAX).max(1);
    let (mut start, mut end) = (piece, piece + 1);
    while end - start < most && end < meta.pieces() && goes_on(end) {
        end += 1;
    }
    while end - start < most && start > 0 && goes_on(start - 1) {
        start -= 1;
    }
    start..end
}

/// Messages about web seeds of the torrent that are not used at all.
fn unused(meta: &Metainfo, wanted: bool) -> Vec<Telling> {
    let mut told = Vec::new();
    if !wanted && !meta.web_seeds.is_empty() {
        let count = meta.web_seeds.len();
        told.push(format!("{count} web seeds of the torrent are not used: they are switched off"));
    }
    if !meta.http_seeds.is_empty() {
        let count = meta.http_seeds.len();
        told.push(format!("{count} HTTP seeds of the torrent (BEP 17) are not used"));
    }
    told
}

/// The client for web seeds: with the user's proxy and interface, without the user's logins, cookies and headers.
fn client(options: &NetworkOptions, only_public: bool) -> Protocols {
    let interface = options.first_interface().map(str::to_owned);
    Protocols::new(FetchOptions {
        proxy: options.proxy.clone(),
        user_agent: options.user_agent.clone(),
        outgoing: Outgoing { interface, only_public },
        ..FetchOptions::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn meta() -> Metainfo {
        Metainfo::parse(include_bytes!("../testdata/multi_v1.torrent")).unwrap()
    }

    fn state() -> State {
        State::new(Seed::new("http://u:hunter2@x.example/d?key=hunter2".parse().unwrap()))
    }

    #[test]
    fn a_run_is_as_long_as_a_request_may_be_and_stops_at_what_is_not_wanted() {
        let meta = meta();
        let (piece, pieces) = (u64::from(meta.piece_length), meta.pieces());
        assert!(pieces >= 3, "{pieces}");
        assert_eq!(run_around(0, &meta, piece * 2, |_| true), 0..2);
        assert_eq!(run_around(pieces - 1, &meta, piece * 2, |_| true), pieces - 2..pieces);
        assert_eq!(run_around(1, &meta, u64::MAX, |_| true), 0..pieces);
        assert_eq!(run_around(1, &meta, u64::MAX, |p| p != 2), 0..2);
        assert_eq!(run_around(1, &meta, 1, |_| true), 1..2);
    }

    #[test]
    fn a_file_that_is_not_there_costs_only_its_own_pieces() {
        let (meta, mut state) = (meta(), state());
        let told = state.suffer(Trouble::File(0, Error::new(Kind::NotFound, "x/a: 404")), now());
        assert_eq!(told.unwrap(), "web seed x/a: 404");
        assert!(!state.has(&meta, 0) && !state.off);
        assert!(state.has(&meta, meta.pieces() - 1));
        assert!(state.is_free(now()));
    }

    #[test]
    fn a_seed_with_wrong_bytes_is_not_asked_again_and_told_without_its_secrets() {
        let mut state = state();
        let told = state.suffer(Trouble::Wrong(3), now()).unwrap();
        assert!(state.off && !state.is_free(now()));
        assert!(told.contains("piece 3") && !told.contains("hunter2"), "{told}");
    }

    #[test]
    fn what_may_pass_is_tried_later_and_told_once() {
        let (mut state, now) = (state(), now());
        let busy = || Trouble::Later(Error::new(Kind::Unavailable, "x: 503"));
        assert!(state.suffer(busy(), now).is_some());
        assert!(!state.is_free(now) && state.is_free(now + Duration::from_secs(1)));
        assert!(state.suffer(busy(), now).is_none());
        assert!(!state.is_free(now + Duration::from_secs(1)));
        assert!(state.is_free(now + Duration::from_secs(2)));
        (0..20).for_each(|_| drop(state.suffer(busy(), now)));
        assert!(state.is_free(now + LONGEST_WAIT));
    }

    fn now() -> Instant {
        Instant::now()
    }
}
