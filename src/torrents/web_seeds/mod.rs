//! Web seeds (BEP 19): fetches pieces from the HTTP and FTP servers that a torrent names in `url-list`.
//!
//! The path of a byte: [`run`] opens ranges of files through `protocols`, fills one piece at a time in blocks of the
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
mod names;
mod run;

use std::{
    collections::{BTreeSet, HashSet},
    future::pending,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

pub(super) use self::run::RunOutcome;
use self::run::{RunContext, RunError, WebSeed};
use super::{
    disk::{open_pieces::Holding, torrent_disk::TorrentDisk},
    metainfo::{Metainfo, check::PieceHashes},
    session::Torrent,
};
use crate::{
    config::SessionOptions,
    error::Error,
    memory::Mark,
    protocols::{FetchOptions, OutgoingOptions, Protocols, display_url},
    redact,
};

/// The most web seeds of a torrent that are used. No sensible list of mirrors is longer.
const MAX_SEEDS: usize = 64;
/// Runs in flight at one web seed.
const MAX_RUNS_PER_SEED: usize = 2;
/// Runs in flight at all web seeds together.
const MAX_RUNS: usize = 4;
/// The length of a run in bytes, unless a piece is longer. A run costs one request, and one wait for its answer.
const RUN_LEN: u64 = 8 << 20;
/// The longest wait after consecutive failures; the first wait is one second.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A message about a web seed for the user.
pub(super) type UserMessage = String;

/// The web seeds of one torrent, and the runs that are fetched from them now.
pub(super) struct WebSeeds {
    context: Option<Arc<RunContext>>,
    seeds: Vec<SeedState>,
    runs: JoinSet<RunOutcome>,
    /// Pieces being fetched.
    fetching: BTreeSet<u32>,
    max_runs: usize,
}

/// The state of one web seed.
struct SeedState {
    seed: Arc<WebSeed>,
    running: usize,
    /// The web seed is not used any more.
    disabled: bool,
    /// Files that it does not have, or of which it has a different version.
    absent_files: HashSet<usize>,
    failures: u32,
    /// No request is sent before this time.
    wait_until: Option<Instant>,
    /// The last failure.
    last_failure: Option<String>,
}

/// The pieces that may be fetched.
pub(super) struct WantedPieces<'a> {
    /// Pieces to start with, the most wanted first.
    pub(super) preferred: &'a [u32],
    /// Whether a piece is wanted and missing.
    pub(super) is_missing: &'a dyn Fn(u32) -> bool,
    /// Whether pieces that peers have sent a part of may be fetched too, because peers send no more.
    pub(super) allow_partial: bool,
}

impl std::fmt::Debug for WebSeeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSeeds").field("seeds", &self.seeds.len()).finish_non_exhaustive()
    }
}

impl WebSeeds {
    /// For a torrent without web seeds.
    pub(super) fn none() -> Self {
        let (seeds, runs, fetching) = (Vec::new(), JoinSet::new(), BTreeSet::new());
        Self { context: None, seeds, runs, fetching, max_runs: 0 }
    }

