//! Finds libtorrent-rasterbar: `LIBTORRENT_PREFIX` (a folder with `include/` and `lib/`) first, then pkg-config.

use std::{env, path::Path, process::ExitCode};

/// Supported versions, from the first to below the second: bae is written for their disk interface and internals.
const SUPPORTED: [(u32, u32, u32); 2] = [(2, 0, 8), (2, 1, 0)];

fn main() -> ExitCode {
    match find() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("cargo::error={why}");
            println!(
                "cargo::error=bae needs libtorrent-rasterbar 2.0.8 or a later 2.0: install it with \
                 `sudo apt-get install libtorrent-rasterbar-dev` (or run scripts/setup), \
                 or set LIBTORRENT_PREFIX to the folder it was installed to"
            );
            ExitCode::FAILURE
        }
    }
}

/// `2.0.11` as three numbers; the rest of the version is ignored.
fn parse_version(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?, parts.next().unwrap_or(Ok(0)).ok()?))
}

fn find() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed=LIBTORRENT_PREFIX");
    if let Ok(prefix) = env::var("LIBTORRENT_PREFIX") {
        let pc = Path::new(&prefix).join("lib/pkgconfig");
        if !pc.join("libtorrent-rasterbar.pc").is_file() {
            return Err(format!(
                "LIBTORRENT_PREFIX={prefix} has no lib/pkgconfig/libtorrent-rasterbar.pc"
            ));
        }
        // SAFETY: a build script is single-threaded here; pkg-config reads the variable in a child.
        unsafe { env::set_var("PKG_CONFIG_PATH", pc) };
    }
    let found = pkg_config::Config::new()
        .probe("libtorrent-rasterbar")
        .map_err(|e| format!("libtorrent-rasterbar not found: {e}"))?;
    let [first, end] = SUPPORTED;
    if !parse_version(&found.version).is_some_and(|version| first <= version && version < end) {
        return Err(format!(
            "the installed libtorrent-rasterbar {} is not supported",
            found.version
        ));
    }

    let include: Vec<_> = found.include_paths.iter().map(|p| p.display().to_string()).collect();
    let defines: Vec<_> = found
        .defines
        .iter()
        .map(|(name, value)| value.as_ref().map_or(name.clone(), |v| format!("{name}={v}")))
        .collect();
    println!("cargo::metadata=INCLUDE={}", include.join(":"));
    println!("cargo::metadata=DEFINES={}", defines.join(";"));
    println!("cargo::metadata=VERSION={}", found.version);
    Ok(())
}
