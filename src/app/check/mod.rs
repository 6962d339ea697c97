//! `storage check`: tries everything that an import will ask of a place, and says what to change.
//!
//! It works under a key prefix of its own and takes away what it made, also when it is interrupted. Nothing is tried
//! for long: whoever set a place up waits for the answer. What it refuses: judging by the name of a provider what
//! can be seen by trying.

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

/// How one trial went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// Imports work, but something will be slower, dearer or left over.
    Warn,
    Fail,
}

/// One thing that was tried.
#[derive(Debug)]
pub struct Probe {
    /// One word: `write`, `read`, `delete`.
    pub name: &'static str,
    pub outcome: Outcome,
    pub text: String,
    /// What to change.
    pub hint: Option<String>,
    /// Of a failure.
    pub kind: Option<Kind>,
}

/// What a check found.
#[derive(Debug)]
pub struct CheckReport {
    /// The name or URL, as imports record it.
    pub storage: String,
    /// As a URL, without secrets.
    pub place: String,
    pub failures: usize,
    pub warnings: usize,
    /// The median of the small calls.
    pub latency: Option<Duration>,
    /// The kind of the first failure: those after it tend to follow from it.
    pub failed: Option<Kind>,
}

/// The longest time that one trial may take; parts are 5 MiB, which a line of 1 Mbit/s takes 42 s for.
const LIMIT: Duration = Duration::from_secs(100);
/// The longest time to open a place or for the first small object: then nobody answers.
const FIRST: Duration = Duration::from_secs(40);

/// What a trial finds that does not fail.
type Finding = (Outcome, String, Option<&'static str>);

fn ok(text: impl Into<String>) -> Result<Finding> {
    Ok((Outcome::Ok, text.into(), None))
}

fn warn(text: impl Into<String>, hint: &'static str) -> Result<Finding> {
    Ok((Outcome::Warn, text.into(), Some(hint)))
}

/// Tries a storage, by name or URL, and hands each finding to `tell` at once; with `speed` also how fast it is.
/// Needs no data folder, and does not mind that an import runs.
///
/// # Errors
/// When there is no such storage, its settings cannot be used, or `cancel` came; all else is in the report.
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
        // Whether it can be read at all tells a wrong place from a missing permission.
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

/// A server of the place that can be asked for the time.
fn server_of(profile: &Profile) -> Option<String> {
    let (endpoint, known) = match &profile.kind {
        ProfileKind::Local { .. } => return None,
        ProfileKind::S3(s3) => (s3.endpoint.as_ref(), "https://s3.amazonaws.com/"),
        ProfileKind::Drive(drive) => (drive.endpoint.as_ref(), "https://www.googleapis.com/"),
    };
    Some(endpoint.map_or_else(|| known.to_owned(), ToString::to_string))
}

/// Counts what was found, and tells it.
struct Log<'a, F> {
    profile: &'a Profile,
    cancel: &'a CancellationToken,
    tell: F,
    report: CheckReport,
}

impl<F: FnMut(&Probe)> Log<'_, F> {
    /// Makes one trial; whether it did not fail.
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

/// What to change: the backend's own hint, or what the kind of place and of error suggest.
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

/// How long something took, for people.
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
