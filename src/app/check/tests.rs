//! The probes against a [`Faulty`] memory backend.

use std::sync::Arc;

use super::*;
use crate::{
    backends::{Faulty, MemoryBackend, Op, StorageBackend, list_all},
    config::{Env, Overrides},
};

struct Rig {
    place: Arc<Faulty<MemoryBackend>>,
    config: Config,
    cancel: CancellationToken,
}

impl Rig {
    fn new() -> Self {
        let env: Env = [("HOME", "/h")].into_iter().collect();
        Self {
            place: Arc::new(Faulty::new(MemoryBackend::new(), 3)),
            config: Config::load(Overrides::default(), &env).unwrap(),
            cancel: CancellationToken::new(),
        }
    }

    /// Runs all probes except the opening, and cleans up.
    async fn check(&self) -> (Vec<Probe>, Result<CheckReport>) {
        let profile = self.config.storage("file:///somewhere").unwrap();
        let mut told = Vec::new();
        let tell = |probe: &Probe| {
            let Probe { name, outcome, kind, .. } = *probe;
            told.push(Probe {
                name,
                outcome,
                text: probe.text.clone(),
                hint: probe.hint.clone(),
                kind,
            });
        };
        let mut log =
            Log { profile: &profile, cancel: &self.cancel, tell, report: new_report(&profile) };
        let trial = Trial::new(Arc::clone(&self.place) as _);
        let tried = try_all(&trial, &mut log, true).await;
        if let Some(left) = trial.clean_up().await {
            log.tell(left);
        }
        let report = tried.map(|()| log.report);
        (told, report)
    }

    async fn left(&self) -> usize {
        let objects = list_all(self.place.inner(), "").await.unwrap().len();
        objects + self.place.inner().unfinished("").await.unwrap().len()
    }
}

fn find<'a>(probes: &'a [Probe], name: &str) -> &'a Probe {
    probes.iter().find(|p| p.name == name).unwrap_or_else(|| panic!("no {name} in {probes:?}"))
}

#[tokio::test]
async fn a_good_place_passes_everything_and_keeps_nothing() {
    let rig = Rig::new();
    let (probes, report) = rig.check().await;
    let bad: Vec<_> = probes.iter().filter(|p| p.outcome != Outcome::Ok).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!((report.unwrap().failed, rig.left().await), (None, 0));
    assert!(find(&probes, "speed").text.contains("/s up"), "{probes:?}");
}

#[tokio::test]
async fn a_refused_write_says_whether_the_place_can_be_read() {
    let rig = Rig::new();
    rig.place.fail_next_puts(u64::MAX, Kind::PermissionDenied);
    let (probes, report) = rig.check().await;
    let write = find(&probes, "write");
    assert_eq!((write.outcome, write.kind), (Outcome::Fail, Some(Kind::PermissionDenied)));
    assert!(write.hint.as_ref().unwrap().contains("let this user write there"));
    assert_eq!(find(&probes, "list").outcome, Outcome::Ok);
    assert_eq!(report.unwrap().failed, Some(Kind::PermissionDenied));
    assert!(!probes.iter().any(|p| p.name == "read"));
}

#[tokio::test]
async fn without_the_right_to_delete_the_check_fails_and_names_what_is_left() {
    let rig = Rig::new();
    rig.place.fail_next_deletes(u64::MAX, Kind::PermissionDenied);
    let (probes, report) = rig.check().await;
    assert_eq!(find(&probes, "delete").outcome, Outcome::Fail);
    assert!(find(&probes, "clean-up").hint.as_ref().unwrap().contains("bae-check-"));
    let report = report.unwrap();
    assert_eq!((report.failures, report.warnings), (1, 1));
    assert_eq!(report.failed, Some(Kind::PermissionDenied));
}

#[tokio::test]
async fn bytes_that_change_or_end_early_are_a_failure() {
    let rig = Rig::new();
    rig.place.truncate_next_gets(1);
    let (probes, report) = rig.check().await;
    assert_eq!(find(&probes, "read").kind, Some(Kind::Corrupt));
    assert_eq!(report.unwrap().failed, Some(Kind::Corrupt));
    assert_eq!(rig.left().await, 0);
}

#[tokio::test]
async fn a_missing_permission_to_list_and_uploads_that_fail_do_not_end_the_check() {
    let rig = Rig::new();
    rig.place.fail_next(Op::List, u64::MAX, Kind::PermissionDenied);
    rig.place.fail_next_uploads(1, Kind::Unavailable);
    let (probes, report) = rig.check().await;
    assert_eq!(find(&probes, "list").outcome, Outcome::Fail);
    assert_eq!(find(&probes, "parts").outcome, Outcome::Fail);
    assert_eq!(find(&probes, "abort").outcome, Outcome::Ok);
    assert_eq!(report.unwrap().failures, 2);
    rig.place.fail_next(Op::List, 0, Kind::Network);
    assert_eq!(rig.left().await, 0);
}

#[tokio::test]
async fn an_interrupted_check_takes_away_what_it_made() {
    let rig = Rig::new();
    rig.place.delay(Duration::from_millis(30));
    let cancel = rig.cancel.clone();
    let interrupting = async {
        while rig.left().await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancel.cancel();
    };
    let ((_, report), ()) = tokio::join!(rig.check(), interrupting);
    assert_eq!(report.unwrap_err().kind(), Kind::Cancelled);
    assert_eq!(rig.left().await, 0);
}
