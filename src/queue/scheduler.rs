//! The scheduler's decisions, as a pure function of the downloads and the time: which downloads to start, which to stop,
//! which limits to set, and when to look again.
//!
//! Order: priority, then manual position, then age. A download that may not start now (its storage or host is busy, its
//! time has not come) does not hold up the next one. Nothing that runs is stopped for the sake of another download;
//! only the schedule stops downloads.

use std::collections::HashMap;

use super::{
    backoff::MAX_DELAY,
    clock::Now,
    download::{Priority, RateLimits},
    schedule::{Bandwidth, bandwidth_at, minutes_to_change},
};
use crate::config::{ActiveLimits, ScheduleEntry};

/// What the scheduler knows of a download.
#[derive(Debug, Clone)]
pub(super) struct Candidate<'a> {
    pub(super) number: u64,
    pub(super) priority: Priority,
    pub(super) position: i64,
    pub(super) storage: &'a str,
    /// Host of a URL.
    pub(super) host: Option<&'a str>,
    /// Ignores the limits of active downloads and the start time.
    pub(super) forced: bool,
    pub(super) phase: Phase,
}

/// What a download does, or waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for a slot, and not before a time in seconds since 1970.
    Waiting { start_after: Option<u64> },
    /// Waits for its next try.
    Retrying { at: u64 },
    /// Takes a slot. `stopping` ends by itself.
    Running { stopping: bool },
}

/// Everything that decisions depend on.
#[derive(Debug, Clone)]
pub(super) struct View<'a> {
    pub(super) candidates: Vec<Candidate<'a>>,
    pub(super) limits: ActiveLimits,
    /// The limits that the user set.
    pub(super) rates: RateLimits,
    pub(super) schedule: &'a [ScheduleEntry],
}

/// What to do now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// Downloads to start, in this order.
    pub(super) start: Vec<u64>,
    /// Running downloads to stop and to leave in the queue.
    pub(super) stop: Vec<u64>,
    /// The limits of all downloads together.
    pub(super) rates: RateLimits,
    /// Seconds after which to decide again even if nothing changes.
    pub(super) look_again: Option<u64>,
}

/// Decides what to do. See the module.
#[must_use]
pub(super) fn decide(view: &View<'_>, now: Now) -> Decision {
    let bandwidth = bandwidth_at(view.schedule, now);
    let mut decision = Decision {
        rates: match bandwidth {
            Bandwidth::Limited(rates) => rates,
            Bandwidth::Default | Bandwidth::Stopped => view.rates,
        },
        look_again: minutes_to_change(view.schedule, now).map(|m| (u64::from(m) * 60).min(60)),
        ..Decision::default()
    };
    let running = |c: &&Candidate<'_>| matches!(c.phase, Phase::Running { .. });
    if bandwidth == Bandwidth::Stopped {
        let to_stop = |c: &&Candidate<'_>| c.phase == Phase::Running { stopping: false };
        decision.stop = view.candidates.iter().filter(to_stop).map(|c| c.number).collect();
        return decision;
    }
    // ANCHOR: decide
    let mut slots = Slots::new(view.limits);
    view.candidates.iter().filter(running).for_each(|c| slots.take(c));
    let mut waiting: Vec<_> = view.candidates.iter().filter(|c| !running(c)).collect();
    waiting.sort_by_key(|c| (!c.forced, c.priority, c.position, c.number));
    for candidate in waiting {
        let wait = seconds_to_wait(candidate, now.unix);
        if wait > 0 {
            decision.look_again = Some(decision.look_again.map_or(wait, |known| known.min(wait)));
        } else if candidate.forced || slots.has_room_for(candidate) {
            slots.take(candidate);
            decision.start.push(candidate.number);
        }
    }
    // ANCHOR_END: decide
    decision
}

/// Seconds until the time of a download has come. After the clock was set back, a retry waits at most [`MAX_DELAY`].
fn seconds_to_wait(candidate: &Candidate<'_>, now: u64) -> u64 {
    match candidate.phase {
        Phase::Retrying { at } => at.saturating_sub(now).min(MAX_DELAY),
        Phase::Waiting { start_after: Some(at) } if !candidate.forced => at.saturating_sub(now),
        Phase::Waiting { .. } | Phase::Running { .. } => 0,
    }
}

