//! Reservations, waiting and the sum of all shares. Futures are polled by hand, so each step is certain.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::{BLOCK_LEN, BlockPool, Budget, EvictWindows, Mark, Reservation, Share};

const MIB: usize = 1 << 20;

/// The result of a future that is done, or `None` while it waits.
fn poll<F: Future>(future: &mut Pin<&mut F>) -> Option<F::Output> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

fn fetches(len: usize) -> Budget {
    Budget::of_shares(&[(Share::Fetches, len), (Share::Sends, len)])
}

/// Cached windows of one byte each.
struct Windows {
    charge: Mutex<Reservation>,
    memory: Budget,
}

impl Windows {
    fn new(memory: &Budget) -> Arc<Self> {
        let charge = Mutex::new(memory.charge(Share::Windows, 0));
        let windows = Arc::new(Self { charge, memory: memory.clone() });
        let owner: Weak<dyn EvictWindows> = Arc::<Self>::downgrade(&windows) as _;
        memory.set_windows(owner);
        windows
    }

    fn fill(&self) {
        let share = self.memory.share(Share::Windows);
        self.charge.lock().grow(share.limit() - share.used());
    }
}

impl EvictWindows for Windows {
    fn evict_for(&self, len: usize) {
        let memory = &self.memory;
        let excess = (memory.held() + len).saturating_sub(memory.total());
        let used = memory.share(Share::Windows).used();
        let limit = memory.share(Share::Windows).limit();
        self.charge.lock().shrink_to(used.saturating_sub(excess).min(limit));
    }
}

#[test]
fn reservations_wait_in_order_and_an_oversized_one_is_granted_alone() {
    let memory = fetches(10);
    let first = memory.try_reserve(Share::Fetches, 6).unwrap();
    assert!(memory.try_reserve(Share::Fetches, 5).is_none());
    let small = memory.try_reserve(Share::Fetches, 4).unwrap();
    let mut large = pin!(memory.reserve(Share::Fetches, 100));
    let mut later = pin!(memory.reserve(Share::Fetches, 1));
    assert!(poll(&mut large).is_none() && poll(&mut later).is_none());
    drop(small);
    assert!(poll(&mut large).is_none() && poll(&mut later).is_none(), "a later one waits behind");
    assert!(memory.try_reserve(Share::Fetches, 1).is_none(), "and so does one that cannot wait");
    drop(first);
    let large = poll(&mut large).unwrap();
    assert!(poll(&mut later).is_none());
    assert_eq!(memory.held(), 100);
    drop(large);
    let later = poll(&mut later).unwrap();
    assert_eq!((memory.held(), memory.peak()), (1, 100));
    drop(later);
    assert_eq!(memory.held(), 0);
}

#[test]
fn a_cancelled_reservation_holds_nothing_and_lets_the_next_one_go_on() {
    let memory = fetches(10);
    let all = memory.try_reserve(Share::Fetches, 10).unwrap();
    let mut cancelled = Box::pin(memory.reserve(Share::Fetches, 9));
    let mut next = pin!(memory.reserve(Share::Fetches, 2));
    assert!(poll(&mut cancelled.as_mut()).is_none() && poll(&mut next).is_none());
    drop(all);
    // The wake-up went to the first one, which is dropped before it is polled.
    drop(cancelled);
    let next = poll(&mut next).unwrap();
    assert_eq!(memory.held(), 2);
    drop(next);
    let free = memory.try_reserve(Share::Fetches, 10);
    assert!(free.is_some(), "no reservation waits any more");
}

#[test]
fn shares_do_not_take_from_each_other() {
    let memory = fetches(10);
    let _fetches = memory.try_reserve(Share::Fetches, 10).unwrap();
    let sends = memory.try_reserve(Share::Sends, 10).unwrap();
    assert_eq!((memory.held(), memory.total()), (20, 20));
    assert!(memory.try_reserve(Share::Sends, 1).is_none());
    drop(sends);
    assert!(memory.try_reserve(Share::Fetches, 1).is_none());
    assert!(memory.share(Share::Fetches).is_full() && !memory.share(Share::Sends).is_full());
}

#[test]
fn all_shares_can_be_full_at_once_within_the_budget() {
    let memory = Budget::new(32 << 20);
    for import in [None, Some(memory.begin_import())] {
        let len = |share| memory.share(share).len();
        let incoming: Vec<Bytes> =
            (0..len(Share::Incoming) / BLOCK_LEN).map(|_| memory.incoming().copy(b"x")).collect();
        let windows = memory.charge(Share::Windows, len(Share::Windows));
        let reserved = [Share::Sends, Share::Fetches, Share::Readers, Share::Bodies]
            .map(|share| memory.try_reserve(share, len(share)).unwrap());
        let lens: usize = Share::ALL.iter().map(|share| len(*share)).sum();
        let used: usize = Share::ALL.iter().map(|share| memory.share(*share).used()).sum();
        assert_eq!((used, memory.held()), (lens, lens));
        assert!(memory.peak() <= memory.total(), "{} of {}", memory.peak(), memory.total());
        assert!(memory.total() - lens < MIB, "the table leaves nothing unused");
        for share in [Share::Sends, Share::Fetches, Share::Readers, Share::Bodies] {
            assert!(memory.try_reserve(share, 1).is_none() && memory.share(share).is_full());
        }
        drop((incoming, windows, reserved, import));
        assert_eq!(memory.held(), 0);
    }
}

