//! Walks over a remote folder for any protocol: selects the next folder to list and collects the entries.
//!
//! The protocol takes a path from [`Walk::next_folder`], lists that folder, and reports each entry with
//! [`Walk::folder`], [`Walk::file`] or [`Walk::leave_out`]. [`Walk::finish`] returns the [`Listing`].
//!
//! Names are bytes that the server chooses, in an unknown encoding. A name with a slash or a NUL in it is invalid and
//! ends the walk; `.` and `..` are ignored. Nested folders are followed up to the maximum path length, which also ends
//! loops. Every listed entry counts towards [`MAX_ENTRIES`].

use url::Url;

use super::{
    Entry, LeftOut, Listing, MAX_ENTRIES, Remote,
    paths::{as_folder, below_bytes, last_part},
};
use crate::{
    error::{Error, Kind, Result},
    names,
};

/// Maximum total length of all paths in bytes. Paths are held in memory until the listing is complete.
const MAX_PATHS: usize = 256 << 20;

/// A walk in progress.
#[derive(Debug)]
pub(super) struct Walk {
    url: Url,
    /// Folders that are not listed yet, as paths below the first one.
    folders: Vec<Vec<u8>>,
    files: Vec<Entry>,
    left_out: Vec<LeftOut>,
    /// Path of the folder that is being listed: empty, or with a slash at the end.
    here: Vec<u8>,
    listed: usize,
    most: usize,
    /// Total length of all paths so far, in bytes.
    path_bytes: usize,
    /// One name that is not UTF-8, and the number of such names.
    odd: Option<(String, usize)>,
}

impl Walk {
    pub(super) fn new(url: &Url) -> Self {
        Self {
            url: as_folder(url),
            folders: vec![Vec::new()],
            files: Vec::new(),
            left_out: Vec::new(),
            here: Vec::new(),
            listed: 0,
            most: MAX_ENTRIES,
            path_bytes: 0,
            odd: None,
        }
    }

    /// The next folder to list, as a path below the first one. The first result is the empty path; `None` is the end.
    pub(super) fn next_folder(&mut self) -> Option<Vec<u8>> {
        let path = self.folders.pop()?;
        self.here.clone_from(&path);
        if !path.is_empty() {
            self.here.push(b'/');
        }
        Some(path)
    }

    /// Adds a subfolder of the folder that is being listed.
    ///
    /// # Errors
    /// `Unsupported` for an invalid name, for too many entries, and for paths that are too long.
    pub(super) fn folder(&mut self, name: impl AsRef<[u8]>) -> Result<()> {
        if let Some(path) = self.path(name.as_ref())? {
            self.folders.push(path);
        }
        Ok(())
    }

    /// Adds a file of the folder that is being listed. `known` receives its URL and returns its metadata.
    ///
    /// # Errors
    /// As [`Walk::folder`].
    pub(super) fn file(
        &mut self,
        name: impl AsRef<[u8]>,
        known: impl FnOnce(Url) -> Remote,
    ) -> Result<()> {
        let Some(path) = self.path(name.as_ref())? else { return Ok(()) };
        let remote = known(below_bytes(&self.url, &path));
        let parts: Vec<_> = path.split(|b| *b == b'/').map(names::decode).collect();
        self.files.push(Entry { path: parts.join("/"), remote });
        Ok(())
    }

    /// Adds an entry of the current folder that cannot be fetched. `why` receives its URL and returns the reason.
    ///
    /// # Errors
    /// As [`Walk::folder`].
    pub(super) fn leave_out(&mut self, name: &str, why: impl FnOnce(Url) -> Error) -> Result<()> {
        if let Some(path) = self.path(name.as_bytes())? {
            self.left_out.push(why(below_bytes(&self.url, &path)).into());
        }
        Ok(())
    }

