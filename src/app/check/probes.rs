//! The probes of a storage check.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Finding, Outcome, Probe, ok, short, since, warn};
use crate::{
    backends::{Copying, Key, Payload, Shape, StorageBackend, Upload, list_all},
    error::{Error, Kind, Result},
    storage::place_names::{NameRules, name_rules},
    units::{ByteSize, GIB, MIB},
};

/// The smallest part that S3 accepts.
const PART: u64 = 5 * MIB;
/// A small call that takes longer makes imports of many small files slow.
const SLOW: Duration = Duration::from_secs(1);
/// Less free space causes a warning.
const LITTLE_ROOM: u64 = GIB;
/// Timeout for deleting what the check created.
const CLEANING: Duration = Duration::from_secs(20);
const SPEED_BYTES: u64 = 8 * MIB;

const SMALL: &[u8] = b"bae was here, and takes this away again\n";

/// A storage that is being checked.
pub(super) struct Trial {
    backend: Arc<dyn StorageBackend>,
    prefix: String,
    /// Durations of the small calls.
    small_calls: Mutex<Vec<Duration>>,
    /// Every key under which an object may exist.
    made: Mutex<Vec<Key>>,
}

impl Trial {
    pub(super) fn new(backend: Arc<dyn StorageBackend>) -> Self {
        // Without randomness from the system, the process id has to do: two checks at once are rare.
        let salt = getrandom::u64().unwrap_or_else(|_| std::process::id().into());
        let prefix = format!("bae-check-{salt:016x}");
        Self { backend, prefix, small_calls: Mutex::default(), made: Mutex::default() }
    }

    pub(super) fn is_remote(&self) -> bool {
        self.backend.is_remote()
    }

    fn key(&self, name: &str) -> Key {
        Key::new(&format!("{}/{name}", self.prefix)).expect("a prefix of ours and a plain word")
    }

    /// A key that is deleted at the end.
    fn make(&self, name: &str) -> Key {
        let key = self.key(name);
        self.made.lock().push(key.clone());
        key
    }

