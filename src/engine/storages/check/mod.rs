//! `storage check`: tests every operation that an import needs of a storage, and says what to change.
//!
//! [`run_probes`] runs the probes of [`StorageProbes`] one after the other, each with a timeout, because a user waits
//! for the result. They use a key prefix of their own. The created objects are deleted at the end, also when the check
//! is interrupted. Features are tested, never inferred from the name of a provider.

mod clock;
mod probes;

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use self::probes::StorageProbes;
use super::open_storage::{CheckState, create_folder, open_backend};
use crate::{
    backends::RetryPolicy,
    config::{Config, Profile, ProfileKind},
    error::{Error, Kind, Result},
    hints::{Hint, Operation, Setting, hint},
    memory::Budget,
};

/// Result of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// Imports work, but they will be slower, more expensive, or leave something behind.
    Warn,
    Fail,
}

/// One probe and its result.
#[derive(Debug)]
pub struct ProbeResult {
    /// One word: `write`, `read`, `delete`.
    pub name: &'static str,
    pub outcome: Outcome,
    pub text: String,
    /// What to change.
    pub hint: Option<Hint>,
    /// The kind of error, if the probe failed.
    pub kind: Option<Kind>,
}

/// Result of a check.
#[derive(Debug)]
pub struct CheckReport {
    /// Name or URL of the storage, as imports record it.
    pub storage: String,
    /// The storage as a URL, without secrets.
    pub url: String,
    pub failures: usize,
    pub warnings: usize,
    /// Median duration of the small calls.
    pub latency: Option<Duration>,
    /// The kind of the first failure. Later failures are often consequences of it.
    pub failed: Option<Kind>,
}

/// Timeout of a probe. Parts are 5 MiB, which take 42 s at 1 Mbit/s.
const PROBE_TIMEOUT: Duration = Duration::from_secs(100);
/// Timeout for opening the storage and for its first small object. After that, the server is regarded as not answering.
const FIRST_TIMEOUT: Duration = Duration::from_secs(40);

/// Result of a probe that did not fail.
type Finding = (Outcome, String, Option<Hint>);

fn ok(text: impl Into<String>) -> Result<Finding> {
    Ok((Outcome::Ok, text.into(), None))
}

fn warn(text: impl Into<String>, hint: impl Into<Hint>) -> Result<Finding> {
    Ok((Outcome::Warn, text.into(), Some(hint.into())))
}

/// Checks a storage, by name or URL, and passes each result to `on_result` at once. With `speed`, also measures
/// throughput. Needs no data folder, and may run during an import.
///
/// # Errors
/// When there is no such storage, its settings are invalid, or `cancel` was triggered. All
/// other errors are in the report.
pub async fn check_storage(
    config: &Config,
    storage: &str,
    speed: bool,
    cancel: &CancellationToken,
    on_result: impl FnMut(&ProbeResult) + Send,
) -> Result<CheckReport> {
    let profile = config.storage(storage)?;
    let mut log = ProbeLog { profile: &profile, cancel, on_result, report: new_report(&profile) };
    let state = CheckState::open(config, &profile).await;
    let mut backend = None;
    let opening = async {
        create_folder(&profile)?;
        let (retries, memory) = (RetryPolicy::brief(), Budget::new(config.memory.0));
        backend = Some(open_backend(&profile, state, retries, &memory).await?);
        ok(profile.location())
    };
    log.probe("place", FIRST_TIMEOUT, opening).await?;
    let Some(backend) = backend else { return Ok(log.report) };
    let probes = StorageProbes::new(backend);
    let result = run_probes(&probes, &mut log, speed).await;
    log.report.latency = probes.latency();
    if let Some(left) = probes.clean_up().await {
        log.add(left);
    }
    result.map(|()| log.report)
}

fn new_report(profile: &Profile) -> CheckReport {
    CheckReport {
        storage: profile.canonical_name(),
        url: profile.location(),
        failures: 0,
        warnings: 0,
        latency: None,
        failed: None,
    }
}

/// Runs all probes in order.
///
/// # Errors
/// Only when cancelled.
async fn run_probes<F: FnMut(&ProbeResult) + Send>(
    probes: &StorageProbes,
    log: &mut ProbeLog<'_, F>,
    speed: bool,
) -> Result<()> {
    let written = log.probe("write", FIRST_TIMEOUT, probes.write()).await?;
    if let Some(server) = server_of(log.profile).filter(|_| probes.is_remote())
        && let Some(probe) = log.unless_cancelled(clock::probe(&server)).await?
    {
        log.add(probe);
    }
    if !written {
        // Whether listing works tells a wrong storage from a missing permission to write.
        log.probe("list", FIRST_TIMEOUT, probes.list_any()).await?;
        return Ok(());
    }
    log.probe("read", PROBE_TIMEOUT, probes.read()).await?;
    log.probe("head", PROBE_TIMEOUT, probes.head()).await?;
    log.probe("list", PROBE_TIMEOUT, probes.list()).await?;
    if log.probe("parts", PROBE_TIMEOUT, probes.parts()).await? {
        log.probe("copy", PROBE_TIMEOUT, probes.copy()).await?;
    }
    log.probe("names", PROBE_TIMEOUT, probes.names()).await?;
    log.probe("abort", PROBE_TIMEOUT, probes.abort()).await?;
    log.probe("delete", PROBE_TIMEOUT, probes.delete()).await?;
    log.probe("leftovers", PROBE_TIMEOUT, probes.leftovers()).await?;
    log.probe("room", PROBE_TIMEOUT, probes.free_space()).await?;
    log.probe("features", PROBE_TIMEOUT, probes.features()).await?;
    log.probe("latency", PROBE_TIMEOUT, probes.report_latency()).await?;
    if speed {
        log.probe("speed", PROBE_TIMEOUT, probes.speed()).await?;
    }
    Ok(())
}

