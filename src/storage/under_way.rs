//! The room for bytes that are being fetched: memory that is not there yet, and must be when they come.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as Queue, Notify};

/// Who fetches takes the room for it first, in the order they came.
///
/// A limit that falls is kept by those who come later; one fetch runs always, however long it is.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    queue: Queue<()>,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    limit: u64,
    used: u64,
}

/// Room that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    from: Arc<UnderWay>,
    len: u64,
}

impl UnderWay {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { limit, used: 0 }), ..Self::default() })
    }

    pub(super) fn set_limit(&self, limit: u64) {
        self.state.lock().limit = limit;
        self.freed.notify_one();
    }

    /// Room for `len` bytes, as soon as it is this call's turn and there is some.
    pub(super) async fn take(self: &Arc<Self>, len: u64) -> Taken {
        let _turn = self.queue.lock().await;
        loop {
            if let Some(taken) = self.taken(len) {
                return taken;
            }
            // Only the first in the queue waits here, and a notice that came before is kept for it.
            self.freed.notified().await;
        }
    }

    /// Room for `len` bytes that nobody else waits for.
    pub(super) fn try_take(self: &Arc<Self>, len: u64) -> Option<Taken> {
        let _turn = self.queue.try_lock().ok()?;
        self.taken(len)
    }

    fn taken(self: &Arc<Self>, len: u64) -> Option<Taken> {
        let mut state = self.state.lock();
        let fits = state.used == 0 || state.used.saturating_add(len) <= state.limit;
        fits.then(|| {
            state.used += len;
            Taken { from: Arc::clone(self), len }
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.from.state.lock().used -= self.len;
        self.from.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_waits_its_turn_and_what_can_never_fit_runs_alone() {
        let room = UnderWay::new(10);
        let first = room.take(6).await;
        assert!(room.try_take(5).is_none());
        let small = room.try_take(4).unwrap();
        let waiting = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.take(100).await }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(small);
        assert!(room.try_take(1).is_none(), "somebody waits");
        drop(first);
        let long = waiting.await.unwrap();
        assert!(room.try_take(1).is_none());
        drop(long);
        room.set_limit(2);
        let two = room.try_take(2).unwrap();
        assert!(room.try_take(1).is_none());
        drop(two);
    }
}