    /// The web seeds of `meta`, which was parsed from the bytes `metainfo`, and messages about those that are not used.
    pub(super) fn of(
        meta: &Metainfo,
        metainfo: &[u8],
        torrent: &Torrent,
    ) -> (Self, Vec<UserMessage>) {
        let session = torrent.session();
        let (options, enabled) = (session.options(), torrent.options().web_seeds);
        if meta.web_seeds.is_empty() || !enabled {
            return (Self::none(), unused_messages(meta, enabled));
        }
        let (mut seeds, mut messages, mut seen) =
            (Vec::new(), unused_messages(meta, true), HashSet::new());
        for text in meta.web_seeds.iter().take(MAX_SEEDS) {
            match address::parse(text) {
                Ok(url) if seen.insert(url.clone()) => {
                    seeds.push(SeedState::new(WebSeed::new(url)))
                }
                Ok(_) => {}
                Err(e) => messages.push(format!(
                    "web seed {} is not used: {}",
                    redact::source(text),
                    e.report()
                )),
            }
        }
        let open = session.pool().mark(Mark::OpenChunks) as u64;
        let fit = usize::try_from(open / u64::from(meta.piece_length)).unwrap_or(MAX_RUNS);
        let context = RunContext {
            names: names::of(meta, metainfo),
            meta: Arc::new(meta.clone()),
            disk: Arc::clone(torrent.disk()),
            torrent: Arc::clone(torrent.native()),
            session: Arc::clone(session),
            public: client(options, true),
            private: client(options, false),
            by_proxy: options.proxy.is_some(),
        };
        let (runs, fetching) = (JoinSet::new(), BTreeSet::new());
        let max_runs = fit.clamp(1, MAX_RUNS);
        (Self { context: Some(Arc::new(context)), seeds, runs, fetching, max_runs }, messages)
    }

    /// Number of web seeds in use.
    pub(super) fn usable(&self) -> usize {
        self.seeds.iter().filter(|state| !state.disabled).count()
    }

    /// Whether a piece is being fetched.
    pub(super) fn is_fetching(&self, piece: u32) -> bool {
        self.fetching.contains(&piece)
    }

    /// Whether a run could start now.
    pub(super) fn can_start_run(&self, now: Instant) -> bool {
        self.runs.len() < self.max_runs && self.seeds.iter().any(|state| state.can_start_run(now))
    }

    /// Starts as many runs as may be in flight. Returns the pieces of the new runs.
    pub(super) fn start_runs(&mut self, wanted: &WantedPieces<'_>, now: Instant) -> Vec<u32> {
        let Some(context) = self.context.clone() else { return Vec::new() };
        let mut started = Vec::new();
        while self.can_start_run(now) {
            let Some((seed, run)) = self.choose_run(&context, wanted, now) else { break };
            self.fetching.extend(run.clone());
            started.extend(run.clone());
            self.seeds[seed].running += 1;
            let web_seed = Arc::clone(&self.seeds[seed].seed);
            self.runs.spawn(run::fetch(Arc::clone(&context), web_seed, seed, run));
        }
        started
    }

    fn choose_run(
        &self,
        context: &RunContext,
        wanted: &WantedPieces<'_>,
        now: Instant,
    ) -> Option<(usize, Range<u32>)> {
        let hashes = PieceHashes::of(&context.meta);
        let fits = |piece: u32| !self.fetching.contains(&piece) && hashes.is_known(piece);
        let untouched = |piece: u32| fits(piece) && holds(&context.disk, piece, Holding::Nothing);
        let any = |piece: u32| fits(piece) && !holds(&context.disk, piece, Holding::Whole);
        let mut free: Vec<usize> =
            (0..self.seeds.len()).filter(|n| self.seeds[*n].can_start_run(now)).collect();
        free.sort_by_key(|n| self.seeds[*n].running);
        let find = |fits: &dyn Fn(u32) -> bool| {
            wanted.preferred.iter().copied().filter(|piece| fits(*piece)).find_map(|piece| {
                let has = |n: &&usize| self.seeds[**n].has(&context.meta, piece);
                free.iter().find(has).map(|n| (*n, piece))
            })
        };
        let found = match find(&untouched) {
            Some(found) => Some((found, true)),
            None if wanted.allow_partial => find(&any).map(|found| (found, false)),
            None => None,
        };
        let ((seed, piece), untouched_only) = found?;
        let state = &self.seeds[seed];
        let extends = |piece: u32| {
            let fits = if untouched_only { untouched(piece) } else { any(piece) };
            fits && (wanted.is_missing)(piece) && state.has(&context.meta, piece)
        };
        let max_len = if state.seed.sends_whole_files() { u64::MAX } else { RUN_LEN };
        Some((seed, run_around(piece, &context.meta, max_len, extends)))
    }

