//! Compiles the C++ half of the bridge with the defines that the system's libtorrent was built with.

use std::{env, fmt::Write, fs, path::Path};

const UNITS: &[&str] = &[
    "alerts",
    "bae_disk_interface",
    "buffers",
    "compat",
    "errors",
    "jobs",
    "plugins",
    "process",
    "session",
    "torrent",
];

fn main() -> anyhow::Result<()> {
    let include = env::var("DEP_TORRENT_RASTERBAR_INCLUDE").unwrap_or_default();
    let defines = env::var("DEP_TORRENT_RASTERBAR_DEFINES")?;

    let mut build = cxx_build::bridge("src/torrents/disk/ffi.rs");
    build.std("c++17").flag_if_supported("-Wno-deprecated-declarations");
    // The compiler searches /usr/include anyway; naming it would change the order of the system's own headers.
    for dir in include.split(':').filter(|d| !d.is_empty() && *d != "/usr/include") {
        build.include(dir);
    }
    for define in defines.split(';').filter(|d| !d.is_empty()) {
        let (name, value) = define.split_once('=').map_or((define, None), |(n, v)| (n, Some(v)));
        build.define(name, value);
    }
    // One translation unit: libtorrent's headers take far longer to compile than all of our code.
    let mut includes = String::new();
    for unit in UNITS {
        writeln!(includes, "#include \"bae/cpp/{unit}.cpp\"")?;
    }
    let bridge = Path::new(&env::var("OUT_DIR")?).join("bridge.cpp");
    fs::write(&bridge, includes)?;
    build.file(bridge);
    build.try_compile("bae-bridge")?;
    // Saves one megabyte of relocations. Every release with such a libtorrent has a C library that can read the result.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    // Profiles that strip do not do so for a package with settings of its own, which ours has.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }
    println!("cargo::rerun-if-changed=cpp");
    Ok(())
}
