//! Helpers of the tests.
//!
//! [`torrents`] makes data and .torrent files, [`peers`] and [`tracker`] run clients and a tracker of other
//! projects, [`bae`] runs the program under test. Each is a [`process`] with its own IP address ([`ports`]),
//! because Transmission and trackers tell peers apart by IP address alone. The process is killed when its value is
//! dropped.

pub(crate) mod bae;
pub(crate) mod bencode;
mod ceph;
pub(crate) mod certificates;
pub(crate) mod daemon;
pub(crate) mod dav_server;
pub(crate) mod fake_drive;
pub(crate) mod fault_proxy;
pub(crate) mod file_faults;
pub(crate) mod ftp_server;
pub(crate) mod gate;
pub(crate) mod get;
pub(crate) mod h2_server;
pub(crate) mod http;
pub(crate) mod ipfs;
pub(crate) mod media;
pub(crate) mod nginx;
pub(crate) mod pam;
pub(crate) mod peers;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod proxies;
pub(crate) mod s3_server;
pub(crate) mod scripted_ftp;
pub(crate) mod scripted_http;
pub(crate) mod scripted_peer;
pub(crate) mod served_folder;
pub(crate) mod ssh_server;
pub(crate) mod streaming;
pub(crate) mod tmpfs;
pub(crate) mod tools;
pub(crate) mod torrents;
pub(crate) mod tracker;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;

/// Memory besides the payload: the program, libtorrent, SQLite and socket buffers. A build without optimisation
/// needs somewhat more than the release build that `scripts/bench` measures.
pub(crate) const OVERHEAD: u64 = 80 * MIB;

/// Ends any step of a test that hangs, long enough for a busy machine with two cores. No test asserts that a step is
/// faster than this or any other time.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// Ends a run of bae that must succeed and hangs.
pub(crate) const LONG_TIMEOUT: [&str; 2] = ["--timeout", "120s"];

/// Debian's own interpreter. Another `python3` in PATH does not find Debian's libtorrent module.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// The path of a helper script in this directory.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/support").join(name)
}

/// Fails the test when `program` is not installed, with the package to install.
pub(crate) fn require_program(program: &str, package: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
        || Path::new(program).is_file();
    assert!(
        found,
        "{program} is missing: install the package {package}, or run `scripts/setup test`"
    );
}

/// Polls `ready` every 20 ms until it returns true. Panics with `what` after `limit`.
pub(crate) fn wait_until(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// [`wait_until`] for asynchronous tests.
pub(crate) async fn wait_until_async(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < LONG, "{what}: not within {LONG:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A small seeded generator (SplitMix64). The same seed gives the same data and the same kills.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// With another seed in each run, so that all steps are hit over many runs. A failed test prints its seed;
    /// `BAE_TEST_SEED` repeats it.
    pub(crate) fn of_this_run() -> Self {
        let given = std::env::var("BAE_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
        let seed = given.unwrap_or_else(|| {
            let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
            since.as_secs() ^ u64::from(since.subsec_nanos())
        });
        eprintln!("repeat with BAE_TEST_SEED={seed}");
        Self(seed)
    }

    /// `count` steps of `total`, one in each of `count` equal parts of a run, in order. Steps are counted from 1.
    pub(crate) fn steps(&mut self, total: u64, count: u64) -> Vec<u64> {
        assert!(total >= count, "only {total} steps");
        (0..count).map(|n| 1 + total * n / count + self.below(total / count)).collect()
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `[0, below)`.
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.next() % below.max(1)
    }

    pub(crate) fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(len as usize + 8);
        while (out.len() as u64) < len {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(len as usize);
        out
    }
}

/// `len` bytes of a seed.
pub(crate) fn random(seed: u64, len: u64) -> Vec<u8> {
    Random(seed).bytes(len)
}
