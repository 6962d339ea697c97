//! The contract of [`StorageBackend`] as one test suite. Every backend and every wrapper passes it.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use super::{
    CopySupport, Key, MultipartUpload, ObjectVersion, Payload, StorageBackend, UploadLayout,
    body::collect, list_all, wrappers::rng::SplitMix64,
};
use crate::error::{Kind, Result};

/// Runs the suite under a random prefix, then deletes the objects it made.
///
/// # Panics
/// On the first violation of the contract, with a message that names it.
pub async fn check(backend: &dyn StorageBackend) {
    let suite = Suite { backend, prefix: format!("conformance-{:016x}", seed()) };
    suite.stores_an_empty_object().await;
    suite.stores_many_small_buffers().await;
    suite.returns_exact_ranges().await;
    suite.streams_ranges().await;
    suite.reports_missing_objects().await;
    suite.repeats_a_put().await;
    suite.puts_one_key_concurrently().await;
    suite.lists_by_prefix().await;
    suite.lists_several_pages().await;
    suite.accepts_file_names_as_keys().await;
    suite.uploads_and_resumes_parts().await;
    suite.copies_as_its_capabilities_say().await;
    suite.aborts_uploads().await;
    suite.repeats_a_delete().await;
    backend.free_space().await.expect("the free space can be queried");
    for object in suite.list("").await {
        backend.delete(&object.0).await.expect("delete succeeds");
    }
    assert!(suite.list("").await.is_empty(), "deleted objects are still listed");
}

fn seed() -> u64 {
    SplitMix64::from_system().next_u64()
}

struct Suite<'a> {
    backend: &'a dyn StorageBackend,
    prefix: String,
}

