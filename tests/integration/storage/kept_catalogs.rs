//! Catalogs and buckets of earlier versions of bae: they are kept in `tests/integration/storage/kept`, and every later version
//! opens them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use rusqlite::Connection;

use crate::support::bae::Bae;

/// The version tag of the adopted file in the catalog: its modification time.
const ADOPTED_AT: Duration = Duration::from_nanos(1_796_083_966_967_584_410);

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/storage/kept/version_10")
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// A home whose storage `kept` is a copy of the bucket.
fn bae_with_bucket() -> Bae {
    let bae = Bae::new();
    copy_dir(&kept().join("bucket"), bae.storage_dir());
    let own = fs::File::options().write(true).open(bae.storage_dir().join("mine/own.bin")).unwrap();
    own.set_modified(UNIX_EPOCH + ADOPTED_AT).unwrap();
    let path = bae.storage_dir().to_str().unwrap().to_owned();
    let variables =
        [("BAE_STORAGE_KEPT_TYPE", "local".to_owned()), ("BAE_STORAGE_KEPT_PATH", path)];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    bae.with_env(variables.to_vec())
}

/// Every file of the imports is exact.
fn assert_exact(bae: &Bae) {
    for import in ["An Album", "page.bin", "own.bin"] {
        bae.run(["verify", import]).expect(0);
    }
    let out = bae.home().join("out");
    bae.run(["export", "An Album", out.to_str().unwrap()]).expect(0);
    for name in ["01.flac", "02.flac", "cover.jpg"] {
        let exported = fs::read(out.join("An Album").join(name)).unwrap();
        assert!(exported == fs::read(kept().join("album").join(name)).unwrap(), "{name} differs");
    }
    for (import, file) in [("page.bin", "page.bin"), ("own.bin", "mine/own.bin")] {
        assert!(
            bae.stdout_of(["cat", import]) == fs::read(kept().join("bucket").join(file)).unwrap()
        );
    }
}

#[test]
fn a_catalog_of_version_10_is_migrated_and_keeps_its_imports() {
    let bae = bae_with_bucket();
    fs::create_dir_all(bae.data_dir()).unwrap();
    let catalog = Connection::open(bae.data_dir().join("catalog.db")).unwrap();
    // The dump fills tables before it creates those that they refer to.
    catalog.pragma_update(None, "foreign_keys", false).unwrap();
    let sql = fs::read_to_string(kept().join("catalog.sql")).unwrap();
    catalog.execute_batch(&sql).unwrap();
    drop(catalog);
    // A command that writes migrates. Nothing in the bucket is a leftover.
    let collected = bae.run(["gc", "--yes", "--json"]).expect(0).json();
    assert_eq!(collected.last().unwrap()["objects"], 0, "{collected:?}");
    let imports = bae.run(["ls", "--json"]).expect(0).json();
    let ids: Vec<_> = imports.iter().map(|import| import["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["21707af0", "11fbab92", "8be302e1"]);
    assert!(imports.iter().all(|import| import["state"] == "imported"), "{imports:?}");
    let info = bae.run(["info", "An Album", "--json"]).expect(0).json();
    assert_eq!(info[0]["goal"]["ratio"], 2.0, "{info:?}");
    assert_exact(&bae);
    bae.run(["rm", "page.bin"]).expect(0);
    assert!(!bae.storage_dir().join("page.bin").exists());
    assert!(bae.storage_dir().join("mine/own.bin").exists());
}

#[test]
fn a_bucket_with_manifests_of_version_1_is_attached() {
    let bae = bae_with_bucket();
    let attached = bae.run(["attach", "kept", "--json"]).expect(0);
    assert_eq!(attached.json().iter().filter(|line| line["event"] == "attached").count(), 3);
    assert_exact(&bae);
}
