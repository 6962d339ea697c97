//! Walks over a remote folder for any protocol: selects the next folder to list and collects the entries.
//!
//! The protocol takes a path from [`FolderWalk::next_folder`], lists that folder, and reports each entry with
//! [`FolderWalk::add_folder`], [`FolderWalk::add_file`] or [`FolderWalk::skip`]. [`FolderWalk::finish`] returns the
//! [`Listing`].
//!
//! Names are bytes that the server chooses, in an unknown encoding. A name with a slash or a NUL in it is invalid and
//! ends the walk; `.` and `..` are ignored. Nested folders are followed up to the maximum path length, which also ends
//! loops. Every listed entry counts towards [`MAX_ENTRIES`].

use url::Url;

use super::{
    ListedFile, Listing, MAX_ENTRIES, RemoteFile, SkippedEntry,
    url_paths::{last_segment_or_host, url_below_bytes, with_trailing_slash},
};
use crate::{
    error::{Error, Kind, Result},
    names,
};

/// Maximum total length of all paths in bytes. Paths are held in memory until the listing is complete.
const MAX_PATHS: usize = 256 << 20;

/// A walk in progress.
#[derive(Debug)]
pub(super) struct FolderWalk {
    url: Url,
    /// Folders that are not listed yet, as paths below the first one.
    folders: Vec<Vec<u8>>,
    files: Vec<ListedFile>,
    skipped: Vec<SkippedEntry>,
    /// Path of the folder that is being listed: empty, or with a slash at the end.
    current: Vec<u8>,
    entry_count: usize,
    max_entries: usize,
    /// Total length of all paths so far, in bytes.
    path_bytes: usize,
    /// One name that is not UTF-8, and the number of such names.
    non_utf8: Option<(String, usize)>,
}

impl FolderWalk {
    pub(super) fn new(url: &Url) -> Self {
        Self {
            url: with_trailing_slash(url),
            folders: vec![Vec::new()],
            files: Vec::new(),
            skipped: Vec::new(),
            current: Vec::new(),
            entry_count: 0,
            max_entries: MAX_ENTRIES,
            path_bytes: 0,
            non_utf8: None,
        }
    }

    /// The next folder to list, as a path below the first one. The first result is the empty path; `None` is the end.
    pub(super) fn next_folder(&mut self) -> Option<Vec<u8>> {
        let path = self.folders.pop()?;
        self.current.clone_from(&path);
        if !path.is_empty() {
            self.current.push(b'/');
        }
        Some(path)
    }

    /// Adds a subfolder of the folder that is being listed.
    ///
    /// # Errors
    /// `Unsupported` for an invalid name, for too many entries, and for paths that are too long.
    pub(super) fn add_folder(&mut self, name: impl AsRef<[u8]>) -> Result<()> {
        if let Some(path) = self.entry_path(name.as_ref())? {
            self.folders.push(path);
        }
        Ok(())
    }

    /// Adds a file of the folder that is being listed. `metadata` receives its URL and returns its metadata.
    ///
    /// # Errors
    /// As [`FolderWalk::add_folder`].
    pub(super) fn add_file(
        &mut self,
        name: impl AsRef<[u8]>,
        metadata: impl FnOnce(Url) -> RemoteFile,
    ) -> Result<()> {
        let Some(path) = self.entry_path(name.as_ref())? else { return Ok(()) };
        let remote = metadata(url_below_bytes(&self.url, &path));
        let parts: Vec<_> = path.split(|b| *b == b'/').map(names::decode).collect();
        self.files.push(ListedFile { path: parts.join("/"), remote });
        Ok(())
    }

    /// Adds an entry of the current folder that cannot be fetched. `reason` receives its URL and returns the error.
    ///
    /// # Errors
    /// As [`FolderWalk::add_folder`].
    pub(super) fn skip(&mut self, name: &str, reason: impl FnOnce(Url) -> Error) -> Result<()> {
        if let Some(path) = self.entry_path(name.as_bytes())? {
            self.skipped.push(reason(url_below_bytes(&self.url, &path)).into());
        }
        Ok(())
    }

