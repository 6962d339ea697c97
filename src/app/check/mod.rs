//! `storage check`: tests every operation that an import needs of a storage, and says what to change.
//!
//! [`try_all`] runs the probes of [`Trial`] one after the other, each with a timeout, because a user waits for the
//! result. They use a key prefix of their own. The created objects are deleted at the end, also when the check is
//! interrupted. Features are tested, never inferred from the name of a provider.

mod clock;
mod probes;

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use self::probes::Trial;
use super::place::{CheckNotes, make_folder, open_backend};
use crate::{
    backends::RetryPolicy,
    config::{Config, Profile, ProfileKind},
    error::{Error, Kind, Result},
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
pub struct Probe {
    /// One word: `write`, `read`, `delete`.
    pub name: &'static str,
    pub outcome: Outcome,
    pub text: String,
    /// What to change.
    pub hint: Option<String>,
    /// The kind of error, if the probe failed.
    pub kind: Option<Kind>,
}

/// Result of a check.
#[derive(Debug)]
pub struct CheckReport {
    /// Name or URL of the storage, as imports record it.
    pub storage: String,
    /// The storage as a URL, without secrets.
    pub place: String,
    pub failures: usize,
    pub warnings: usize,
    /// Median duration of the small calls.
    pub latency: Option<Duration>,
    /// The kind of the first failure. Later failures are often consequences of it.
    pub failed: Option<Kind>,
}

/// Timeout of a probe. Parts are 5 MiB, which take 42 s at 1 Mbit/s.
const LIMIT: Duration = Duration::from_secs(100);
/// Timeout for opening the storage and for its first small object. After that, the server is regarded as not answering.
const FIRST: Duration = Duration::from_secs(40);

/// Result of a probe that did not fail.
type Finding = (Outcome, String, Option<&'static str>);

fn ok(text: impl Into<String>) -> Result<Finding> {
    Ok((Outcome::Ok, text.into(), None))
}

fn warn(text: impl Into<String>, hint: &'static str) -> Result<Finding> {
    Ok((Outcome::Warn, text.into(), Some(hint)))
}

/// Checks a storage, by name or URL, and passes each result to `tell` at once. With `speed`, also measures throughput.
/// Needs no data folder, and may run during an import.
///
/// # Errors
/// When there is no such storage, its settings are invalid, or `cancel` was triggered. All
/// other errors are in the report.
pub async fn check_storage(
    config: &Config,
    storage: &str,
    speed: bool,
    cancel: &CancellationToken,
    tell: impl FnMut(&Probe) + Send,
) -> Result<CheckReport> {
    let profile = config.storage(storage)?;
    let mut log = Log { profile: &profile, cancel, tell, report: new_report(&profile) };
    let notes = CheckNotes::of(config, &profile);
    let mut backend = None;
    let opening = async {
        make_folder(&profile)?;
        backend = Some(
            open_backend(&profile, notes, RetryPolicy::brief(), &std::sync::Arc::default()).await?,
        );
        ok(profile.place())
    };
    log.probe("place", FIRST, opening).await?;
    let Some(backend) = backend else { return Ok(log.report) };
    let trial = Trial::new(backend);
    let tried = try_all(&trial, &mut log, speed).await;
    log.report.latency = trial.latency();
    if let Some(left) = trial.clean_up().await {
        log.tell(left);
    }
    tried.map(|()| log.report)
}

fn new_report(profile: &Profile) -> CheckReport {
    CheckReport {
        storage: profile.canonical(),
        place: profile.place(),
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
async fn try_all<F: FnMut(&Probe) + Send>(
    trial: &Trial,
    log: &mut Log<'_, F>,
    speed: bool,
) -> Result<()> {
    let written = log.probe("write", FIRST, trial.write()).await?;
    if let Some(server) = server_of(log.profile).filter(|_| trial.is_remote())
        && let Some(probe) = log.unless_cancelled(clock::probe(&server)).await?
    {
        log.tell(probe);
    }
    if !written {
        // Whether listing works tells a wrong storage from a missing permission to write.
        log.probe("list", FIRST, trial.list_any()).await?;
        return Ok(());
    }
    log.probe("read", LIMIT, trial.read()).await?;
    log.probe("head", LIMIT, trial.head()).await?;
    log.probe("list", LIMIT, trial.list()).await?;
    if log.probe("parts", LIMIT, trial.parts()).await? {
        log.probe("copy", LIMIT, trial.copy()).await?;
    }
    log.probe("names", LIMIT, trial.names()).await?;
    log.probe("abort", LIMIT, trial.abort()).await?;
    log.probe("delete", LIMIT, trial.delete()).await?;
    log.probe("leftovers", LIMIT, trial.leftovers()).await?;
    log.probe("room", LIMIT, trial.room()).await?;
    log.probe("features", LIMIT, trial.features()).await?;
    log.probe("latency", LIMIT, trial.tell_latency()).await?;
    if speed {
        log.probe("speed", LIMIT, trial.speed()).await?;
    }
    Ok(())
}

/// The URL of a server whose clock can be compared.
fn server_of(profile: &Profile) -> Option<String> {
    let (endpoint, known) = match &profile.kind {
        ProfileKind::Local { .. } => return None,
        ProfileKind::S3(s3) => (s3.endpoint.as_ref(), "https://s3.amazonaws.com/"),
        ProfileKind::Drive(drive) => (drive.endpoint.as_ref(), "https://www.googleapis.com/"),
    };
    Some(endpoint.map_or_else(|| known.to_owned(), ToString::to_string))
}

/// Counts and reports the results.
struct Log<'a, F> {
    profile: &'a Profile,
    cancel: &'a CancellationToken,
    tell: F,
    report: CheckReport,
}

impl<F: FnMut(&Probe)> Log<'_, F> {
    /// Runs one probe. Returns whether it passed.
    ///
    /// # Errors
    /// Only when cancelled.
    async fn probe(
        &mut self,
        name: &'static str,
        limit: Duration,
        trial: impl Future<Output = Result<Finding>>,
    ) -> Result<bool> {
        let limited = tokio::time::timeout(limit, trial);
        let found = self.unless_cancelled(limited).await?.unwrap_or_else(|_| {
            Err(Error::new(Kind::Network, format!("no answer within {} s", limit.as_secs())))
        });
        let probe = match found {
            Ok((outcome, text, hint)) => {
                Probe { name, outcome, text, hint: hint.map(str::to_owned), kind: None }
            }
            Err(error) => Probe {
                name,
                outcome: Outcome::Fail,
                text: error.report(),
                hint: Some(advice(&error, self.profile)),
                kind: Some(error.kind()),
            },
        };
        let passed = probe.outcome != Outcome::Fail;
        self.tell(probe);
        Ok(passed)
    }

    fn tell(&mut self, probe: Probe) {
        match probe.outcome {
            Outcome::Ok => {}
            Outcome::Warn => self.report.warnings += 1,
            Outcome::Fail => {
                self.report.failures += 1;
                self.report.failed = self.report.failed.or(probe.kind);
            }
        }
        (self.tell)(&probe);
    }

    async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            done = work => Ok(done),
            () = self.cancel.cancelled() => Err(Error::new(Kind::Cancelled, "interrupted")),
        }
    }
}

