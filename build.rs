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
    #[cfg(feature = "grpc")]
    compile_protos()?;
    Ok(())
}

/// Compiles the messages and services of the gRPC API, without protoc.
#[cfg(feature = "grpc")]
fn compile_protos() -> anyhow::Result<()> {
    use anyhow::Context as _;
    use protox::prost::Message as _;

    println!("cargo::rerun-if-changed=proto");
    let files = ["error", "download", "progress", "service"];
    let files = files.map(|name| format!("proto/bae/v1/{name}.proto"));
    let mut compiler = protox::Compiler::new(["proto"])?;
    // With the comments: they are the docs of the code, and reflection shows them.
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    let descriptors = compiler.file_descriptor_set();
    let out = env::var("OUT_DIR")?;
    let path = Path::new(&out).join("bae.v1.descriptors");
    fs::write(&path, descriptors.encode_to_vec()).context("descriptors of the gRPC API")?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .compile_fds(descriptors)
        .context("code of the gRPC API")
}