    /// Checks the result of listing a folder. `None` means that the folder cannot be listed and is skipped.
    ///
    /// # Errors
    /// The error of the listing if the folder is the first one, or if the kind is not `PermissionDenied` or `NotFound`.
    pub(super) fn skip_if_refused<T>(&mut self, listing: Result<T>) -> Result<Option<T>> {
        match listing {
            Ok(listed) => Ok(Some(listed)),
            Err(e)
                if !self.current.is_empty()
                    && matches!(e.kind(), Kind::PermissionDenied | Kind::NotFound) =>
            {
                self.skipped.push(e.into());
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn entry_path(&mut self, name: &[u8]) -> Result<Option<Vec<u8>>> {
        if matches!(name, b"" | b"." | b"..") {
            return Ok(None);
        }
        if name.iter().any(|b| matches!(b, b'/' | 0)) {
            let name = String::from_utf8_lossy(name);
            return Err(self.unsupported(&format!("the server lists the invalid name {name:?}")));
        }
        self.entry_count += 1;
        if self.entry_count > self.max_entries {
            return Err(self
                .unsupported(&format!("more than {} entries", self.max_entries))
                .hint("fetch its subfolders one by one"));
        }
        if std::str::from_utf8(name).is_err() {
            let (_, count) =
                self.non_utf8.get_or_insert_with(|| (name.escape_ascii().to_string(), 0));
            *count += 1;
        }
        let path = [&self.current, name].concat();
        self.path_bytes += path.len();
        if path.len() > names::MAX_PATH || self.path_bytes > MAX_PATHS {
            let max = names::MAX_PATH;
            return Err(self
                .unsupported(&format!(
                    "a path has more than {max} bytes, or all paths together have too many"
                ))
                .hint("check for a link to a parent folder"));
        }
        Ok(Some(path))
    }

    fn unsupported(&self, reason: &str) -> Error {
        Error::new(Kind::Unsupported, format!("{}: {reason}", self.location()))
    }

    fn location(&self) -> String {
        format!("folder {} at {}", self.url.path(), self.url.host_str().unwrap_or_default())
    }

    pub(super) fn finish(mut self) -> Listing {
        if let Some((name, count)) = &self.non_utf8 {
            tracing::warn!(
                "{}: {count} names are not UTF-8, such as \"{name}\"; they are decoded as Latin-1",
                self.location()
            );
        }
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        // Two names in different encodings may decode to the same path; those are two files.
        self.files.dedup_by(|a, b| a.path == b.path && a.remote.url == b.remote.url);
        let name = last_segment_or_host(&self.url);
        Listing { name, url: self.url, files: self.files, skipped: self.skipped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk() -> FolderWalk {
        FolderWalk::new(&Url::parse("sftp://h/top").unwrap())
    }

    #[test]
    fn files_of_all_folders_are_sorted_and_have_their_urls() {
        let mut walk = walk();
        assert_eq!(walk.next_folder().as_deref(), Some(&b""[..]));
        walk.add_folder(".").unwrap();
        walk.add_folder("..").unwrap();
        walk.add_folder("b c").unwrap();
        walk.add_file("z#1", RemoteFile::from_url).unwrap();
        walk.add_file("z#1", RemoteFile::from_url).unwrap();
        assert_eq!(walk.next_folder().as_deref(), Some(&b"b c"[..]));
        walk.add_file("a", RemoteFile::from_url).unwrap();
        assert_eq!(walk.next_folder(), None);
        let listing = walk.finish();
        assert_eq!(listing.url.as_str(), "sftp://h/top/");
        assert_eq!(listing.name, "top");
        let found: Vec<_> =
            listing.files.iter().map(|f| (f.path.as_str(), f.remote.url.as_str())).collect();
        assert_eq!(found, [("b c/a", "sftp://h/top/b%20c/a"), ("z#1", "sftp://h/top/z%231")]);
    }

    #[test]
    fn names_that_are_not_utf_8_are_requested_by_their_bytes() {
        let mut walk = walk();
        walk.next_folder();
        walk.add_folder(b"\xe9t\xe9").unwrap();
        walk.next_folder();
        walk.add_file(b"na\xefve.txt", RemoteFile::from_url).unwrap();
        let files = walk.finish().files;
        assert_eq!(files[0].path, "été/naïve.txt");
        let requested = super::super::url_paths::path_bytes(&files[0].remote.url);
        assert_eq!(requested, b"/top/\xe9t\xe9/na\xefve.txt");
    }

    #[test]
    fn a_subfolder_without_permission_is_skipped_but_not_the_first_folder() {
        let refused = |kind| Err::<(), _>(Error::new(kind, "list it"));
        let mut walk = walk();
        walk.next_folder();
        assert!(walk.skip_if_refused(refused(Kind::PermissionDenied)).is_err());
        walk.add_folder("lost+found").unwrap();
        walk.add_file("a", RemoteFile::from_url).unwrap();
        walk.next_folder();
        assert!(walk.skip_if_refused(refused(Kind::Network)).is_err());
        assert!(walk.skip_if_refused(refused(Kind::PermissionDenied)).unwrap().is_none());
        assert_eq!(walk.skip_if_refused(Ok(7)).unwrap(), Some(7));
        let listing = walk.finish();
        assert_eq!((listing.files.len(), listing.skipped.len()), (1, 1));
    }

    #[test]
    fn invalid_names_end_the_walk() {
        for name in ["a/b", "/etc/passwd", "../x", "a\0b"] {
            let mut walk = walk();
            walk.next_folder();
            let error = walk.add_file(name, RemoteFile::from_url).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported, "{name:?}");
            assert!(walk.add_folder(name).is_err());
        }
    }

    #[test]
    fn endless_folders_end_the_walk() {
        let mut deep = walk();
        let mut depth = 0;
        let refused = loop {
            let Some(path) = deep.next_folder() else { panic!("no end") };
            assert!(path.len() <= names::MAX_PATH);
            if let Err(error) = deep.add_folder("again") {
                break error;
            }
            depth += 1;
        };
        assert!(depth > 500, "{depth}");
        assert!(refused.report().contains("more than 3072 bytes"), "{}", refused.report());
        let mut wide = FolderWalk { max_entries: 10, ..walk() };
        wide.next_folder();
        let refused =
            (0..).find_map(|n| wide.add_file(format!("{n}"), RemoteFile::from_url).err()).unwrap();
        assert!(refused.report().contains("more than 10 entries"), "{}", refused.report());
    }
}