    async fn timed<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let began = Instant::now();
        let done = call.await?;
        self.small_calls.lock().push(began.elapsed());
        Ok(done)
    }

    pub(super) async fn write(&self) -> Result<Finding> {
        let (key, began) = (self.make("small"), Instant::now());
        let put = self.timed(self.backend.put(&key, payload(Bytes::from_static(SMALL)))).await;
        if let Err(e) = put {
            if !e.kind().is_retryable() {
                // A refused put stores nothing, so there is nothing to delete.
                self.made.lock().clear();
            }
            return Err(e);
        }
        ok(format!("an object was stored, in {}", since(began)))
    }

    pub(super) async fn read(&self) -> Result<Finding> {
        let (key, len) = (self.key("small"), SMALL.len() as u64);
        let whole = self.timed(self.backend.get(&key, 0..len)).await?;
        same(&whole, SMALL)?;
        let range = self.timed(self.backend.get(&key, 4..9)).await?;
        same(&range, &SMALL[4..9])?;
        ok("it comes back as it was, and so does a part of it")
    }

    pub(super) async fn head(&self) -> Result<Finding> {
        let found = self.timed(self.backend.head(&self.key("small"))).await?;
        if found != Some(SMALL.len() as u64) {
            return Err(wrong(format!(
                "an object of {} bytes is said to have {}",
                SMALL.len(),
                found.map_or("none: it is not there".to_owned(), |len| len.to_string())
            )));
        }
        match self.timed(self.backend.head(&self.key("missing"))).await {
            Ok(None) => ok("lengths are right, and what is missing is missing"),
            Ok(Some(_)) => Err(wrong("an object that was never stored is said to be there")),
            Err(e) if e.kind() == Kind::PermissionDenied => warn(
                "what is missing is said to be forbidden",
                "allow listing (s3:ListBucket): without it a missing object looks like a forbidden one",
            ),
            Err(e) => Err(e),
        }
    }

    pub(super) async fn list(&self) -> Result<Finding> {
        let listed = self.timed(list_all(&*self.backend, &self.prefix)).await?;
        if listed.iter().any(|o| o.key == self.key("small") && o.len == SMALL.len() as u64) {
            return ok("a listing shows it");
        }
        warn(
            "a listing does not show what was just stored",
            "`bae gc` and `bae attach` go by listings: run them a while after imports",
        )
    }

    /// Lists a storage that refused a write.
    pub(super) async fn list_any(&self) -> Result<Finding> {
        self.backend.list(&self.prefix, None).await?;
        ok("listing works, so the place and the sign-in are right: it is writing that is refused")
    }

    /// Creates an object by multipart upload that is long enough to be copied from.
    pub(super) async fn parts(&self) -> Result<Finding> {
        let (key, shape) = (self.make("parts"), Shape { len: PART + 1, part_len: PART });
        let upload = self.backend.begin(&key, shape).await?;
        for part in 0..shape.parts() {
            let range = shape.part(part);
            upload.write(part, payload(filler(range.end - range.start))).await?;
        }
        upload.finish().await?;
        same(&self.backend.get(&key, PART - 1..PART + 1).await?, &[FILL; 2])?;
        ok("objects can be made part by part")
    }

    pub(super) async fn copy(&self) -> Result<Finding> {
        const SENT_AGAIN: &str =
            "nothing to change: whole files are sent again when they are published";
        let nothing = || warn("the server copies nothing by itself", SENT_AGAIN);
        let refused = |e: &Error| {
            warn(format!("the server copies nothing by itself: {}", e.report()), SENT_AGAIN)
        };
        let (from, len) = (self.key("parts"), PART + 1);
        let shape = match self.backend.capabilities().copy {
            Copying::No => return nothing(),
            Copying::Whole => Shape { len, part_len: len },
            Copying::Ranges { .. } => Shape { len, part_len: PART },
        };
        let key = self.make("copy");
        let upload = self.backend.begin(&key, shape).await?;
        let copied = self.fill_by_copy(&*upload, &from, shape).await;
        if let Err(e) = copied {
            upload.abort().await?;
            return if e.kind() == Kind::Unsupported { refused(&e) } else { Err(e) };
        }
        same(&self.backend.get(&key, PART - 1..len).await?, &[FILL; 2])?;
        ok("the server copies, so whole files are composed there")
    }

    async fn fill_by_copy(&self, upload: &dyn Upload, from: &Key, shape: Shape) -> Result<()> {
        upload.copy(0, from, shape.part(0)).await?;
        for part in 1..shape.parts() {
            let range = shape.part(part);
            upload.write(part, payload(filler(range.end - range.start))).await?;
        }
        upload.finish().await
    }

    pub(super) async fn abort(&self) -> Result<Finding> {
        const LIFECYCLE: &str =
            "set a lifecycle rule there that aborts incomplete uploads after a week";
        let shape = Shape { len: PART + 1, part_len: PART };
        let upload = self.backend.begin(&self.make("aborted"), shape).await?;
        if !self.backend.capabilities().ordered {
            upload.write(1, payload(filler(1))).await?;
        }
        upload.abort().await?;
        match self.backend.unfinished(&self.prefix).await {
            Ok(left) if left.is_empty() => ok("an upload that was given up leaves nothing"),
            Ok(_) => warn("an upload that was given up is still listed", LIFECYCLE),
            Err(e) if e.kind() == Kind::Unsupported => {
                warn("unfinished uploads cannot be listed", LIFECYCLE)
            }
            Err(e) => Err(e),
        }
    }

    pub(super) async fn delete(&self) -> Result<Finding> {
        let key = self.key("small");
        self.backend.delete(&key).await?;
        if self.backend.head(&key).await?.is_some() {
            return warn(
                "a deleted object is still there",
                "does the place keep versions or hold objects for a time? They are paid for",
            );
        }
        ok("objects can be deleted")
    }

    pub(super) async fn leftovers(&self) -> Result<Finding> {
        let left = match self.backend.unfinished("").await {
            // `abort` has reported that already.
            Err(e) if e.kind() == Kind::Unsupported => return ok("not known"),
            left => left?.len(),
        };
        match left {
            0 => ok("no unfinished uploads"),
            n => warn(
                format!("{n} unfinished uploads"),
                "of imports under way, or paid for in vain: `bae gc` tells them apart",
            ),
        }
    }

    pub(super) async fn room(&self) -> Result<Finding> {
        match self.backend.free_room().await? {
            None => ok("the place does not say"),
            Some(free) if free < LITTLE_ROOM => {
                warn(format!("{} free", ByteSize(free)), "make room before the next import")
            }
            Some(free) => ok(format!("{} free", ByteSize(free))),
        }
    }

    /// Tests which file names the storage keeps.
    pub(super) async fn names(&self) -> Result<Finding> {
        const RENAMED: &str = "nothing to change: whole files that cannot keep their names there get names with a hash";
        let (rules, made) = name_rules(&*self.backend, &format!("{}/", self.prefix)).await;
        self.made.lock().extend(made);
        // The reason of a failure was reported by an earlier probe.
        let Ok(rules) = rules else { return ok("not known") };
        let NameRules { tells_case, tells_normal_forms, takes_special } = rules;
        let lacks: Vec<_> = [
            (tells_case, "names that differ only in upper and lower case are one there"),
            (tells_normal_forms, "names that differ only in Unicode normal form are one there"),
            (takes_special, "names with one of : ? * \" < > | are refused there"),
        ]
        .into_iter()
        .filter_map(|(can, text)| (!can).then_some(text))
        .collect();
        match lacks.is_empty() {
            true => ok("all names are kept as they are"),
            false => warn(lacks.join("; "), RENAMED),
        }
    }

    pub(super) async fn features(&self) -> Result<Finding> {
        let can = self.backend.capabilities();
        let parts = if can.ordered { "parts one after the other" } else { "parts in any order" };
        let copies = match can.copy {
            Copying::No => "no copies",
            Copying::Whole => "copies of whole objects",
            Copying::Ranges { .. } => "copies of ranges",
        };
        let yes = |can, what| if can { what } else { "" };
        let puts = yes(can.conditional_put, ", puts that do not overwrite");
        ok(format!("{parts}, {copies}{puts}{}", yes(can.links, ", links")))
    }

    /// Median duration of the small calls.
    pub(super) fn latency(&self) -> Option<Duration> {
        let mut times = self.small_calls.lock().clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }

    pub(super) async fn tell_latency(&self) -> Result<Finding> {
        match self.latency() {
            Some(time) if time > SLOW => warn(
                format!("{} for a small call", short(time)),
                "raise upload_concurrency, or choose a region that is nearer",
            ),
            time => ok(format!("{} for a small call", short(time.unwrap_or_default()))),
        }
    }

    pub(super) async fn speed(&self) -> Result<Finding> {
        let key = self.make("speed");
        let began = Instant::now();
        self.backend.put(&key, payload(filler(SPEED_BYTES))).await?;
        let up = rate(began);
        let began = Instant::now();
        self.backend.get(&key, 0..SPEED_BYTES).await?;
        ok(format!("{up}/s up and {}/s down, one call at a time", rate(began)))
    }

    /// Deletes all objects of the check, whatever its result. Returns a warning if some could not be deleted.
    pub(super) async fn clean_up(&self) -> Option<Probe> {
        let cleaned = tokio::time::timeout(CLEANING, self.remove_all()).await;
        let error = match cleaned {
            Ok(Ok(())) => return None,
            Ok(Err(e)) => e.report(),
            Err(_) => format!("not done within {} s", CLEANING.as_secs()),
        };
        Some(Probe {
            name: "clean-up",
            outcome: Outcome::Warn,
            text: error,
            hint: Some(format!("delete what is under {}/ there by hand", self.prefix)),
            kind: None,
        })
    }

    /// Tries to delete everything. Returns the first error.
    async fn remove_all(&self) -> Result<()> {
        let made = std::mem::take(&mut *self.made.lock());
        if made.is_empty() {
            return Ok(());
        }
        let mut first = Ok(());
        for key in &made {
            first = first.and(self.backend.delete(key).await);
        }
        match self.backend.unfinished(&self.prefix).await {
            Ok(left) => {
                for upload in left {
                    first = first.and(self.backend.abort(&upload).await);
                }
            }
            Err(e) if e.kind() == Kind::Unsupported => {}
            Err(e) => first = first.and(Err(e)),
        }
        first
    }
}

const FILL: u8 = 0xBA;

fn filler(len: u64) -> Bytes {
    vec![FILL; usize::try_from(len).expect("a few MiB")].into()
}

fn payload(bytes: Bytes) -> Payload {
    Payload::from_iter([bytes])
}

fn same(got: &[u8], stored: &[u8]) -> Result<()> {
    if got == stored { Ok(()) } else { Err(wrong("other bytes came back than were stored")) }
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, text)
}

fn rate(began: Instant) -> ByteSize {
    let seconds = began.elapsed().as_secs_f64().max(1e-6);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rough figure of a few MiB in a positive time"
    )]
    let per_second = (SPEED_BYTES as f64 / seconds) as u64;
    ByteSize(per_second / (MIB / 10) * (MIB / 10))
}
