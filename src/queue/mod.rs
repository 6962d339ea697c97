//! The queue: persistent downloads, started by a scheduler, filled by the engine.
//!
//! A [`Download`] is an entry of the queue. A request of any API becomes a call of [`Queue`], the one facade for all of
//! them. A change is checked, committed in the catalog (`catalog/downloads.rs`), and then put into the store in memory,
//! which answers all reads. So an answer means that the change survives `kill -9`.
//!
//! The path of a download: [`Queue::add`] identifies its source without the network, and records it. The scheduler
//! (`scheduler.rs`, a pure function) decides what runs; the runner (`runner/`) starts imports in the engine, follows
//! them, and records how they end. Bytes do not pass through here. A restart continues all that ran: an import fetches
//! only its holes.
//!
//! Refused: a source that is a path of this machine, a storage by URL, an unknown category, and header lines with line
//! breaks. Two requests for one torrent are one download.

mod add;
mod backoff;
mod categories;
mod change;
mod clock;
mod download;
mod estimate;
mod feeds;
mod filter;
mod hooks;
mod request;
mod runner;
mod schedule;
mod scheduler;
mod service;
mod state;
mod store;
mod totals;
mod values;
mod watch;

pub use self::{
    add::{NewDownload, NewSource, check_tag},
    change::{Change, Move},
    clock::{Clock, MINUTES_PER_WEEK, Now, SystemClock},
    download::{
        Download, DownloadId, FetchSettings, InfoHashes, Priority, Progress, RateLimits,
        SeedLimits, Settings, SourceKind,
    },
    feeds::{FeedView, ItemView, Preview, Refreshed, SkipReason},
    filter::{Filter, Listed, Order, Page},
    service::{Added, Queue},
    state::{Failure, Seeding, State, StateName},
    store::{Changes, Removal},
    totals::Totals,
};

/// A download for the tests of other layers.
#[cfg(test)]
pub(crate) fn example_download() -> Download {
    test_download(1)
}

#[cfg(test)]
fn test_download(number: u64) -> Download {
    Download {
        id: format!("{number:016x}").parse().expect("16 digits"),
        number,
        name: format!("download {number}"),
        kind: SourceKind::Magnet,
        source: String::new(),
        hashes: InfoHashes::default(),
        host: None,
        settings: Settings::default(),
        position: 0,
        state: State::Queued,
        seeding: Seeding::Off,
        import: None,
        exported: None,
        progress: Progress::default(),
        tries: 0,
        added_at: 0,
        started_at: None,
        finished_at: None,
        last_activity: None,
        removing: None,
        revision: 0,
    }
}
