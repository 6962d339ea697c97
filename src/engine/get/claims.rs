//! Local paths claimed by the files of a run, so that two files never write to the same path.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use url::Url;

use crate::{
    downloads::partial_paths,
    error::{Error, Kind, Result},
    hints::{Setting, hint},
    protocols::{Digest, display_url},
};

/// The claimed paths of a run. Cheap to clone; all clones share the same map.
#[derive(Debug, Clone, Default)]
pub(in crate::engine) struct Claims(Arc<Mutex<HashMap<PathBuf, Claim>>>);

#[derive(Debug, Clone, PartialEq)]
struct Claim {
    url: Url,
    checksums: Vec<Digest>,
    /// Path of the file itself. Its temp files have claims of their own with the same value.
    path: PathBuf,
}

impl Claims {
    /// Claims `path`, and the paths of its temp files, for the file at `url`. Creates the parent folder. Returns
    /// `false` when the same URL with the same checksums has claimed it already: the file is fetched once.
    ///
    /// # Errors
    /// `InvalidInput` when another file of this run has claimed one of the paths; any error of the file system.
    pub(super) fn claim(&self, path: &Path, url: &Url, checksums: &[Digest]) -> Result<bool> {
        let path = canonical_path(path)?;
        let claim = Claim { url: url.clone(), checksums: checksums.to_owned(), path: path.clone() };
        let mut claims = self.0.lock();
        if claims.get(&path) == Some(&claim) {
            return Ok(false);
        }
        let names: Vec<_> = std::iter::once(path.clone()).chain(partial_paths(&path)).collect();
        if let Some((name, other)) = names.iter().find_map(|name| claims.get_key_value(name)) {
            let (name, other) = (name.display(), display_url(&other.url));
            let text = format!("{}: {name} is the target of {other} in this run", display_url(url));
            return Err(Error::new(Kind::InvalidInput, text)
                .hint(hint!["choose another name: with ", Setting::ItemName]));
        }
        claims.extend(names.into_iter().map(|name| (name, claim.clone())));
        Ok(true)
    }
}

/// The path with its parent folder made canonical, so that each file has exactly one path.
fn canonical_path(path: &Path) -> Result<PathBuf> {
    let io_error = |e| Error::io(format!("cannot write {}", path.display()), e);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(io_error)?;
    let dir = dir.canonicalize().map_err(io_error)?;
    Ok(path.file_name().map_or(dir.clone(), |name| dir.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_claimed_by_one_url_only() {
        let dir = tempfile::tempdir().unwrap();
        let claims = Claims::default();
        let claim = |name: &str, url: &str| {
            claims.claim(&dir.path().join(name), &url.parse().unwrap(), &[])
        };
        assert!(claim("a.bin", "http://x/a.bin").unwrap());
        assert!(!claim("./a.bin", "http://x/a.bin").unwrap(), "the same file");
        let other = claim("a.bin", "http://y/a.bin").unwrap_err();
        assert_eq!(other.kind(), Kind::InvalidInput);
        assert!(other.report().contains("x/a.bin"), "{}", other.report());
        assert!(
            claim("a.bin.part", "http://x/a.bin.part").is_err(),
            "it is the temp file of a.bin"
        );
        assert!(claim("sub/a.bin", "http://y/a.bin").unwrap());
    }
}
