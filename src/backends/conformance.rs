//! The contract of [`StorageBackend`] as one suite: every backend and every wrapper passes it.

use std::ops::Range;

use bytes::Bytes;

use super::{Key, Payload, StorageBackend, rng::SplitMix64};
use crate::error::Kind;

/// Runs the suite under keys of its own, and removes them.
///
/// # Panics
/// On the first breach, with a sentence that says which.
pub async fn check(backend: &dyn StorageBackend) {
    let suite = Suite { backend, prefix: format!("conformance-{:016x}", seed()) };
    suite.stores_an_empty_object().await;
    suite.stores_many_small_parts().await;
    suite.gives_exact_ranges().await;
    suite.tells_what_is_missing().await;
    suite.puts_the_same_twice().await;
    suite.puts_the_same_key_at_once().await;
    suite.lists_by_prefix().await;
    suite.deletes_twice().await;
    backend.free_room().await.expect("the free room can be asked");
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

    async fn head(&self, key: &Key) -> Option<u64> {
        let got = self.backend.head(key).await;
        got.unwrap_or_else(|e| panic!("head {key} failed: {}", e.report()))
    }

    /// Keys and lengths under the suite's prefix and `name`, sorted.
    async fn list(&self, name: &str) -> Vec<(Key, u64)> {
        let prefix = format!("{}/{name}", self.prefix);
        let listed = self.backend.list(&prefix).await;
        let listed = listed.unwrap_or_else(|e| panic!("list {prefix} failed: {}", e.report()));
        let mut found: Vec<_> = listed.into_iter().map(|o| (o.key, o.len)).collect();
        found.sort();
        found
    }

    async fn stores_an_empty_object(&self) {
        let key = self.put("empty", Payload::default()).await;
        assert_eq!(self.head(&key).await, Some(0), "an object of 0 bytes is there, with length 0");
        assert!(self.get(&key, 0..0).await.is_empty(), "an empty object has no bytes");
    }

    async fn stores_many_small_parts(&self) {
        let parts: Vec<Bytes> = (0..=249)
            .cycle()
            .take(3000)
            .map(|i| Bytes::from(vec![i; usize::from(i % 7)]))
            .collect();
        let whole: Vec<u8> = parts.concat();
        let key = self.put("parts", parts.into_iter().collect()).await;
        assert_eq!(self.head(&key).await, Some(whole.len() as u64), "3000 parts make one object");
        let got = self.get(&key, 0..whole.len() as u64).await;
        assert!(got == whole, "3000 parts come back in order");
    }

    async fn gives_exact_ranges(&self) {
        let whole: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let key = self.put("ranges", Payload::from_iter([Bytes::from(whole.clone())])).await;
        for range in [0..1, 0..100_000, 99_999..100_000, 12_345..54_321, 7..7] {
            let at = usize::try_from(range.start).expect("small");
            let end = usize::try_from(range.end).expect("small");
            let got = self.get(&key, range.clone()).await;
            assert!(got == whole[at..end], "get gives exactly the bytes of {range:?}");
        }
        let past = self.backend.get(&key, 99_999..100_001).await;
        let kind = past.expect_err("a range past the end is an error").kind();
        assert_eq!(kind, Kind::Corrupt, "an object that ends before the range does is Corrupt");
    }

    async fn tells_what_is_missing(&self) {
        let key = self.key("missing");
        assert_eq!(self.head(&key).await, None, "head of a missing object is None");
        let got = self.backend.get(&key, 0..1).await;
        let kind = got.expect_err("get of a missing object is an error").kind();
        assert_eq!(kind, Kind::NotFound, "get of a missing object is NotFound");
    }

    async fn puts_the_same_twice(&self) {
        let body = || Payload::from_iter([Bytes::from_static(b"again")]);
        self.put("twice", body()).await;
        let key = self.put("twice", body()).await;
        assert_eq!(self.list("twice").await, [(key.clone(), 5)], "two equal puts make one object");
        assert_eq!(&self.get(&key, 0..5).await[..], b"again", "two equal puts keep the bytes");
    }

    async fn puts_the_same_key_at_once(&self) {
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
        assert_eq!(self.list("list/").await, put, "a prefix lists all that begins with it");
        assert_eq!(self.list("list/a/").await, put[..2], "a prefix may be a folder");
        assert_eq!(self.list("list/a").await, put[..3], "a prefix may end inside a name");
        assert!(self.list("list/c").await.is_empty(), "an unknown prefix lists nothing");
    }

    async fn deletes_twice(&self) {
        let key = self.put("deleted", Payload::default()).await;
        for _ in 0..2 {
            let gone = self.backend.delete(&key).await;
            gone.unwrap_or_else(|e| panic!("delete {key} failed: {}", e.report()));
            assert_eq!(self.head(&key).await, None, "a deleted object is gone");
        }
        self.put("deleted", Payload::default()).await;
        assert_eq!(self.head(&key).await, Some(0), "a deleted key can be put again");
    }
}
