//! The memory budget for fetches in flight: each fetch reserves its bytes before they arrive.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as Queue, Notify};

/// A byte budget with reservations, granted in the order of the requests.
///
/// A lower limit applies to new reservations. One fetch is always admitted, however large.
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

/// A reservation, released when this is dropped.
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

    /// Reserves `len` bytes. Waits for the reservations requested before it and for enough free budget.
    pub(super) async fn take(self: &Arc<Self>, len: u64) -> Taken {
        let _turn = self.queue.lock().await;
        loop {
            if let Some(taken) = self.taken(len) {
                return taken;
            }
            // Only the first caller in the queue waits here. `notify_one` keeps a permit when it fires before the wait
            // begins.
            self.freed.notified().await;
        }
    }

    /// Reserves `len` bytes if that needs no waiting and no other caller is waiting.
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
