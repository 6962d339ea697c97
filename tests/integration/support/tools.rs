//! Programs that no package brings: `scripts/setup` installs them into folders of their own in the cache.

use std::path::{Path, PathBuf};

/// Where `scripts/common.sh` has its cache.
pub(crate) fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(Path::new(&home).join(".cache"))
    });
    cache.unwrap_or_default().join("bae")
}

/// The program `name` of the folder `tools/FOLDER`, or of PATH. Fails the test when there is none, naming the group of
/// `scripts/setup` that brings it.
pub(crate) fn tool(folder: &str, name: &str, group: &str) -> PathBuf {
    let ours = cache().join("tools").join(folder).join("bin").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let theirs = std::env::split_paths(&path).map(|dir| dir.join(name));
    let found = std::iter::once(ours).chain(theirs).find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: run `scripts/setup {group}`"))
}
