//! A walk over a folder at a server, whatever its protocol: which folder is listed next, and what is kept.
//!
//! Names are the server's choosing. One that is no name (it has a slash or a NUL in it) is a lie about the folder and
//! ends the walk; `.` and `..` are passed over. Folders in folders are followed as deep as [`MAX_DEPTH`], which ends
//! loops too, and everything that is listed counts towards [`MAX_ENTRIES`].

use url::Url;

use super::{
    Entry, LeftOut, Listing, MAX_ENTRIES, Remote,
    paths::{as_folder, below, last_part},
};
use crate::error::{Error, Kind, Result};

/// Deeper than any folder that people keep; a loop of links ends here.
const MAX_DEPTH: usize = 64;

/// A walk under way.
#[derive(Debug)]
pub(super) struct Walk {
    url: Url,
    /// Folders still to be listed, by their path below the first one; and how deep they are.
    folders: Vec<(String, usize)>,
    files: Vec<Entry>,
    left_out: Vec<LeftOut>,
    /// Where the folder that is listed now is: empty, or with a slash at its end.
    here: String,
    depth: usize,
    listed: usize,
    most: usize,
}

impl Walk {
    pub(super) fn new(url: &Url) -> Self {
        Self {
            url: as_folder(url),
            folders: vec![(String::new(), 0)],
            files: Vec::new(),
            left_out: Vec::new(),
            here: String::new(),
            depth: 0,
            listed: 0,
            most: MAX_ENTRIES,
        }
    }

    /// The path below the first folder of the next one to be listed: the empty path first, `None` at the end.
    pub(super) fn next_folder(&mut self) -> Option<String> {
        let (path, depth) = self.folders.pop()?;
        self.here = if path.is_empty() { String::new() } else { format!("{path}/") };
        self.depth = depth;
        Some(path)
    }

    /// A folder that is in the one listed now.
    ///
    /// # Errors
    /// `Unsupported` for a name that is none, for too many entries, and for folders that are too deep.
    pub(super) fn folder(&mut self, name: &str) -> Result<()> {
        let Some(path) = self.path(name)? else { return Ok(()) };
        if self.depth == MAX_DEPTH {
            return Err(self
                .bad(&format!("folders are more than {MAX_DEPTH} deep"))
                .hint("is there a link to a folder that it is in?"));
        }
        self.folders.push((path, self.depth + 1));
        Ok(())
    }

    /// A file that is in the folder listed now; `known` gives what the server tells of it, by its URL.
    ///
    /// # Errors
    /// As [`Walk::folder`].
    pub(super) fn file(&mut self, name: &str, known: impl FnOnce(Url) -> Remote) -> Result<()> {
        if let Some(path) = self.path(name)? {
            let remote = known(below(&self.url, &path));
            self.files.push(Entry { path, remote });
        }
        Ok(())
    }

    /// Something in the folder listed now that cannot be fetched, and why.
    ///
    /// # Errors
    /// As [`Walk::folder`].
    pub(super) fn leave_out(&mut self, name: &str, why: impl FnOnce(Url) -> Error) -> Result<()> {
        if let Some(path) = self.path(name)? {
            self.left_out.push(why(below(&self.url, &path)).into());
        }
        Ok(())
    }

    fn path(&mut self, name: &str) -> Result<Option<String>> {
        if matches!(name, "" | "." | "..") {
            return Ok(None);
        }
        if name.contains(['/', '\0']) {
            return Err(self.bad(&format!("the server lists {name:?}, which is no name")));
        }
        self.listed += 1;
        if self.listed > self.most {
            return Err(self
                .bad(&format!("it has more than {} entries", self.most))
                .hint("fetch the folders in it one by one"));
        }
        Ok(Some(format!("{}{name}", self.here)))
    }

    fn bad(&self, what: &str) -> Error {
        let (host, path) = (self.url.host_str().unwrap_or_default(), self.url.path());
        Error::new(Kind::Unsupported, format!("folder {path} at {host}: {what}"))
    }

    pub(super) fn finish(mut self) -> Listing {
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        self.files.dedup_by(|a, b| a.path == b.path);
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
        assert_eq!(walk.next_folder().as_deref(), Some(""));
        walk.folder(".").unwrap();
        walk.folder("..").unwrap();
        walk.folder("b c").unwrap();
        walk.file("z#1", Remote::at).unwrap();
        walk.file("z#1", Remote::at).unwrap();
        assert_eq!(walk.next_folder().as_deref(), Some("b c"));
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
        let refused = loop {
            let Some(path) = deep.next_folder() else { panic!("no end") };
            assert!(path.split('/').count() <= MAX_DEPTH, "{path}");
            if let Err(error) = deep.folder("again") {
                break error;
            }
        };
        assert!(refused.report().contains("64 deep"), "{}", refused.report());
        let mut wide = Walk { most: 10, ..walk() };
        wide.next_folder();
        let refused = (0..).find_map(|n| wide.file(&format!("{n}"), Remote::at).err()).unwrap();
        assert!(refused.report().contains("more than 10 entries"), "{}", refused.report());
    }
}
