//! Which libtorrent features are used with which library version: the one table.
//!
//! Version 2.0.8 (Debian 12) has memory-safety bugs that a peer or a server can trigger, all in features that can be
//! left out. A feature is on from the version that fixed it. See `docs/decisions/0005-features-by-library-version.md`.

use crate::{
    error::{Error, Kind, Result},
    torrents::disk::ffi,
};

/// libtorrent features that are not safe in every version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Bans peers that sent bad blocks. Dangling peer pointer before 2.0.13.
    SmartBan,
    /// uTP. Use after free on a failed shutdown before 2.0.14, corrupt payload on close before 2.0.11.
    Utp,
}

const SAFE_SINCE: [(Feature, u32); 2] = [(Feature::SmartBan, 20_013), (Feature::Utp, 20_014)];

/// Whether `feature` is safe in the library version that bae was built for.
pub fn is_safe(feature: Feature) -> bool {
    is_safe_in(feature, ffi::header_version())
}

fn is_safe_in(feature: Feature, version: u32) -> bool {
    SAFE_SINCE.iter().any(|&(f, since)| f == feature && version >= since)
}

/// Checks that the library has exactly the version of the headers, because bae uses the headers' structures directly.
///
/// # Errors
/// `Unsupported` naming both versions.
pub fn check_library() -> Result<()> {
    let (built, found) = (ffi::header_version_text(), ffi::library_version());
    if built == found {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unsupported,
        format!("libtorrent {found} is installed, but this program was built for {built}"),
    )
    .hint("build bae again on this machine, or install the libtorrent-rasterbar it was built for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_has_the_version_of_the_headers() {
        check_library().unwrap();
    }

    #[test]
    fn unsafe_features_are_off_with_the_library_of_debian_12() {
        for feature in [Feature::SmartBan, Feature::Utp] {
            assert!(!is_safe_in(feature, 20_008));
            assert!(is_safe_in(feature, 20_014));
        }
    }
}
