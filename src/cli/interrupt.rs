//! Ctrl-C and SIGTERM: the first stops cleanly and keeps all that is durable, the second stops at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, Kind, Result},
    telemetry::Stderr,
};

/// Watches from now on; the token is cancelled by the first signal.
///
/// # Errors
/// `Internal` when the system takes no handler.
pub(super) fn watch(stderr: Stderr) -> Result<CancellationToken> {
    let open = |kind| signal(kind).map_err(|e| Error::io("watching for signals", e));
    let (mut interrupt, mut terminate) =
        (open(SignalKind::interrupt())?, open(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let first = token.clone();
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        stderr.line("stopping; everything durable is kept (once more to stop at once)");
        first.cancel();
        either(&mut interrupt, &mut terminate).await;
        stop_at_once();
    });
    Ok(token)
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the user asked twice; what is durable survives kill -9, so it survives this"
)]
fn stop_at_once() -> ! {
    std::process::exit(Kind::Cancelled.exit_code().into())
}
