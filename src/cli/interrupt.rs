//! Ctrl-C, SIGTERM and SIGHUP. The first signal stops cleanly and keeps all durable data; the second stops at once.

use std::{fs, future::pending};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::telemetry::Stderr,
    error::{Error, Kind, Result},
};

/// Installs the signal handlers. The first signal cancels the token.
///
/// # Errors
/// The I/O error when a handler cannot be installed.
pub(super) fn watch(stderr: Stderr) -> Result<CancellationToken> {
    let open = |kind| signal(kind).map_err(|e| Error::io("cannot install a signal handler", e));
    let mut signals = Signals {
        interrupt: open(SignalKind::interrupt())?,
        terminate: open(SignalKind::terminate())?,
        hangup: if ignores_hangup() { None } else { Some(open(SignalKind::hangup())?) },
    };
    let token = CancellationToken::new();
    let first = token.clone();
    tokio::spawn(async move {
        signals.next().await;
        stderr.line("stopping; durable data is kept (a second signal stops immediately)");
        first.cancel();
        signals.next().await;
        stop_at_once();
    });
    Ok(token)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` when SIGHUP was ignored at the start of the process, as by `nohup`.
    hangup: Option<Signal>,
}

impl Signals {
    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether SIGHUP was ignored at the start of the process, as by `nohup`. Detected on Linux only.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    mask_has_hangup(&status)
}

/// Whether the mask of ignored signals in `/proc/PID/status` contains SIGHUP, which is its first bit.
fn mask_has_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

#[allow(
    clippy::disallowed_methods,
    reason = "the user sent a second signal; durable data survives kill -9, so it survives this"
)]
fn stop_at_once() -> ! {
    std::process::exit(Kind::Cancelled.exit_code().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_shows_an_ignored_hangup() {
        assert!(mask_has_hangup("Name:\tbae\nSigIgn:\t0000000000001001\n"));
        assert!(!mask_has_hangup("SigIgn:\t0000000000001000\n"));
        assert!(!mask_has_hangup("SigBlk:\t0000000000000001\n"));
        assert!(!mask_has_hangup(""));
    }
}
