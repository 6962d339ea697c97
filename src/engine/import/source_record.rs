//! The record of an import's servers, and the comparison of the files found now with those that were imported before.

use serde::{Deserialize, Serialize};

use super::source::RemoteFiles;
use crate::{
    catalog::FileRow,
    downloads::checksum,
    error::{Error, Kind, Result},
    protocols::{Digest, Validator},
};

/// Validators and checksums of an import from a URL. Kept in the catalog, and in the import's manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) struct SourceRecord {
    /// One per file.
    pub(in crate::engine) validators: Vec<Option<Validator>>,
    /// The expected checksums, when the import is a single file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::engine) checksums: Vec<String>,
    /// Whether the server did not report the length of the file.
    #[serde(default, rename = "open_end")]
    pub(super) unknown_len: bool,
}

/// How files found now compare with files imported before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum SourceMatch {
    /// The same files: the validators of the server are equal.
    Proven,
    /// Names and lengths are equal, but at least one file has no validators to compare.
    Likely,
    Different,
}

impl SourceRecord {
    pub(in crate::engine) fn new(found: &RemoteFiles, checksums: &[Digest]) -> Self {
        Self {
            validators: found.files.iter().map(|(_, remote)| remote.validator.clone()).collect(),
            checksums: checksums.iter().map(checksum::to_text).collect(),
            unknown_len: has_unknown_len(found),
        }
    }

    pub(in crate::engine) fn parse(text: Option<&str>) -> Self {
        // An unreadable record proves nothing.
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    pub(in crate::engine) fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| {
            Error::new(Kind::Internal, "cannot write the source record as JSON").because(e)
        })
    }

    pub(in crate::engine) fn checksums(&self) -> Result<Vec<Digest>> {
        self.checksums.iter().map(|text| checksum::parse(text)).collect()
    }

    /// Compares `found` with `rows`, the files of an earlier import.
    pub(in crate::engine) fn compare(&self, rows: &[FileRow], found: &RemoteFiles) -> SourceMatch {
        let is_same_file =
            |(row, (path, remote)): (&FileRow, &(String, crate::protocols::RemoteFile))| {
                row.path == *path && remote.len.map_or(self.unknown_len, |len| len == row.len)
            };
        if rows.len() != found.files.len() || !rows.iter().zip(&found.files).all(is_same_file) {
            return SourceMatch::Different;
        }
        let mut source_match = SourceMatch::Proven;
        for (n, (_, remote)) in found.files.iter().enumerate() {
            match (self.validators.get(n).and_then(Option::as_ref), &remote.validator) {
                (Some(was), Some(is)) if was == is => {}
                (Some(_), Some(_)) => return SourceMatch::Different,
                _ if remote.len == Some(0) => {}
                _ => source_match = SourceMatch::Likely,
            }
        }
        source_match
    }
}

/// The catalog rows of the files, laid out one after the other.
pub(in crate::engine) fn remote_file_rows(found: &RemoteFiles) -> Result<Vec<FileRow>> {
    let mut start: u64 = 0;
    let row = |(path, remote): &(String, crate::protocols::RemoteFile)| {
        let len = match remote.len {
            Some(len) => len,
            // It grows with what is stored.
            None if found.files.len() == 1 => 0,
            None => {
                let text = format!("the server does not report the length of {path:?}");
                return Err(Error::new(Kind::Unsupported, text).hint("import that file by itself"));
            }
        };
        let row = FileRow { path: path.clone(), start, len, pad: false };
        let too_long =
            || Error::new(Kind::InvalidInput, "the total length of the files exceeds 256 TiB");
        start = start.checked_add(len).filter(|end| *end <= 1 << 48).ok_or_else(too_long)?;
        Ok(row)
    };
    found.files.iter().map(row).collect()
}

pub(in crate::engine) fn has_unknown_len(found: &RemoteFiles) -> bool {
    found.files.iter().any(|(_, remote)| remote.len.is_none())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::protocols::{FetchOptions, Protocols, RemoteFile};

    fn found(files: &[(&str, Option<u64>, &str)]) -> RemoteFiles {
        let url: url::Url = "http://x/".parse().unwrap();
        let protocol = Protocols::new(FetchOptions::default()).for_url(&url, None).unwrap();
        let file = |(path, len, tag): &(&str, Option<u64>, &str)| {
            let validator = (!tag.is_empty()).then(|| Validator::ETag((*tag).to_owned()));
            let remote = RemoteFile { len: *len, validator, ..RemoteFile::from_url(url.clone()) };
            ((*path).to_owned(), remote)
        };
        let files = files.iter().map(file).collect();
        let first = parking_lot::Mutex::default();
        RemoteFiles { protocol: Arc::clone(&protocol), name: "n".into(), files, first }
    }

    fn compare(was: &[(&str, Option<u64>, &str)], is: &[(&str, Option<u64>, &str)]) -> SourceMatch {
        let was = found(was);
        let record = SourceRecord::parse(Some(&SourceRecord::new(&was, &[]).to_json().unwrap()));
        record.compare(&remote_file_rows(&was).unwrap(), &found(is))
    }

    #[test]
    fn files_match_only_where_the_validators_agree() {
        let a = [("a", Some(3), "\"1\""), ("b", Some(0), "")];
        assert_eq!(compare(&a, &a), SourceMatch::Proven);
        assert_eq!(compare(&a, &[("a", Some(3), "\"2\""), a[1]]), SourceMatch::Different);
        assert_eq!(compare(&a, &[("a", Some(4), "\"1\""), a[1]]), SourceMatch::Different);
        assert_eq!(compare(&a, &a[..1]), SourceMatch::Different);
        assert_eq!(compare(&a, &[("a", Some(3), ""), a[1]]), SourceMatch::Likely);
        let unknown = [("a", None, "")];
        assert_eq!(compare(&unknown, &unknown), SourceMatch::Likely);
        assert_eq!(compare(&a[..1], &unknown), SourceMatch::Different);
        let unreadable = SourceRecord::parse(Some("not JSON"));
        assert_eq!(
            unreadable.compare(&remote_file_rows(&found(&a)).unwrap(), &found(&a)),
            SourceMatch::Likely
        );
    }

    #[test]
    fn files_are_contiguous_and_only_a_single_file_may_have_an_unknown_length() {
        let rows = remote_file_rows(&found(&[("a", Some(3), ""), ("b", Some(4), "")])).unwrap();
        assert_eq!((rows[1].start, rows[1].len), (3, 4));
        assert_eq!(remote_file_rows(&found(&[("a", None, "")])).unwrap()[0].len, 0);
        let two = found(&[("a", None, ""), ("b", Some(1), "")]);
        assert_eq!(remote_file_rows(&two).unwrap_err().kind(), Kind::Unsupported);
        assert!(
            remote_file_rows(&found(&[("a", Some(u64::MAX), ""), ("b", Some(1), "")])).is_err()
        );
    }
}
