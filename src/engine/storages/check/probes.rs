//! The probes of a storage check.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Finding, Outcome, ProbeResult, duration_text, elapsed_text, ok, warn};
use crate::{
    backends::{
        CopySupport, Key, MultipartUpload, Payload, StorageBackend, UploadLayout, list_all,
    },
    error::{Error, Kind, Result},
    hints::{Operation, hint},
    storage::files::name_probe::{NameRules, probe_name_rules},
    units::{ByteSize, GIB, MIB},
};

/// The smallest part that S3 accepts.
const PART_LEN: u64 = 5 * MIB;
/// A small call that takes longer makes imports of many small files slow.
const SLOW_CALL: Duration = Duration::from_secs(1);
/// Less free space causes a warning.
const LOW_SPACE: u64 = GIB;
/// Timeout for deleting what the check created.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(20);
const SPEED_BYTES: u64 = 8 * MIB;

const SMALL_OBJECT: &[u8] = b"test object of bae's storage check, deleted at its end\n";

/// A storage that is being checked.
pub(super) struct StorageProbes {
    backend: Arc<dyn StorageBackend>,
    prefix: String,
    /// Durations of the small calls.
    small_calls: Mutex<Vec<Duration>>,
    /// Every key under which an object may exist.
    created: Mutex<Vec<Key>>,
}

impl StorageProbes {
    pub(super) fn new(backend: Arc<dyn StorageBackend>) -> Self {
        // Without randomness from the system, the process id has to do: two checks at once are rare.
        let salt = getrandom::u64().unwrap_or_else(|_| std::process::id().into());
        let prefix = format!("bae-check-{salt:016x}");
        Self { backend, prefix, small_calls: Mutex::default(), created: Mutex::default() }
    }

    pub(super) fn is_remote(&self) -> bool {
        self.backend.is_remote()
    }

    fn key(&self, name: &str) -> Key {
        Key::new(&format!("{}/{name}", self.prefix)).expect("a prefix of ours and a plain word")
    }

    /// A key that is deleted at the end.
    fn new_key(&self, name: &str) -> Key {
        let key = self.key(name);
        self.created.lock().push(key.clone());
        key
    }