    /// Waits for the next run to end. Never completes while there is none.
    pub(super) async fn next(&mut self) -> RunOutcome {
        loop {
            match self.runs.join_next().await {
                Some(Ok(outcome)) => return outcome,
                Some(Err(e)) => tracing::error!("fetching from a web seed panicked: {e}"),
                None => pending().await,
            }
        }
    }

    /// Handles the end of a run. Returns the pieces that it did not fetch, and a message for the user.
    pub(super) fn on_run_ended(
        &mut self,
        outcome: RunOutcome,
        now: Instant,
    ) -> (Range<u32>, Option<UserMessage>) {
        let RunOutcome { seed, unfetched, fetched, error } = outcome;
        let all = unfetched.start.saturating_sub(fetched)..unfetched.end;
        self.fetching.retain(|piece| !all.contains(piece));
        let state = &mut self.seeds[seed];
        state.running -= 1;
        if fetched > 0 {
            state.failures = 0;
        }
        let message = error.and_then(|error| state.record_failure(error, now));
        (unfetched, message)
    }

    /// The last failure of each web seed; `None` when there was none.
    pub(super) fn report(&self) -> Option<String> {
        let last = self.seeds.iter().filter_map(|state| {
            let last = state.last_failure.as_ref()?;
            Some(format!("web seed {last}"))
        });
        let all: Vec<_> = last.take(8).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

impl SeedState {
    fn new(seed: WebSeed) -> Self {
        Self {
            seed: Arc::new(seed),
            running: 0,
            disabled: false,
            absent_files: HashSet::new(),
            failures: 0,
            wait_until: None,
            last_failure: None,
        }
    }

    fn can_start_run(&self, now: Instant) -> bool {
        let max_runs = if self.seed.sends_whole_files() { 1 } else { MAX_RUNS_PER_SEED };
        !self.disabled
            && self.running < max_runs
            && self.wait_until.is_none_or(|until| now >= until)
    }

    /// Whether the web seed has all files with bytes of `piece`, as far as known.
    fn has(&self, meta: &Metainfo, piece: u32) -> bool {
        if self.absent_files.is_empty() {
            return true;
        }
        let range = meta.piece_range(piece);
        let first = meta.file_at(range.start).map_or(0, |(index, _)| index);
        let files = meta.files.iter().enumerate().skip(first);
        let mut files = files.take_while(|(_, file)| file.range.start < range.end);
        files.all(|(index, file)| file.range.is_empty() || !self.absent_files.contains(&index))
    }

    /// Records a failure. Returns a message when it is the first one, or when the web seed is not used any more.
    fn record_failure(&mut self, error: RunError, now: Instant) -> Option<UserMessage> {
        let url = display_url(&self.seed.url);
        let text = match error {
            RunError::WholeFilesOnly => return None,
            RunError::WrongBytes(piece) => {
                self.disabled = true;
                format!("{url}: piece {piece} has wrong bytes; this web seed is no longer used")
            }
            RunError::Unusable(e) => {
                self.disabled = true;
                format!("{url} is not used: {}", e.report())
            }
            RunError::File(index, e) => {
                self.absent_files.insert(index);
                e.report()
            }
            RunError::Retryable(e) => {
                self.wait_until = Some(now + retry_delay(self.failures, &e));
                self.failures = self.failures.saturating_add(1);
                e.report()
            }
        };
        let first = self.last_failure.is_none() || self.disabled;
        self.last_failure = Some(text.clone());
        first.then(|| format!("web seed {text}"))
    }
}

fn retry_delay(failures: u32, e: &Error) -> Duration {
    let wait = Duration::from_secs(1 << failures.min(6)).min(LONGEST_WAIT);
    wait.max(e.requested_wait().unwrap_or_default())
}

fn holds(disk: &TorrentDisk, piece: u32, what: Holding) -> bool {
    disk.holding(piece) == what
}

/// The run of pieces around `piece`, at most `max_len` bytes long. It is extended forwards first.
fn run_around(
    piece: u32,
    meta: &Metainfo,
    max_len: u64,
    extends: impl Fn(u32) -> bool,
) -> Range<u32> {
    let max_pieces =
        u32::try_from(max_len / u64::from(meta.piece_length)).unwrap_or(u32::MAX).max(1);
    let (mut start, mut end) = (piece, piece + 1);
    while end - start < max_pieces && end < meta.pieces() && extends(end) {
        end += 1;
    }
    while end - start < max_pieces && start > 0 && extends(start - 1) {
        start -= 1;
    }
    start..end
}

/// Messages about web seeds of the torrent that are never used.
fn unused_messages(meta: &Metainfo, enabled: bool) -> Vec<UserMessage> {
    let mut messages = Vec::new();
    if !enabled && !meta.web_seeds.is_empty() {
        let count = meta.web_seeds.len();
        messages
            .push(format!("{count} web seeds of the torrent are not used: web seeds are disabled"));
    }
    if !meta.http_seeds.is_empty() {
        let count = meta.http_seeds.len();
        messages.push(format!("{count} HTTP seeds of the torrent (BEP 17) are not used"));
    }
    messages
}

/// The client for web seeds: with the user's proxy and interface, without the user's logins, cookies and headers.
fn client(options: &SessionOptions, only_public: bool) -> Protocols {
    let interface = options.first_interface().map(str::to_owned);
    Protocols::new(FetchOptions {
        proxy: options.proxy.clone(),
        user_agent: options.user_agent.clone(),
        outgoing: OutgoingOptions { interface, only_public },
        ..FetchOptions::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn meta() -> Metainfo {
        Metainfo::parse(include_bytes!("../metainfo/testdata/multi_v1.torrent")).unwrap()
    }

    fn state() -> SeedState {
        SeedState::new(WebSeed::new("http://u:hunter2@x.example/d?key=hunter2".parse().unwrap()))
    }

    #[test]
    fn a_run_has_the_maximum_length_and_stops_at_unwanted_pieces() {
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
    fn a_missing_file_excludes_only_its_own_pieces() {
        let (meta, mut state) = (meta(), state());
        let message =
            state.record_failure(RunError::File(0, Error::new(Kind::NotFound, "x/a: 404")), now());
        assert_eq!(message.unwrap(), "web seed x/a: 404");
        assert!(!state.has(&meta, 0) && !state.disabled);
        assert!(state.has(&meta, meta.pieces() - 1));
        assert!(state.can_start_run(now()));
    }

    #[test]
    fn a_seed_that_sends_wrong_bytes_is_disabled_and_reported_without_its_secrets() {
        let mut state = state();
        let message = state.record_failure(RunError::WrongBytes(3), now()).unwrap();
        assert!(state.disabled && !state.can_start_run(now()));
        assert!(message.contains("piece 3") && !message.contains("hunter2"), "{message}");
    }

    #[test]
    fn a_temporary_failure_is_retried_later_and_reported_once() {
        let (mut state, now) = (state(), now());
        let busy = || RunError::Retryable(Error::new(Kind::Unavailable, "x: 503"));
        assert!(state.record_failure(busy(), now).is_some());
        assert!(!state.can_start_run(now) && state.can_start_run(now + Duration::from_secs(1)));
        assert!(state.record_failure(busy(), now).is_none());
        assert!(!state.can_start_run(now + Duration::from_secs(1)));
        assert!(state.can_start_run(now + Duration::from_secs(2)));
        (0..20).for_each(|_| drop(state.record_failure(busy(), now)));
        assert!(state.can_start_run(now + LONGEST_WAIT));
    }

    fn now() -> Instant {
        Instant::now()
    }
}