/// Counts of active downloads.
struct Slots<'a> {
    limits: ActiveLimits,
    active: usize,
    by_storage: HashMap<&'a str, usize>,
    by_host: HashMap<&'a str, usize>,
}

impl<'a> Slots<'a> {
    fn new(limits: ActiveLimits) -> Self {
        Self { limits, active: 0, by_storage: HashMap::new(), by_host: HashMap::new() }
    }

    fn has_room_for(&self, candidate: &Candidate<'_>) -> bool {
        let used = |counts: &HashMap<&str, usize>, key| counts.get(key).copied().unwrap_or(0);
        self.active < self.limits.overall
            && used(&self.by_storage, candidate.storage) < self.limits.per_storage
            && candidate.host.is_none_or(|host| used(&self.by_host, host) < self.limits.per_host)
    }

    fn take(&mut self, candidate: &Candidate<'a>) {
        self.active += 1;
        *self.by_storage.entry(candidate.storage).or_default() += 1;
        if let Some(host) = candidate.host {
            *self.by_host.entry(host).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STORAGES: [&str; 2] = ["a", "b"];
    const HOSTS: [Option<&str>; 3] = [None, Some("x"), Some("y")];

    fn at(unix: u64) -> Now {
        Now { unix, minute_of_week: 0 }
    }

    fn waiting(number: u64, priority: Priority, position: i64) -> Candidate<'static> {
        let phase = Phase::Waiting { start_after: None };
        Candidate { number, priority, position, storage: "a", host: None, forced: false, phase }
    }

    fn view(candidates: Vec<Candidate<'static>>, overall: usize) -> View<'static> {
        let limits = ActiveLimits { overall, ..ActiveLimits::default() };
        View { candidates, limits, rates: RateLimits::default(), schedule: &[] }
    }

    #[test]
    fn priority_comes_before_position_and_forced_before_both() {
        let mut forced = waiting(4, Priority::Low, 9);
        forced.forced = true;
        let all = vec![
            waiting(1, Priority::Normal, 2),
            waiting(2, Priority::Normal, 1),
            waiting(3, Priority::High, 5),
            forced,
        ];
        assert_eq!(decide(&view(all.clone(), 3), at(0)).start, [4, 3, 2]);
        assert_eq!(decide(&view(all, 0), at(0)).start, [4]);
    }

    #[test]
    fn a_download_whose_time_has_not_come_holds_up_no_other() {
        let mut later = waiting(1, Priority::High, 0);
        later.phase = Phase::Waiting { start_after: Some(50) };
        let mut retry = waiting(2, Priority::High, 0);
        retry.phase = Phase::Retrying { at: 20 };
        let all = vec![later, retry, waiting(3, Priority::Low, 0)];
        let now = decide(&view(all.clone(), 1), at(10));
        assert_eq!((now.start, now.look_again), (vec![3], Some(10)));
        assert_eq!(decide(&view(all.clone(), 3), at(20)).start, [2, 3]);
        assert_eq!(decide(&view(all, 3), at(50)).start, [1, 2, 3]);
    }

    #[test]
    fn a_retry_comes_within_a_day_when_the_clock_was_set_back() {
        let mut retry = waiting(1, Priority::Normal, 0);
        retry.phase = Phase::Retrying { at: 4_000_000_000 };
        assert_eq!(decide(&view(vec![retry], 1), at(0)).look_again, Some(MAX_DELAY));
    }

    #[test]
    fn a_rate_of_zero_in_the_schedule_stops_all_downloads() {
        let schedule =
            [ScheduleEntry { days: [true; 7], from: 0, to: 60, download: Some(0), upload: None }];
        let mut running = waiting(1, Priority::Normal, 0);
        running.phase = Phase::Running { stopping: false };
        let mut view = view(vec![running, waiting(2, Priority::High, 0)], 5);
        view.schedule = &schedule;
        let night = decide(&view, at(0));
        assert_eq!((night.start, night.stop, night.look_again), (vec![], vec![1], Some(60)));
        let day = decide(&view, Now { unix: 0, minute_of_week: 60 });
        assert_eq!((day.start, day.stop), (vec![2], vec![]));
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate<'static>>> {
        let phase = prop_oneof![
            proptest::option::of(0u64..20).prop_map(|start_after| Phase::Waiting { start_after }),
            (0u64..20).prop_map(|at| Phase::Retrying { at }),
            any::<bool>().prop_map(|stopping| Phase::Running { stopping }),
        ];
        let priority =
            prop_oneof![Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)];
        let one = (priority, -3i64..3, 0usize..2, 0usize..3, proptest::bool::weighted(0.1), phase);
        let all = proptest::collection::vec(one, 0..20);
        all.prop_map(|all| {
            let numbered = (1..).zip(all);
            let one = |(number, (priority, position, storage, host, forced, phase))| {
                let (storage, host) = (STORAGES[storage], HOSTS[host]);
                Candidate { number, priority, position, storage, host, forced, phase }
            };
            numbered.map(one).collect()
        })
    }

    fn limits() -> impl Strategy<Value = ActiveLimits> {
        let limit = || prop_oneof![0usize..4, Just(usize::MAX)];
        (limit(), limit(), limit()).prop_map(|(overall, per_storage, per_host)| ActiveLimits {
            overall,
            per_storage,
            per_host,
        })
    }

    /// Runs decisions until nothing is left to start, and checks each.
    fn check(candidates: &[Candidate<'static>], limits: ActiveLimits, now: u64) {
        let count = |all: &[Candidate<'_>], is_one: &dyn Fn(&Candidate<'_>) -> bool| {
            all.iter().filter(|c| matches!(c.phase, Phase::Running { .. }) && is_one(c)).count()
        };
        let view = View {
            candidates: candidates.to_vec(),
            limits,
            rates: RateLimits::default(),
            schedule: &[],
        };
        let decision = decide(&view, at(now));
        assert!(decision.stop.is_empty());
        let mut after = candidates.to_vec();
        for candidate in &mut after {
            if decision.start.contains(&candidate.number) {
                assert!(!matches!(candidate.phase, Phase::Running { .. }));
                candidate.phase = Phase::Running { stopping: false };
            }
        }
        let started_forced = |c: &Candidate<'_>| c.forced && decision.start.contains(&c.number);
        let grew = |limit: usize, is_one: &dyn Fn(&Candidate<'_>) -> bool| {
            let (before, now) = (count(candidates, is_one), count(&after, is_one));
            let forced = after.iter().filter(|c| started_forced(c) && is_one(c)).count();
            assert!(
                now <= before + forced || now <= limit.max(before + forced),
                "{now} of {limit}"
            );
        };
        grew(limits.overall, &|_| true);
        STORAGES.iter().for_each(|s| grew(limits.per_storage, &|c| c.storage == *s));
        HOSTS.iter().flatten().for_each(|h| grew(limits.per_host, &|c| c.host == Some(*h)));
        // Deciding again starts nothing more: each decision is complete.
        let again = View { candidates: after, ..view };
        assert_eq!(decide(&again, at(now)).start, Vec::<u64>::new());
    }

    proptest! {
        #[test]
        fn no_limit_is_exceeded_and_no_free_slot_is_left(
            candidates in candidates(), limits in limits(), now in 0u64..20,
        ) {
            check(&candidates, limits, now);
        }

        #[test]
        fn a_started_download_is_before_each_ready_one_that_waits_for_the_overall_limit(
            candidates in candidates(), overall in 0usize..5,
        ) {
            let limits =
                ActiveLimits { overall, per_storage: usize::MAX, per_host: usize::MAX };
            let rates = RateLimits::default();
            let view = View { candidates: candidates.clone(), limits, rates, schedule: &[] };
            let started = decide(&view, at(20)).start;
            let key = |c: &Candidate<'_>| (!c.forced, c.priority, c.position, c.number);
            let last = candidates.iter().filter(|c| started.contains(&c.number)).map(key).max();
            for candidate in &candidates {
                let waits = !matches!(candidate.phase, Phase::Running { .. })
                    && !started.contains(&candidate.number);
                prop_assert!(!waits || last.is_none_or(|last| last < key(candidate)));
            }
        }
    }
}
