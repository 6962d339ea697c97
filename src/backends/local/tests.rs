//! Tests of the local backend, and of unusable folders.

use std::fs::{self, File};

use super::{
    files::{STALE_AGE, write_all_buffers},
    *,
};
use crate::backends::{conformance, list_all};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

#[tokio::test]
async fn passes_the_conformance_suite() {
    let dir = tempfile::tempdir().unwrap();
    let backend = LocalBackend::open(dir.path()).unwrap();
    conformance::check(&backend).await;
    assert!(backend.free_space().await.unwrap().is_some_and(|free| free > 0));
    let entries: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert_eq!(entries.len(), 1, "only .tmp is left: {entries:?}");
    assert_eq!(fs::read_dir(dir.path().join(".tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_dropped_put_leaves_the_object_whole_or_absent() {
    let dir = tempfile::tempdir().unwrap();
    LocalBackend::create_folder(dir.path()).unwrap();
    let backend = LocalBackend::open(dir.path()).unwrap();
    let payload = (0..512).map(|_| Bytes::from(vec![7; 16 << 10])).collect::<Payload>();
    let temp_files = || fs::read_dir(dir.path().join(".tmp")).unwrap().flatten();
    let written =
        || -> u64 { temp_files().flat_map(|file| file.metadata()).map(|file| file.len()).sum() };
    for mib in 0..8u64 {
        let put_key = key(&format!("drop/{mib}"));
        let put = backend.put(&put_key, payload.clone());
        let until_written = async {
            while written() < mib << 20 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            done = put => done.unwrap(),
            () = until_written => {}
        }
        // The file work of a dropped put continues for a moment.
        while temp_files().count() > 0 {
            tokio::task::yield_now().await;
        }
    }
    for object in list_all(&backend, "drop/").await.unwrap() {
        assert_eq!(object.len, payload.len());
    }
}

#[tokio::test]
async fn opening_removes_only_old_temp_files() {
    let dir = tempfile::tempdir().unwrap();
    LocalBackend::create_folder(dir.path()).unwrap();
    let (old, new) = (dir.path().join(".tmp/old"), dir.path().join(".tmp/new"));
    File::create(&new).unwrap();
    let long_ago = std::time::SystemTime::now() - 2 * STALE_AGE;
    File::create(&old).unwrap().set_modified(long_ago).unwrap();
    LocalBackend::open(dir.path()).unwrap();
    assert!(new.exists() && !old.exists());
}

#[tokio::test]
async fn a_full_disk_error_has_a_hint() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let backend = LocalBackend::open(dir.path()).unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(full).unwrap();
    let e = write_all_buffers(&mut file, &[Bytes::from_static(b"x")]).unwrap_err();
    let error = backend.files.error("put", &key("k"), e);
    assert_eq!(error.kind(), Kind::NoSpace);
    assert!(error.hint_text().is_some());
}

fn body(text: &'static str) -> Payload {
    Payload::from_iter([Bytes::from_static(text.as_bytes())])
}

#[tokio::test]
async fn a_missing_folder_is_empty_and_is_not_created() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("not/there");
    let backend = LocalBackend::open(&root).unwrap();
    assert!(list_all(&backend, "").await.unwrap().is_empty());
    assert_eq!(backend.head(&key("k")).await.unwrap(), None);
    backend.delete(&key("k")).await.unwrap();
    let refused = backend.put(&key("k"), body("x")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::NotFound, "{}", refused.report());
    assert!(!dir.path().join("not").exists());
    LocalBackend::create_folder(&root).unwrap();
    backend.put(&key("k"), body("x")).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_disappears_is_not_created_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("disk/bae");
    LocalBackend::create_folder(&root).unwrap();
    let backend = LocalBackend::open(&root).unwrap();
    backend.put(&key("a/b"), body("x")).await.unwrap();
    for left in ["disk", "disk/bae"] {
        // An unmounted disk leaves nothing, or the empty folder of its mount point.
        fs::remove_dir_all(dir.path().join("disk")).unwrap();
        fs::create_dir_all(dir.path().join(left)).unwrap();
        let put = backend.put(&key("a/c"), body("x")).await.unwrap_err();
        assert_eq!(put.kind(), Kind::NotFound, "{}", put.report());
        assert!(put.hint_text().is_some_and(|hint| hint.contains("mounted")));
        let begin = backend
            .begin_upload(&key("a/d"), UploadLayout { len: 1, part_len: 1 })
            .await
            .unwrap_err();
        assert_eq!(begin.kind(), Kind::NotFound, "{}", begin.report());
        assert_eq!(fs::read_dir(dir.path().join(left)).unwrap().count(), 0, "{left}");
    }
    fs::remove_dir(&root).unwrap();
    for error in [
        backend.get(&key("a/b"), 0..1).await.unwrap_err(),
        backend.head(&key("a/b")).await.unwrap_err(),
        backend.list("", None).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::NotFound, "{}", error.report());
        assert!(error.report().contains("no longer exists"), "{}", error.report());
    }
}

#[tokio::test]
async fn an_object_is_never_overwritten_by_another() {
    let dir = tempfile::tempdir().unwrap();
    let backend = LocalBackend::open(dir.path()).unwrap();
    backend.put(&key("a/k"), body("one")).await.unwrap();
    backend.put(&key("a/k"), body("one")).await.unwrap();
    for other in ["two", "longer"] {
        let refused = backend.put(&key("a/k"), body(other)).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::AlreadyExists, "{}", refused.report());
    }
    assert_eq!(&backend.get(&key("a/k"), 0..3).await.unwrap()[..], b"one");
    assert_eq!(fs::read_dir(dir.path().join(".tmp")).unwrap().count(), 0);
}

#[test]
fn a_path_that_is_not_a_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&file, "x").unwrap();
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    for (path, message) in [
        (&file, "is a file, not a folder"),
        (&link, "is a dangling symlink"),
        (&file.join("below"), "is a file, not a folder"),
    ] {
        for refused in [LocalBackend::open(path).map(drop), LocalBackend::create_folder(path)] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.kind(), Kind::InvalidInput, "{}", refused.report());
            assert!(refused.report().contains(message), "{}", refused.report());
        }
    }
}

/// Opening a FIFO for reading normally blocks until a writer opens it, which may never happen.
#[tokio::test]
async fn a_pipe_or_a_folder_is_not_an_object() {
    let dir = tempfile::tempdir().unwrap();
    LocalBackend::create_folder(dir.path()).unwrap();
    let backend = LocalBackend::open(dir.path()).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    for name in ["pipe", "folder"] {
        let name = key(name);
        assert_eq!(backend.head(&name).await.unwrap(), None);
        assert_eq!(backend.get(&name, 0..0).await.unwrap_err().kind(), Kind::NotFound);
        let put = backend.put(&name, body("new")).await;
        assert_eq!(put.unwrap_err().kind(), Kind::AlreadyExists);
    }
}
