//! Finds libtorrent-rasterbar: `LIBTORRENT_PREFIX` (a folder with `include/` and `lib/`) first, then pkg-config.

use std::{env, path::Path, process::ExitCode};

const MIN: &str = "2.0.8";
const BELOW: &str = "2.1";

fn main() -> ExitCode {
    match find() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!(
                "cargo::error=libtorrent-rasterbar >= {MIN}, < {BELOW} is needed and was not found: {why}"
            );
            println!(
                "cargo::error=install it with `sudo apt-get install libtorrent-rasterbar-dev` (or run scripts/setup), \
                 or set LIBTORRENT_PREFIX to the folder it was installed to"
            );
            ExitCode::FAILURE
        }
    }
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
        .range_version(MIN..BELOW)
        .probe("libtorrent-rasterbar")
        .map_err(|e| e.to_string())?;

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
