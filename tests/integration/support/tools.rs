//! Programs without a distribution package. `scripts/setup` installs each into its own directory of the cache.

use std::path::{Path, PathBuf};

/// The cache directory, the same as in `scripts/common.sh`.
pub(crate) fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(Path::new(&home).join(".cache"))
    });
    cache.unwrap_or_default().join("bae")
}

/// The path of the program `name` in `tools/FOLDER`, or in PATH. When it is missing, the test fails and names the
/// group of `scripts/setup` that installs it.
pub(crate) fn tool(folder: &str, name: &str, group: &str) -> PathBuf {
    let installed = cache().join("tools").join(folder).join("bin").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join(name));
    let found = std::iter::once(installed).chain(in_path).find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: run `scripts/setup {group}`"))
}