/// The URL of a server whose clock can be compared.
fn server_of(profile: &Profile) -> Option<String> {
    let (endpoint, known) = match &profile.kind {
        ProfileKind::Local { .. } | ProfileKind::Custom => return None,
        ProfileKind::S3(s3) => (s3.endpoint.as_ref(), "https://s3.amazonaws.com/"),
        ProfileKind::Drive(drive) => (drive.endpoint.as_ref(), "https://www.googleapis.com/"),
    };
    Some(endpoint.map_or_else(|| known.to_owned(), ToString::to_string))
}

/// Counts and reports the results.
struct ProbeLog<'a, F> {
    profile: &'a Profile,
    cancel: &'a CancellationToken,
    on_result: F,
    report: CheckReport,
}

impl<F: FnMut(&ProbeResult)> ProbeLog<'_, F> {
    /// Runs one probe. Returns whether it passed.
    ///
    /// # Errors
    /// Only when cancelled.
    async fn probe(
        &mut self,
        name: &'static str,
        timeout: Duration,
        probe: impl Future<Output = Result<Finding>>,
    ) -> Result<bool> {
        let limited = tokio::time::timeout(timeout, probe);
        let found = self.unless_cancelled(limited).await?.unwrap_or_else(|_| {
            Err(Error::new(Kind::Network, format!("no answer within {} s", timeout.as_secs())))
        });
        let probe = match found {
            Ok((outcome, text, hint)) => ProbeResult { name, outcome, text, hint, kind: None },
            Err(error) => ProbeResult {
                name,
                outcome: Outcome::Fail,
                text: error.report(),
                hint: Some(advice(&error, self.profile)),
                kind: Some(error.kind()),
            },
        };
        let passed = probe.outcome != Outcome::Fail;
        self.add(probe);
        Ok(passed)
    }

    fn add(&mut self, probe: ProbeResult) {
        match probe.outcome {
            Outcome::Ok => {}
            Outcome::Warn => self.report.warnings += 1,
            Outcome::Fail => {
                self.report.failures += 1;
                self.report.failed = self.report.failed.or(probe.kind);
            }
        }
        (self.on_result)(&probe);
    }

    async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            done = work => Ok(done),
            () = self.cancel.cancelled() => Err(Error::new(Kind::Cancelled, "interrupted")),
        }
    }
}

/// What to change: the hint of the error, or one for the kind of error and storage.
fn advice(error: &Error, profile: &Profile) -> Hint {
    if let Some(hint) = error.typed_hint() {
        return hint.clone();
    }
    let text = match (error.kind(), profile.type_name()) {
        (Kind::Unauthenticated, "s3") => {
            "correct access_key_id and secret_access_key (or the AWS_* variables), and the region"
        }
        (Kind::Unauthenticated, _) => {
            return hint!["sign in again: ", Operation::StorageLogin.on(profile.canonical_name()),];
        }
        (Kind::PermissionDenied, "local") => {
            "allow this user to write to the folder, or choose another one"
        }
        (Kind::PermissionDenied, "s3") => {
            "allow the key s3:PutObject, s3:GetObject, s3:DeleteObject, s3:ListBucket, \
             s3:AbortMultipartUpload and s3:ListBucketMultipartUploads"
        }
        (Kind::PermissionDenied, _) => "share the folder with this account as an editor",
        (Kind::NotFound, "s3") => "create the bucket, or correct its name, region or endpoint",
        (Kind::NotFound, _) => "create the folder, or correct its name",
        (Kind::InvalidInput, "local") => "correct the path: one of its parts is not a folder",
        (Kind::InvalidInput, "s3") => "correct the region, the endpoint, or set path_style = true",
        (Kind::NoSpace, _) => "free some space, or raise the quota",
        (Kind::Network, "s3") => "check the endpoint, whether its server runs, and any proxy",
        (Kind::Network | Kind::Unavailable | Kind::RateLimited, _) => "try again later",
        (Kind::Corrupt, _) => {
            "the storage returned different bytes than were stored: do not use it"
        }
        _ => return hint!["run it again with ", Setting::VerboseLog, " to see the requests"],
    };
    text.into()
}

/// A duration as text.
fn duration_text(time: Duration) -> String {
    match time.as_millis() {
        0..1000 => format!("{} ms", time.as_millis()),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

fn elapsed_text(start: Instant) -> String {
    duration_text(start.elapsed())
}

#[cfg(test)]
mod tests;