    /// Checks the result of listing a folder. `None` means that the folder cannot be listed and counts as left out.
    ///
    /// # Errors
    /// The error of the listing if the folder is the first one, or if the kind is not `PermissionDenied` or `NotFound`.
    pub(super) fn listed<T>(&mut self, listing: Result<T>) -> Result<Option<T>> {
        match listing {
            Ok(listed) => Ok(Some(listed)),
            Err(e)
                if !self.here.is_empty()
                    && matches!(e.kind(), Kind::PermissionDenied | Kind::NotFound) =>
            {
                self.left_out.push(e.into());
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn path(&mut self, name: &[u8]) -> Result<Option<Vec<u8>>> {
        if matches!(name, b"" | b"." | b"..") {
            return Ok(None);
        }
        if name.iter().any(|b| matches!(b, b'/' | 0)) {
            let name = String::from_utf8_lossy(name);
            return Err(self.bad(&format!("the server lists {name:?}, which is no name")));
        }
        self.listed += 1;
        if self.listed > self.most {
            return Err(self
                .bad(&format!("it has more than {} entries", self.most))
                .hint("fetch the folders in it one by one"));
        }
        if std::str::from_utf8(name).is_err() {
            let odd = self.odd.get_or_insert_with(|| (name.escape_ascii().to_string(), 0));
            odd.1 += 1;
        }
        let path = [&self.here, name].concat();
        self.path_bytes += path.len();
        if path.len() > names::MAX_PATH || self.path_bytes > MAX_PATHS {
            let most = names::MAX_PATH;
            return Err(self
                .bad(&format!("paths in it have more than {most} bytes, or too many in all"))
                .hint("is there a link to a folder that it is in?"));
        }
        Ok(Some(path))
    }

    fn bad(&self, what: &str) -> Error {
        Error::new(Kind::Unsupported, format!("{}: {what}", self.place()))
    }

    fn place(&self) -> String {
        format!("folder {} at {}", self.url.path(), self.url.host_str().unwrap_or_default())
    }

    pub(super) fn finish(mut self) -> Listing {
        if let Some((name, count)) = &self.odd {
            tracing::warn!(
                "{}: {count} names are not UTF-8, such as \"{name}\"; they are kept as Latin-1 here",
                self.place()
            );
        }
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        // Two names in different encodings may decode to the same path; those are two files.
        self.files.dedup_by(|a, b| a.path == b.path && a.remote.url == b.remote.url);
        let name = last_part(&self.url);
        Listing { name, url: self.url, files: self.files, left_out: self.left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk() -> Walk {
        Walk::new(&Url::parse("sftp://h/top").unwrap())
    }

    #[test]
    fn folders_are_walked_and_files_are_sorted_with_their_urls() {
        let mut walk = walk();
        assert_eq!(walk.next_folder().as_deref(), Some(&b""[..]));
        walk.folder(".").unwrap();
        walk.folder("..").unwrap();
        walk.folder("b c").unwrap();
        walk.file("z#1", Remote::at).unwrap();
        walk.file("z#1", Remote::at).unwrap();
        assert_eq!(walk.next_folder().as_deref(), Some(&b"b c"[..]));
        walk.file("a", Remote::at).unwrap();
        assert_eq!(walk.next_folder(), None);
        let listing = walk.finish();
        assert_eq!(listing.url.as_str(), "sftp://h/top/");
        assert_eq!(listing.name, "top");
        let found: Vec<_> =
            listing.files.iter().map(|f| (f.path.as_str(), f.remote.url.as_str())).collect();
        assert_eq!(found, [("b c/a", "sftp://h/top/b%20c/a"), ("z#1", "sftp://h/top/z%231")]);
    }

    #[test]
    fn names_that_are_not_utf_8_are_asked_for_by_their_bytes() {
        let mut walk = walk();
        walk.next_folder();
        walk.folder(b"\xe9t\xe9").unwrap();
        walk.next_folder();
        walk.file(b"na\xefve.txt", Remote::at).unwrap();
        let files = walk.finish().files;
        assert_eq!(files[0].path, "été/naïve.txt");
        let asked = super::super::paths::path_bytes(&files[0].remote.url);
        assert_eq!(asked, b"/top/\xe9t\xe9/na\xefve.txt");
    }

    #[test]
    fn a_folder_that_may_not_be_listed_is_left_out_but_not_the_first() {
        let refused = |kind| Err::<(), _>(Error::new(kind, "list it"));
        let mut walk = walk();
        walk.next_folder();
        assert!(walk.listed(refused(Kind::PermissionDenied)).is_err());
        walk.folder("lost+found").unwrap();
        walk.file("a", Remote::at).unwrap();
        walk.next_folder();
        assert!(walk.listed(refused(Kind::Network)).is_err());
        assert!(walk.listed(refused(Kind::PermissionDenied)).unwrap().is_none());
        assert_eq!(walk.listed(Ok(7)).unwrap(), Some(7));
        let listing = walk.finish();
        assert_eq!((listing.files.len(), listing.left_out.len()), (1, 1));
    }

    #[test]
    fn names_that_are_none_end_the_walk() {
        for name in ["a/b", "/etc/passwd", "../x", "a\0b"] {
            let mut walk = walk();
            walk.next_folder();
            let error = walk.file(name, Remote::at).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported, "{name:?}");
            assert!(walk.folder(name).is_err());
        }
    }

    #[test]
    fn endless_folders_come_to_an_end() {
        let mut deep = walk();
        let mut depth = 0;
        let refused = loop {
            let Some(path) = deep.next_folder() else { panic!("no end") };
            assert!(path.len() <= names::MAX_PATH);
            if let Err(error) = deep.folder("again") {
                break error;
            }
            depth += 1;
        };
        assert!(depth > 500, "{depth}");
        assert!(refused.report().contains("more than 3072 bytes"), "{}", refused.report());
        let mut wide = Walk { most: 10, ..walk() };
        wide.next_folder();
        let refused = (0..).find_map(|n| wide.file(format!("{n}"), Remote::at).err()).unwrap();
        assert!(refused.report().contains("more than 10 entries"), "{}", refused.report());
    }
}
