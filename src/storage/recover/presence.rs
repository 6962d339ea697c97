//! Checks by listing whether objects exist with the expected length. No payload is read.

use std::collections::{BTreeSet, HashMap};

use crate::storage::map::generated_key::GeneratedKey;
use crate::{backends::StorageBackend, error::Result};

/// Which of `objects` (keys and lengths) are missing or have another length: their indices in the slice, ascending.
///
/// # Errors
/// When the backend cannot be listed.
pub async fn find_missing(
    backend: &dyn StorageBackend,
    objects: &[(&str, u64)],
) -> Result<Vec<usize>> {
    let mut expected: HashMap<&str, (usize, u64)> = HashMap::with_capacity(objects.len());
    expected.extend(objects.iter().enumerate().map(|(n, (key, len))| (*key, (n, *len))));
    let prefixes: BTreeSet<String> = objects.iter().map(|(key, _)| prefix_of(key)).collect();
    for prefix in prefixes {
        let mut page = backend.list(&prefix, None).await?;
        loop {
            for object in page.objects {
                let key = object.key.as_str();
                if expected.get(key).is_some_and(|(_, len)| *len == object.len) {
                    expected.remove(key);
                }
            }
            let Some(next) = page.next else { break };
            page = backend.list(&prefix, Some(&next)).await?;
        }
    }
    let mut missing: Vec<usize> = expected.into_values().map(|(n, _)| n).collect();
    missing.sort_unstable();
    Ok(missing)
}

/// The prefix to list to find `key` and other objects of its import: the import's folder, or the torrent's.
fn prefix_of(key: &str) -> String {
    if let Some(own) = GeneratedKey::parse(key) {
        return own.folder();
    }
    key.split_once('/').map_or_else(|| key.to_owned(), |(top, _)| format!("{top}/"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::backends::{Key, MemoryBackend, Payload};

    #[tokio::test]
    async fn objects_that_are_gone_or_have_another_length_are_missing() {
        let backend = MemoryBackend::new();
        let folder = "0123456789abcdef/9c4e01ab";
        let keys = ["An Album/a", "An Album/b", "single.bin", &format!("{folder}/00000001")]
            .map(str::to_owned);
        for (n, key) in keys.iter().enumerate().filter(|(n, _)| *n != 1) {
            let body = Payload::from_iter([Bytes::from(vec![0; n + 1])]);
            backend.put(&Key::new(key).unwrap(), body).await.unwrap();
        }
        let objects =
            |lens: [u64; 4]| -> Vec<_> { keys.iter().map(String::as_str).zip(lens).collect() };
        assert_eq!(find_missing(&backend, &objects([1, 2, 3, 4])).await.unwrap(), [1]);
        assert_eq!(find_missing(&backend, &objects([1, 2, 30, 5])).await.unwrap(), [1, 2, 3]);
        assert!(find_missing(&backend, &[]).await.unwrap().is_empty());
    }
}
