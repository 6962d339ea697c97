//! The memory budget for fetches in flight: each fetch reserves its bytes before they arrive.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as Queue, Notify};

/// A byte budget with reservations, granted in the order of the requests.
///
/// A lower limit applies to new reservations. One fetch is always admitted, however large.
#[derive(Debug, Default)]
pub(super) struct FetchBudget {
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
pub(in crate::storage) struct Reservation {
    budget: Arc<FetchBudget>,
    len: u64,
}

impl FetchBudget {
    pub(in crate::storage) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { limit, used: 0 }), ..Self::default() })
    }

    pub(in crate::storage) fn set_limit(&self, limit: u64) {
        self.state.lock().limit = limit;
        self.freed.notify_one();
    }

    /// Reserves `len` bytes. Waits for the reservations requested before it and for enough free budget.
    pub(in crate::storage) async fn reserve(self: &Arc<Self>, len: u64) -> Reservation {
        let _queued = self.queue.lock().await;
        loop {
            if let Some(reservation) = self.reserve_now(len) {
                return reservation;
            }
            // Only the first caller in the queue waits here. `notify_one` keeps a permit when it fires before the wait
            // begins.
            self.freed.notified().await;
        }
    }

    /// Reserves `len` bytes if that needs no waiting and no other caller is waiting.
    pub(super) fn try_reserve(self: &Arc<Self>, len: u64) -> Option<Reservation> {
        let _queued = self.queue.try_lock().ok()?;
        self.reserve_now(len)
    }

    fn reserve_now(self: &Arc<Self>, len: u64) -> Option<Reservation> {
        let mut state = self.state.lock();
        let fits = state.used == 0 || state.used.saturating_add(len) <= state.limit;
        fits.then(|| {
            state.used += len;
            Reservation { budget: Arc::clone(self), len }
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.state.lock().used -= self.len;
        self.budget.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn reservations_wait_in_order_and_an_oversized_one_is_granted_alone() {
        let budget = FetchBudget::new(10);
        let first = budget.reserve(6).await;
        assert!(budget.try_reserve(5).is_none());
        let small = budget.try_reserve(4).unwrap();
        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.reserve(100).await }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(small);
        assert!(budget.try_reserve(1).is_none(), "another reservation is waiting");
        drop(first);
        let long = waiting.await.unwrap();
        assert!(budget.try_reserve(1).is_none());
        drop(long);
        budget.set_limit(2);
        let two = budget.try_reserve(2).unwrap();
        assert!(budget.try_reserve(1).is_none());
        drop(two);
    }
}