#[test]
fn an_import_evicts_windows_first_and_grows_as_fetches_end() {
    let memory = Budget::new(64 << 20);
    let windows = Windows::new(&memory);
    windows.fill();
    let fetch = memory.try_reserve(Share::Fetches, memory.share(Share::Fetches).len()).unwrap();
    let pool = memory.incoming();
    assert_eq!(memory.share(Share::Windows).used(), 20 * MIB);
    assert_eq!(pool.level(), (46 + 24 + 20 - 64) * MIB, "there is no room for an import yet");
    let import = memory.begin_import();
    assert_eq!(memory.share(Share::Windows).used(), memory.share(Share::Windows).len());
    // Fetches hold 19 MiB more than the share that they have from now on.
    assert_eq!(memory.share(Share::Incoming).limit(), (64 - 24 - 3) * MIB);
    assert_eq!(pool.level(), pool.budget() - memory.share(Share::Incoming).limit());
    let mut has_room = pin!(pool.wait_for_block(Mark::Requests));
    assert!(poll(&mut has_room).is_none());
    drop(fetch);
    assert!(poll(&mut has_room).is_some());
    assert_eq!((memory.share(Share::Incoming).limit(), pool.level()), (pool.budget(), 0));
    drop(import);
    windows.fill();
    assert_eq!(memory.share(Share::Windows).used(), 20 * MIB);
}

#[test]
fn cached_windows_give_way_to_all_other_bytes() {
    let memory = Budget::new(64 << 20);
    let windows = Windows::new(&memory);
    windows.fill();
    let _fetches = memory.try_reserve(Share::Fetches, 24 * MIB).unwrap();
    let _readers = memory.try_reserve(Share::Readers, 8 * MIB).unwrap();
    let _sends = memory.try_reserve(Share::Sends, 8 * MIB).unwrap();
    let _bodies = memory.try_reserve(Share::Bodies, 2 * MIB).unwrap();
    assert_eq!(memory.held(), 62 * MIB);
    let pool = memory.incoming();
    let blocks: Vec<Bytes> = (0..5 * MIB / BLOCK_LEN).map(|_| pool.copy(b"x")).collect();
    assert_eq!(memory.share(Share::Windows).used(), 17 * MIB);
    // A block that a stalled peer keeps: the share is full, and takes from the windows.
    let more: Vec<_> = (0..100)
        .map(|_| poll(&mut pin!(memory.reserve_displacing(Share::Sends, BLOCK_LEN))).unwrap())
        .collect();
    assert_eq!(memory.share(Share::Windows).used(), 17 * MIB - 100 * BLOCK_LEN);
    assert_eq!(memory.peak(), memory.total());
    drop((blocks, more));
    assert_eq!(memory.held(), memory.share(Share::Windows).used() + 42 * MIB);
}

#[test]
fn a_share_with_room_waits_while_the_budget_has_none() {
    let memory = Budget::of_shares(&[(Share::Fetches, 10), (Share::Sends, 10)]);
    let long = memory.try_reserve(Share::Fetches, 17).unwrap();
    let _one = memory.try_reserve(Share::Sends, 1).unwrap();
    let mut waiting = pin!(memory.reserve(Share::Sends, 3));
    assert!(poll(&mut waiting).is_none(), "3 more would make 21 of 20");
    drop(long);
    assert!(poll(&mut waiting).is_some(), "another share has freed the room");
}

#[test]
fn servers_wait_while_imports_are_full_and_are_woken_when_a_block_is_freed() {
    let pool = BlockPool::new(64 * BLOCK_LEN);
    let mut blocks: Vec<Bytes> = (0..56).map(|_| pool.copy(b"x")).collect();
    let mut waiting = pin!(pool.wait_below(Mark::Full));
    assert!(poll(&mut waiting).is_none());
    blocks.pop();
    assert!(poll(&mut waiting).is_some());
    assert!(poll(&mut pin!(pool.wait_for_block(Mark::Full))).is_some());
    let mut filled = pin!(pool.filled());
    assert!(poll(&mut filled).is_none());
    blocks.push(pool.copy(b"x"));
    assert!(poll(&mut filled).is_some(), "the mark was reached");
    let mut filled = pin!(pool.filled());
    assert!(poll(&mut filled).is_none());
    blocks.push(pool.copy(b"x"));
    assert!(poll(&mut filled).is_none(), "sent once per rise");
}