/// What to change: the hint of the error, or one for the kind of error and storage.
fn advice(error: &Error, profile: &Profile) -> String {
    if let Some(hint) = error.hint_text() {
        return hint.to_owned();
    }
    let cloud = profile.type_name();
    let text = match (error.kind(), cloud) {
        (Kind::Unauthenticated, "s3") => {
            "correct access_key_id and secret_access_key (or the AWS_* variables), and the region"
        }
        (Kind::Unauthenticated, _) => {
            return format!("sign in again: bae storage login {}", profile.canonical());
        }
        (Kind::PermissionDenied, "local") => "let this user write there, or choose another folder",
        (Kind::PermissionDenied, "s3") => {
            "allow the key s3:PutObject, s3:GetObject, s3:DeleteObject, s3:ListBucket, \
             s3:AbortMultipartUpload and s3:ListBucketMultipartUploads there"
        }
        (Kind::PermissionDenied, _) => "share the folder with this account as an editor",
        (Kind::NotFound, "s3") => "make the bucket, or correct its name, region or endpoint",
        (Kind::NotFound, _) => "make the folder, or correct its name",
        (Kind::InvalidInput, "local") => "something in the path is no folder: correct it",
        (Kind::InvalidInput, "s3") => "correct the region, the endpoint, or set path_style = true",
        (Kind::NoSpace, _) => "make room there, or raise the quota",
        (Kind::Network, "s3") => "is the endpoint right, and does it run? Is a proxy in between?",
        (Kind::Network | Kind::Unavailable | Kind::RateLimited, _) => "try again later",
        (Kind::Corrupt, _) => "what came back is not what was stored: do not use this place",
        _ => "run it again with -vv to see what was asked",
    };
    text.to_owned()
}

/// A duration as text.
fn short(time: Duration) -> String {
    match time.as_millis() {
        0..1000 => format!("{} ms", time.as_millis()),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

fn since(began: Instant) -> String {
    short(began.elapsed())
}

#[cfg(test)]
mod tests;