impl Suite<'_> {
    fn key(&self, name: &str) -> Key {
        Key::new(&format!("{}/{name}", self.prefix)).expect("the suite's names are keys")
    }

    async fn put(&self, name: &str, payload: Payload) -> Key {
        let key = self.key(name);
        let done = self.backend.put(&key, payload).await;
        done.unwrap_or_else(|e| panic!("put {key} failed: {}", e.report()));
        key
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Bytes {
        let got = self.backend.get(key, range.clone()).await;
        got.unwrap_or_else(|e| panic!("get {key} {range:?} failed: {}", e.report()))
    }

    async fn version(&self, key: &Key) -> Option<ObjectVersion> {
        let got = self.backend.version(key).await;
        got.unwrap_or_else(|e| panic!("version of {key} failed: {}", e.report()))
    }

    async fn head(&self, key: &Key) -> Option<u64> {
        let got = self.backend.head(key).await;
        got.unwrap_or_else(|e| panic!("head {key} failed: {}", e.report()))
    }

    /// Keys and lengths of the objects under the suite's prefix and `name`, sorted.
    async fn list(&self, name: &str) -> Vec<(Key, u64)> {
        let prefix = format!("{}/{name}", self.prefix);
        let listed = list_all(self.backend, &prefix).await;
        let listed = listed.unwrap_or_else(|e| panic!("list {prefix} failed: {}", e.report()));
        let mut found: Vec<_> = listed.into_iter().map(|o| (o.key, o.len)).collect();
        found.sort();
        found
    }

    async fn stores_an_empty_object(&self) {
        let key = self.put("empty", Payload::default()).await;
        assert_eq!(self.head(&key).await, Some(0), "an empty object exists with length 0");
        assert!(self.get(&key, 0..0).await.is_empty(), "an empty object has no bytes");
    }

    async fn stores_many_small_buffers(&self) {
        let buffers: Vec<Bytes> = (0..=249)
            .cycle()
            .take(3000)
            .map(|i| Bytes::from(vec![i; usize::from(i % 7)]))
            .collect();
        let whole: Vec<u8> = buffers.concat();
        let key = self.put("parts", buffers.into_iter().collect()).await;
        assert_eq!(self.head(&key).await, Some(whole.len() as u64), "3000 buffers make one object");
        let version = self.version(&key).await;
        assert_eq!(version.as_ref().map(|version| version.len), Some(whole.len() as u64));
        assert_eq!(self.version(&key).await, version, "the version of an object does not change");
        let got = self.get(&key, 0..whole.len() as u64).await;
        assert!(got == whole, "3000 buffers are returned in order");
    }

    async fn returns_exact_ranges(&self) {
        let whole: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let key = self.put("ranges", Payload::from_iter([Bytes::from(whole.clone())])).await;
        for range in [0..1, 0..100_000, 99_999..100_000, 12_345..54_321, 7..7] {
            let at = usize::try_from(range.start).expect("small");
            let end = usize::try_from(range.end).expect("small");
            let got = self.get(&key, range.clone()).await;
            assert!(got == whole[at..end], "get returns exactly the bytes of {range:?}");
        }
        let past = self.backend.get(&key, 99_999..100_001).await;
        let kind = past.expect_err("a range past the end is an error").kind();
        assert_eq!(kind, Kind::Corrupt, "an object that ends before the range does is Corrupt");
    }

    async fn streams_ranges(&self) {
        let whole: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
        let key = self.put("bodies", Payload::from_iter([Bytes::from(whole.clone())])).await;
        for range in [0..3_000_000, 0..1, 2_999_999..3_000_000, 1_234_567..2_345_678] {
            let at = usize::try_from(range.start).expect("small");
            let end = usize::try_from(range.end).expect("small");
            let got = self.read(&key, range.clone()).await;
            let got = got.unwrap_or_else(|e| panic!("{key} {range:?} failed: {}", e.report()));
            assert!(got == whole[at..end], "a body has exactly the bytes of {range:?}");
        }
        let mut abandoned = self.backend.open(&key, 0..3_000_000).await.expect("the object exists");
        if let Ok(first) = abandoned.next().await.expect("the body has bytes") {
            assert!(whole.starts_with(&first), "an abandoned body starts with the first bytes");
        }
        drop(abandoned);
        let past = self.read(&key, 2_999_999..3_000_001).await;
        let kind = past.expect_err("a body past the end is an error").kind();
        assert_eq!(kind, Kind::Corrupt, "an object that ends before the body does is Corrupt");
        let missing = self.read(&self.key("missing"), 0..1).await;
        let kind = missing.expect_err("a missing object has no body").kind();
        assert_eq!(kind, Kind::NotFound, "the body of a missing object is NotFound");
    }

    /// Reads the body of `range`. When it breaks off with a retryable error, the rest is fetched with a get.
    async fn read(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let body = self.backend.open(key, range.clone()).await?;
        let mut bytes = BytesMut::new();
        match collect(body, &mut bytes).await {
            Err(e) if e.kind().is_retryable() => {
                let remaining = range.start + bytes.len() as u64..range.end;
                bytes.extend_from_slice(&self.backend.get(key, remaining).await?);
            }
            ended => ended?,
        }
        Ok(bytes.freeze())
    }

    async fn reports_missing_objects(&self) {
        let key = self.key("missing");
        assert_eq!(self.head(&key).await, None, "head of a missing object is None");
        assert_eq!(self.version(&key).await, None, "a missing object has no version");
        let got = self.backend.get(&key, 0..1).await;
        let kind = got.expect_err("get of a missing object is an error").kind();
        assert_eq!(kind, Kind::NotFound, "get of a missing object is NotFound");
    }

    async fn repeats_a_put(&self) {
        let body = || Payload::from_iter([Bytes::from_static(b"again")]);
        self.put("twice", body()).await;
        let key = self.put("twice", body()).await;
        assert_eq!(self.list("twice").await, [(key.clone(), 5)], "two equal puts make one object");
        assert_eq!(&self.get(&key, 0..5).await[..], b"again", "two equal puts keep the bytes");
    }

    async fn puts_one_key_concurrently(&self) {
        let body = || (0..64).map(|i| Bytes::from(vec![i; 1000])).collect::<Payload>();
        let put = || self.put("at-once", body());
        let (key, ..) = tokio::join!(put(), put(), put(), put());
        let got = self.get(&key, 0..64_000).await;
        let whole: Vec<u8> = (0..64u8).flat_map(|i| vec![i; 1000]).collect();
        assert!(got == whole, "concurrent puts of one key leave the whole object");
        assert_eq!(self.list("at-once").await, [(key, 64_000)], "and it is listed once");
    }

    async fn lists_by_prefix(&self) {
        let body = |n: usize| Payload::from_iter([Bytes::from(vec![0; n])]);
        let mut put = Vec::new();
        for (n, name) in ["list/a/1", "list/a/2", "list/ab", "list/b"].into_iter().enumerate() {
            put.push((self.put(name, body(n)).await, n as u64));
        }
        assert_eq!(self.list("list/").await, put, "a prefix lists all keys that start with it");
        assert_eq!(self.list("list/a/").await, put[..2], "a prefix may be a folder");
        assert_eq!(self.list("list/a").await, put[..3], "a prefix may end inside a name");
        assert!(self.list("list/c").await.is_empty(), "an unknown prefix lists nothing");
    }

    async fn repeats_a_delete(&self) {
        let key = self.put("deleted", Payload::default()).await;
        for _ in 0..2 {
            let deleted = self.backend.delete(&key).await;
            deleted.unwrap_or_else(|e| panic!("delete {key} failed: {}", e.report()));
            assert_eq!(self.head(&key).await, None, "a deleted object does not exist");
        }
        self.put("deleted", Payload::default()).await;
        assert_eq!(self.head(&key).await, Some(0), "a deleted key can be put again");
    }

    async fn lists_several_pages(&self) {
        let mut put = Vec::new();
        for n in 0..203 {
            let key = self.put(&format!("many/{n:03}"), Payload::default()).await;
            put.push((key, 0));
        }
        assert_eq!(
            self.list("many/").await,
            put,
            "a listing of several pages has every object once"
        );
    }

    async fn accepts_file_names_as_keys(&self) {
        for name in ["Björk/01 - Jóga (live) [x].flac", "a+b&c=d?e#f%20 .txt", "日本/曲'\".mp3"]
        {
            let body = Bytes::copy_from_slice(name.as_bytes());
            let key = self.put(&format!("names/{name}"), Payload::from_iter([body.clone()])).await;
            assert_eq!(self.get(&key, 0..body.len() as u64).await, body, "{name} keeps its bytes");
            assert_eq!(self.list(&format!("names/{name}")).await, [(key, body.len() as u64)]);
        }
    }

    async fn begin(&self, key: &Key, layout: UploadLayout) -> Box<dyn MultipartUpload> {
        let upload = self.backend.begin_upload(key, layout).await;
        upload.unwrap_or_else(|e| panic!("begin {key} failed: {}", e.report()))
    }

    async fn finish(&self, key: &Key, upload: &dyn MultipartUpload) {
        let done = upload.finish().await;
        done.unwrap_or_else(|e| panic!("finish {key} failed: {}", e.report()));
    }

    /// Uploads two parts of 5 MiB, the smallest that S3 takes, and a short last part. The upload is dropped after the
    /// first part sent, then resumed.
    async fn uploads_and_resumes_parts(&self) {
        let part_len = 5 << 20;
        let layout = UploadLayout { len: 2 * part_len + 777, part_len };
        let whole = pattern(layout.len);
        let cut = |part| Payload::from_iter([whole.slice(bounds(&layout.part_range(part)))]);
        let key = self.key("made/whole file.bin");
        let ordered_parts = self.backend.capabilities().ordered_parts;
        let first = if ordered_parts { 0 } else { 2 };
        let upload = self.begin(&key, layout).await;
        write(&*upload, first, cut(first)).await;
        assert_eq!(self.head(&key).await, None, "an unfinished upload is not an object");
        drop(upload);
        let upload = self.begin(&key, layout).await;
        let stored = upload.stored_parts().to_vec();
        assert!(
            stored.is_empty() || stored == [first],
            "{stored:?} is neither empty nor the sent part"
        );
        for part in (0..layout.part_count()).filter(|part| !stored.contains(part)) {
            write(&*upload, part, cut(part)).await;
        }
        self.finish(&key, &*upload).await;
        let got = self.get(&key, 0..layout.len).await;
        assert!(got == whole, "the parts make the object");
        let left = self.backend.list_uploads(&self.prefix).await.expect("uploads can be listed");
        assert!(left.is_empty(), "a finished upload is still listed: {left:?}");
    }

    async fn copies_as_its_capabilities_say(&self) {
        let part_len = 5 << 20;
        let body = pattern(part_len + 99);
        let from = self.put("copy/from", Payload::from_iter([body.clone()])).await;
        let copy_support = self.backend.capabilities().copy;
        if copy_support != CopySupport::No {
            let key = self.key("copy/whole");
            let layout = UploadLayout { len: part_len + 99, part_len: 2 * part_len };
            let upload = self.begin(&key, layout).await;
            copy(&*upload, 0, &from, 0..layout.len).await;
            self.finish(&key, &*upload).await;
            assert!(self.get(&key, 0..layout.len).await == body, "a whole object is copied");
        }
        if let CopySupport::Ranges { .. } = copy_support {
            let key = self.key("copy/ranges");
            let layout = UploadLayout { len: part_len + 10, part_len };
            let upload = self.begin(&key, layout).await;
            copy(&*upload, 0, &from, 50..50 + part_len).await;
            write(&*upload, 1, Payload::from_iter([body.slice(..10)])).await;
            self.finish(&key, &*upload).await;
            let got = self.get(&key, 0..layout.len).await;
            let len = usize::try_from(part_len).expect("small");
            assert!(got[..len] == body[50..50 + len], "a range of an object is copied");
            assert!(got[len..] == body[..10], "and sent bytes follow it");
        }
    }

    async fn aborts_uploads(&self) {
        let layout = UploadLayout { len: 6 << 20, part_len: 5 << 20 };
        for by_listing in [false, true] {
            let key = self.key("aborted");
            let upload = self.begin(&key, layout).await;
            write(&*upload, 0, Payload::from_iter([pattern(5 << 20)])).await;
            if by_listing {
                drop(upload);
                let left = self.backend.list_uploads(&self.prefix).await.expect("can be listed");
                for upload in left {
                    self.backend
                        .abort_upload(&upload)
                        .await
                        .expect("a listed upload can be aborted");
                }
            } else {
                upload.abort().await.expect("an upload can be aborted");
            }
            let left = self.backend.list_uploads(&self.prefix).await.expect("can be listed");
            assert!(left.is_empty(), "aborted uploads are still listed: {left:?}");
            assert_eq!(self.head(&key).await, None, "an aborted upload is not an object");
        }
    }
}

async fn write(upload: &dyn MultipartUpload, part: u64, payload: Payload) {
    let done = upload.put_part(part, payload).await;
    done.unwrap_or_else(|e| panic!("part {part} was not stored: {}", e.report()));
}

async fn copy(upload: &dyn MultipartUpload, part: u64, from: &Key, range: Range<u64>) {
    let done = upload.copy_part(part, from, range).await;
    done.unwrap_or_else(|e| panic!("part {part} was not copied: {}", e.report()));
}

fn pattern(len: u64) -> Bytes {
    (0..len).map(|n| u8::try_from(n % 251).expect("below 251")).collect()
}

fn bounds(range: &Range<u64>) -> Range<usize> {
    let bound = |n| usize::try_from(n).expect("small");
    bound(range.start)..bound(range.end)
}
