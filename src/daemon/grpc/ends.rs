//! What ends a stream besides its client.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Status};

use super::access::Deadline;
use crate::daemon::state::ApiState;

/// Waits for the end of a stream: new tokens, the end of the daemon, the client's deadline.
pub(super) struct Ends {
    rotations: watch::Receiver<u64>,
    stop: CancellationToken,
    deadline: Option<Deadline>,
}

impl Ends {
    pub(super) fn new(state: &ApiState, extensions: &Extensions) -> Self {
        Self {
            rotations: state.access().sessions().rotations(),
            stop: state.stopping(),
            deadline: extensions.get::<Deadline>().copied(),
        }
    }

    pub(super) async fn wait(&mut self) -> Status {
        let deadline = async {
            match self.deadline {
                Some(Deadline(at)) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.rotations.changed() => Status::unauthenticated("the token was replaced"),
            () = self.stop.cancelled() => Status::unavailable("the daemon stops"),
            () = deadline => Status::deadline_exceeded("the deadline of the call has passed"),
        }
    }
}