#[test]
fn bytes_that_have_arrived_are_counted_beyond_their_share_and_the_next_ones_wait() {
    let memory = Budget::of_shares(&[(Share::Bodies, 10), (Share::Incoming, 64)]);
    let mut body = memory.charge(Share::Bodies, 8);
    assert!(poll(&mut pin!(memory.wait_for_room(Share::Bodies))).is_some());
    body.grow(4);
    let mut waiting = pin!(memory.wait_for_room(Share::Bodies));
    assert!(poll(&mut waiting).is_none());
    let bytes = body.attach_to(Bytes::from_static(b"12 bytes"));
    let part = bytes.slice(2..5);
    drop(bytes);
    assert!(poll(&mut waiting).is_none(), "a part of the bytes is still in use");
    drop(part);
    assert!(poll(&mut waiting).is_some());
    // A budget without bodies never holds them up.
    assert!(poll(&mut pin!(fetches(1).wait_for_room(Share::Bodies))).is_some());
}

#[test]
fn a_reservation_gives_back_a_part_of_itself() {
    let memory = fetches(10);
    let mut reservation = memory.try_reserve(Share::Fetches, 10).unwrap();
    let mut waiting = pin!(memory.reserve(Share::Fetches, 4));
    assert!(poll(&mut waiting).is_none());
    reservation.shrink_to(6);
    assert!(poll(&mut waiting).is_some());
    assert!(reservation.try_grow(14) && !reservation.try_grow(1), "the whole has 20 bytes");
}

#[test]
fn threads_that_reserve_at_once_never_exceed_the_budget_and_all_are_granted() {
    const THREADS: usize = 4;
    let memory = Budget::of_shares(&[
        (Share::Fetches, 40),
        (Share::Sends, 30),
        (Share::Readers, 20),
        (Share::Bodies, 10),
    ]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let granted = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..THREADS)
        .map(|n| {
            let (memory, granted) = (memory.clone(), Arc::clone(&granted));
            runtime.spawn(async move {
                for step in 0..2000 {
                    let share = [Share::Fetches, Share::Sends, Share::Readers, Share::Bodies]
                        [(n + step) % 4];
                    let len = (step * 7 + n * 13) % memory.share(share).len() + 1;
                    let reservation = memory.reserve(share, len).await;
                    assert!(memory.held() <= memory.total());
                    tokio::task::yield_now().await;
                    drop(reservation);
                    granted.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!((granted.load(Ordering::Relaxed), memory.held()), (THREADS * 2000, 0));
    assert!(memory.peak() <= memory.total());
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Reserve(Share, usize),
    Charge(Share, usize),
    Block,
    Drop(usize),
    Import(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let share = prop::sample::select(&Share::ALL[..]);
    prop_oneof![
        4 => (share.clone(), 1usize..3 * MIB).prop_map(|(share, len)| Step::Reserve(share, len)),
        1 => (share, 1usize..MIB / 8).prop_map(|(share, len)| Step::Charge(share, len)),
        4 => Just(Step::Block),
        4 => (0usize..64).prop_map(Step::Drop),
        1 => any::<bool>().prop_map(Step::Import),
    ]
}

proptest! {
    #[test]
    fn held_is_the_sum_of_the_shares_whatever_happens(steps in prop::collection::vec(step(), 1..200)) {
        let memory = Budget::new(32 << 20);
        let (mut reserved, mut blocks, mut import) = (Vec::new(), Vec::new(), None);
        for step in steps {
            match step {
                Step::Reserve(share, len) => {
                    let is_empty = memory.share(share).used() == 0;
                    if let Some(reservation) = memory.try_reserve(share, len) {
                        let view = memory.share(share);
                        prop_assert!(is_empty || view.used() <= view.len());
                        prop_assert!(is_empty || memory.held() <= memory.total());
                        reserved.push(reservation);
                    }
                }
                Step::Charge(share, len) => reserved.push(memory.charge(share, len)),
                Step::Block => blocks.push(memory.incoming().copy(b"x")),
                Step::Drop(n) if n % 2 == 0 && !blocks.is_empty() => {
                    drop(blocks.swap_remove(n % blocks.len()));
                }
                Step::Drop(n) if !reserved.is_empty() => {
                    drop(reserved.swap_remove(n % reserved.len()));
                }
                Step::Drop(_) => {}
                Step::Import(begins) => import = begins.then(|| memory.begin_import()),
            }
            let used: usize = Share::ALL.iter().map(|share| memory.share(*share).used()).sum();
            prop_assert_eq!(memory.held(), used);
            prop_assert!(memory.peak() >= used);
            prop_assert!(memory.incoming().blocks_in_use() * BLOCK_LEN <= used);
        }
        drop((reserved, blocks, import));
        prop_assert_eq!((memory.held(), memory.incoming().blocks_in_use()), (0, 0));
    }
}