    async fn timed<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let start = Instant::now();
        let done = call.await?;
        self.small_calls.lock().push(start.elapsed());
        Ok(done)
    }

    pub(super) async fn write(&self) -> Result<Finding> {
        let (key, start) = (self.new_key("small"), Instant::now());
        let put =
            self.timed(self.backend.put(&key, payload(Bytes::from_static(SMALL_OBJECT)))).await;
        if let Err(e) = put {
            if !e.kind().is_retryable() {
                // A refused put stores nothing, so there is nothing to delete.
                self.created.lock().clear();
            }
            return Err(e);
        }
        ok(format!("stored an object in {}", elapsed_text(start)))
    }

    pub(super) async fn read(&self) -> Result<Finding> {
        let (key, len) = (self.key("small"), SMALL_OBJECT.len() as u64);
        let whole = self.timed(self.backend.get(&key, 0..len)).await?;
        same(&whole, SMALL_OBJECT)?;
        let range = self.timed(self.backend.get(&key, 4..9)).await?;
        same(&range, &SMALL_OBJECT[4..9])?;
        ok("an object and a range of it are read back unchanged")
    }

    pub(super) async fn head(&self) -> Result<Finding> {
        let found = self.timed(self.backend.head(&self.key("small"))).await?;
        if found != Some(SMALL_OBJECT.len() as u64) {
            return Err(wrong(format!(
                "an object of {} bytes is reported as {}",
                SMALL_OBJECT.len(),
                found.map_or("missing".to_owned(), |len| format!("one of {len} bytes"))
            )));
        }
        match self.timed(self.backend.head(&self.key("missing"))).await {
            Ok(None) => ok("lengths are correct, and missing objects are reported as missing"),
            Ok(Some(_)) => Err(wrong("an object that was never stored is reported as stored")),
            Err(e) if e.kind() == Kind::PermissionDenied => warn(
                "a missing object is reported as forbidden",
                "allow listing (s3:ListBucket): without it, a missing object looks forbidden",
            ),
            Err(e) => Err(e),
        }
    }

    pub(super) async fn list(&self) -> Result<Finding> {
        let listed = self.timed(list_all(&*self.backend, &self.prefix)).await?;
        if listed.iter().any(|o| o.key == self.key("small") && o.len == SMALL_OBJECT.len() as u64) {
            return ok("a listing has the object");
        }
        warn(
            "a listing does not have the new object",
            hint![
                Operation::FindLeftovers,
                " and ",
                Operation::AttachStorage,
                " rely on listings: run them some time after imports",
            ],
        )
    }

    /// Lists a storage that refused a write.
    pub(super) async fn list_any(&self) -> Result<Finding> {
        self.backend.list(&self.prefix, None).await?;
        ok("listing works: location and sign-in are correct, only writing is refused")
    }

    /// Creates an object by multipart upload that is long enough to be copied from.
    pub(super) async fn parts(&self) -> Result<Finding> {
        let (key, shape) =
            (self.new_key("parts"), UploadLayout { len: PART_LEN + 1, part_len: PART_LEN });
        let upload = self.backend.begin_upload(&key, shape).await?;
        for part in 0..shape.part_count() {
            let range = shape.part_range(part);
            upload.put_part(part, payload(filler(range.end - range.start))).await?;
        }
        upload.finish().await?;
        same(&self.backend.get(&key, PART_LEN - 1..PART_LEN + 1).await?, &[FILL; 2])?;
        ok("multipart uploads work")
    }

    pub(super) async fn copy(&self) -> Result<Finding> {
        const UPLOADED_AGAIN: &str =
            "nothing to change: files are uploaded again when they are published";
        let nothing = || warn("no server-side copies", UPLOADED_AGAIN);
        let refused =
            |e: &Error| warn(format!("no server-side copies: {}", e.report()), UPLOADED_AGAIN);
        let (from, len) = (self.key("parts"), PART_LEN + 1);
        let shape = match self.backend.capabilities().copy {
            CopySupport::No => return nothing(),
            CopySupport::Whole => UploadLayout { len, part_len: len },
            CopySupport::Ranges { .. } => UploadLayout { len, part_len: PART_LEN },
        };
        let key = self.new_key("copy");
        let upload = self.backend.begin_upload(&key, shape).await?;
        let copied = self.fill_by_copy(&*upload, &from, shape).await;
        if let Err(e) = copied {
            upload.abort().await?;
            return if e.kind() == Kind::Unsupported { refused(&e) } else { Err(e) };
        }
        same(&self.backend.get(&key, PART_LEN - 1..len).await?, &[FILL; 2])?;
        ok("server-side copies work: whole files are composed without an upload")
    }

    async fn fill_by_copy(
        &self,
        upload: &dyn MultipartUpload,
        from: &Key,
        shape: UploadLayout,
    ) -> Result<()> {
        upload.copy_part(0, from, shape.part_range(0)).await?;
        for part in 1..shape.part_count() {
            let range = shape.part_range(part);
            upload.put_part(part, payload(filler(range.end - range.start))).await?;
        }
        upload.finish().await
    }

    pub(super) async fn abort(&self) -> Result<Finding> {
        const LIFECYCLE: &str =
            "set a lifecycle rule that aborts incomplete multipart uploads after a week";
        let shape = UploadLayout { len: PART_LEN + 1, part_len: PART_LEN };
        let upload = self.backend.begin_upload(&self.new_key("aborted"), shape).await?;
        if !self.backend.capabilities().ordered_parts {
            upload.put_part(1, payload(filler(1))).await?;
        }
        upload.abort().await?;
        match self.backend.list_uploads(&self.prefix).await {
            Ok(left) if left.is_empty() => ok("an aborted upload leaves nothing"),
            Ok(_) => warn("an aborted upload is still listed", LIFECYCLE),
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
                "a deleted object still exists",
                "check versioning and retention rules: the objects that they keep are charged",
            );
        }
        ok("objects can be deleted")
    }

    pub(super) async fn leftovers(&self) -> Result<Finding> {
        let left = match self.backend.list_uploads("").await {
            // `abort` has reported that already.
            Err(e) if e.kind() == Kind::Unsupported => return ok("unknown"),
            left => left?.len(),
        };
        match left {
            0 => ok("no unfinished uploads"),
            n => warn(
                format!("{n} unfinished uploads"),
                hint![
                    "some may belong to running imports: ",
                    Operation::FindLeftovers,
                    " finds the others, which are charged",
                ],
            ),
        }
    }

    pub(super) async fn free_space(&self) -> Result<Finding> {
        match self.backend.free_space().await? {
            None => ok("the storage does not report free space"),
            Some(free) if free < LOW_SPACE => {
                warn(format!("{} free", ByteSize(free)), "free some space before the next import")
            }
            Some(free) => ok(format!("{} free", ByteSize(free))),
        }
    }

    /// Tests which file names the storage keeps.
    pub(super) async fn names(&self) -> Result<Finding> {
        const RENAMED: &str =
            "nothing to change: published files with such names get a name with a hash";
        let (rules, created) = probe_name_rules(&*self.backend, &format!("{}/", self.prefix)).await;
        self.created.lock().extend(created);
        // The reason of a failure was reported by an earlier probe.
        let Ok(rules) = rules else { return ok("unknown") };
        let NameRules { case_sensitive, normalization_sensitive, allows_special } = rules;
        let limitations: Vec<_> = [
            (case_sensitive, "names that differ only in case are equal"),
            (normalization_sensitive, "names that differ only in Unicode normal form are equal"),
            (allows_special, "names with one of : ? * \" < > | are refused"),
        ]
        .into_iter()
        .filter_map(|(supported, text)| (!supported).then_some(text))
        .collect();
        match limitations.is_empty() {
            true => ok("all names are kept unchanged"),
            false => warn(limitations.join("; "), RENAMED),
        }
    }

    pub(super) async fn features(&self) -> Result<Finding> {
        let can = self.backend.capabilities();
        let parts = if can.ordered_parts { "parts in order" } else { "parts in any order" };
        let copies = match can.copy {
            CopySupport::No => "no copies",
            CopySupport::Whole => "copies of whole objects",
            CopySupport::Ranges { .. } => "copies of ranges",
        };
        let text_if = |can, what| if can { what } else { "" };
        let puts = text_if(can.conditional_put, ", puts that do not overwrite");
        ok(format!("{parts}, {copies}{puts}{}", text_if(can.links, ", links")))
    }

    /// Median duration of the small calls.
    pub(super) fn latency(&self) -> Option<Duration> {
        let mut times = self.small_calls.lock().clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }

    pub(super) async fn report_latency(&self) -> Result<Finding> {
        match self.latency() {
            Some(time) if time > SLOW_CALL => warn(
                format!("{} per small call", duration_text(time)),
                "raise upload_concurrency, or choose a nearer region",
            ),
            time => ok(format!("{} per small call", duration_text(time.unwrap_or_default()))),
        }
    }

    pub(super) async fn speed(&self) -> Result<Finding> {
        let key = self.new_key("speed");
        let start = Instant::now();
        self.backend.put(&key, payload(filler(SPEED_BYTES))).await?;
        let up = rate(start);
        let start = Instant::now();
        self.backend.get(&key, 0..SPEED_BYTES).await?;
        ok(format!("{up}/s up and {}/s down, one call at a time", rate(start)))
    }

    /// Deletes all objects of the check, whatever its result. Returns a warning if some could not be deleted.
    pub(super) async fn clean_up(&self) -> Option<ProbeResult> {
        let cleaned = tokio::time::timeout(CLEAN_UP_TIMEOUT, self.remove_all()).await;
        let error = match cleaned {
            Ok(Ok(())) => return None,
            Ok(Err(e)) => e.report(),
            Err(_) => format!("not complete within {} s", CLEAN_UP_TIMEOUT.as_secs()),
        };
        Some(ProbeResult {
            name: "clean-up",
            outcome: Outcome::Warn,
            text: error,
            hint: Some(format!("delete the objects under {}/ by hand", self.prefix).into()),
            kind: None,
        })
    }

    /// Tries to delete everything. Returns the first error.
    async fn remove_all(&self) -> Result<()> {
        let created = std::mem::take(&mut *self.created.lock());
        if created.is_empty() {
            return Ok(());
        }
        let mut first = Ok(());
        for key in &created {
            first = first.and(self.backend.delete(key).await);
        }
        match self.backend.list_uploads(&self.prefix).await {
            Ok(left) => {
                for upload in left {
                    first = first.and(self.backend.abort_upload(&upload).await);
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
    if got == stored {
        Ok(())
    } else {
        Err(wrong("different bytes were read back than were stored"))
    }
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, text)
}

fn rate(start: Instant) -> ByteSize {
    let seconds = start.elapsed().as_secs_f64().max(1e-6);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rough figure of a few MiB in a positive time"
    )]
    let per_second = (SPEED_BYTES as f64 / seconds) as u64;
    ByteSize(per_second / (MIB / 10) * (MIB / 10))
}
