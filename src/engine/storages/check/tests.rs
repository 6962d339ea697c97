//! The probes against a [`Faulty`] memory backend.

use std::sync::Arc;

use super::*;
use crate::{
    backends::{FaultOp, Faulty, MemoryBackend, StorageBackend, list_all},
    config::{Env, Overrides},
};

struct Rig {
    backend: Arc<Faulty<MemoryBackend>>,
    config: Config,
    cancel: CancellationToken,
}

impl Rig {
    fn new() -> Self {
        let env: Env = [("HOME", "/h")].into_iter().collect();
        Self {
            backend: Arc::new(Faulty::new(MemoryBackend::new(), 3)),
            config: Config::load(Overrides::default(), &env).unwrap(),
            cancel: CancellationToken::new(),
        }
    }

    /// Runs all probes except the opening, and cleans up.
    async fn check(&self) -> (Vec<ProbeResult>, Result<CheckReport>) {
        let profile = self.config.storage("file:///somewhere").unwrap();
        let mut results = Vec::new();
        let on_result = |probe: &ProbeResult| {
            let ProbeResult { name, outcome, kind, .. } = *probe;
            results.push(ProbeResult {
                name,
                outcome,
                text: probe.text.clone(),
                hint: probe.hint.clone(),
                kind,
            });
        };
        let mut log = ProbeLog {
            profile: &profile,
            cancel: &self.cancel,
            on_result,
            report: new_report(&profile),
        };
        let probes = StorageProbes::new(Arc::clone(&self.backend) as _);
        let result = run_probes(&probes, &mut log, true).await;
        if let Some(left) = probes.clean_up().await {
            log.add(left);
        }
        let report = result.map(|()| log.report);
        (results, report)
    }

    async fn left(&self) -> usize {
        let objects = list_all(self.backend.inner(), "").await.unwrap().len();
        objects + self.backend.inner().list_uploads("").await.unwrap().len()
    }
}

fn find<'a>(probes: &'a [ProbeResult], name: &str) -> &'a ProbeResult {
    probes.iter().find(|p| p.name == name).unwrap_or_else(|| panic!("no {name} in {probes:?}"))
}

#[tokio::test]
async fn a_correct_storage_passes_all_probes_and_keeps_no_object() {
    let rig = Rig::new();
    let (probes, report) = rig.check().await;
    let bad: Vec<_> = probes.iter().filter(|p| p.outcome != Outcome::Ok).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!((report.unwrap().failed, rig.left().await), (None, 0));
    assert!(find(&probes, "speed").text.contains("/s up"), "{probes:?}");
}

#[tokio::test]
async fn a_refused_write_reports_whether_listing_works() {
    let rig = Rig::new();
    rig.backend.fail_next_puts(u64::MAX, Kind::PermissionDenied);
    let (probes, report) = rig.check().await;
    let write = find(&probes, "write");
    assert_eq!((write.outcome, write.kind), (Outcome::Fail, Some(Kind::PermissionDenied)));
    assert!(write.hint.as_ref().unwrap().to_string().contains("allow this user to write"));
    assert_eq!(find(&probes, "list").outcome, Outcome::Ok);
    assert_eq!(report.unwrap().failed, Some(Kind::PermissionDenied));
    assert!(!probes.iter().any(|p| p.name == "read"));
}

#[tokio::test]
async fn without_permission_to_delete_the_check_fails_and_names_the_leftovers() {
    let rig = Rig::new();
    rig.backend.fail_next_deletes(u64::MAX, Kind::PermissionDenied);
    let (probes, report) = rig.check().await;
    assert_eq!(find(&probes, "delete").outcome, Outcome::Fail);
    assert!(find(&probes, "clean-up").hint.as_ref().unwrap().to_string().contains("bae-check-"));
    let report = report.unwrap();
    assert_eq!((report.failures, report.warnings), (1, 1));
    assert_eq!(report.failed, Some(Kind::PermissionDenied));
}

#[tokio::test]
async fn truncated_reads_are_a_failure() {
    let rig = Rig::new();
    rig.backend.truncate_next_gets(1);
    let (probes, report) = rig.check().await;
    assert_eq!(find(&probes, "read").kind, Some(Kind::Corrupt));
    assert_eq!(report.unwrap().failed, Some(Kind::Corrupt));
    assert_eq!(rig.left().await, 0);
}

#[tokio::test]
async fn failing_lists_and_uploads_do_not_end_the_check() {
    let rig = Rig::new();
    rig.backend.fail_next(FaultOp::List, u64::MAX, Kind::PermissionDenied);
    rig.backend.fail_next_uploads(1, Kind::Unavailable);
    let (probes, report) = rig.check().await;
    assert_eq!(find(&probes, "list").outcome, Outcome::Fail);
    assert_eq!(find(&probes, "parts").outcome, Outcome::Fail);
    assert_eq!(find(&probes, "abort").outcome, Outcome::Ok);
    assert_eq!(report.unwrap().failures, 2);
    rig.backend.fail_next(FaultOp::List, 0, Kind::Network);
    assert_eq!(rig.left().await, 0);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_check_deletes_its_objects() {
    let rig = Rig::new();
    rig.backend.delay(Duration::from_millis(30));
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
