//! S3 storage on real servers: the backends' conformance suite, uploads that resume in the next run, and a whole
//! import.

use std::{sync::Arc, time::Duration};

use bae::{
    Kind,
    backends::{
        InMemoryState, Key, Payload, Retrying, S3Backend, S3Settings, StorageBackend, UploadLayout,
        conformance, list_all,
    },
};
use bytes::Bytes;

use crate::support::{
    LONG, MIB, OVERHEAD,
    bae::Bae,
    peers::{LibtorrentPeer, Release},
    process::{bytes_written, peak_memory},
    s3_server::{S3Server, runtime},
    torrents::Recipe,
};

async fn open(server: &S3Server, bucket: &str, prefix: &str) -> S3Backend {
    open_with_state(server, bucket, prefix, &InMemoryState::default()).await
}

async fn open_with_state(
    server: &S3Server,
    bucket: &str,
    prefix: &str,
    state: &InMemoryState,
) -> S3Backend {
    S3Backend::open(server.settings(bucket, prefix), Arc::new(state.clone())).await.unwrap()
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn payload(len: u64, byte: u8) -> Payload {
    (0..len.div_ceil(16 << 10))
        .map(|n| Bytes::from(vec![byte; (len - n * (16 << 10)).min(16 << 10) as usize]))
        .collect()
}

/// All checks. Servers that lack a feature run only some of them.
fn assert_conforms(server: &S3Server) {
    let bucket = check_without_resume(server);
    runtime().block_on(check_resume(server, &bucket));
}

fn check_without_resume(server: &S3Server) -> String {
    let bucket = server.bucket("contract");
    runtime().block_on(async {
        let backend = open(server, &bucket, "a folder+/b").await;
        conformance::check(&backend).await;
        let leftovers = list_all(&backend, "").await.unwrap();
        assert!(leftovers.is_empty(), "the suite left objects: {leftovers:?}");
        check_with_retries(server, &bucket).await;
    });
    bucket
}

async fn check_with_retries(server: &S3Server, bucket: &str) {
    conformance::check(&Retrying::new(open(server, bucket, "").await)).await;
    check_prefixes(server, bucket).await;
}

async fn check_prefixes(server: &S3Server, bucket: &str) {
    let (one, two) = (open(server, bucket, "one").await, open(server, bucket, "one/two").await);
    two.put(&key("x"), payload(3, 7)).await.unwrap();
    assert_eq!(one.head(&key("two/x")).await.unwrap(), Some(3));
    assert_eq!(one.head(&key("x")).await.unwrap(), None);
    assert!(list_all(&open(server, bucket, "on").await, "").await.unwrap().is_empty());
    let listed = list_all(&one, "").await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    one.delete(&key("two/x")).await.unwrap();
}

async fn check_resume(server: &S3Server, bucket: &str) {
    let (state, part) = (InMemoryState::default(), 5 * MIB);
    let shape = UploadLayout { len: 3 * part + 9, part_len: part };
    let object = key("resumes/in the next run.bin");
    for run in 0..2 {
        let upload = open_with_state(server, bucket, "p", &state).await;
        let upload = upload.begin_upload(&object, shape).await.unwrap();
        assert_eq!(upload.stored_parts(), &[3, 1][..run], "run {run}");
        upload.put_part([3, 1][run], payload([9, part][run], run as u8)).await.unwrap();
    }
    let backend = open_with_state(server, bucket, "p", &state).await;
    let leftovers = backend.list_uploads("resumes").await.unwrap();
    assert_eq!(leftovers.len(), 1, "{leftovers:?}");
    let upload = backend.begin_upload(&object, shape).await.unwrap();
    assert_eq!(upload.stored_parts(), [1, 3]);
    let (a, b) =
        tokio::join!(upload.put_part(0, payload(part, 5)), upload.put_part(2, payload(part, 6)));
    a.and(b).unwrap();
    upload.finish().await.unwrap();
    // A second finish, as after a lost answer.
    upload.finish().await.unwrap();
    for (at, byte) in [(0, 5), (part, 1), (2 * part, 6), (3 * part, 0)] {
        let end = (at + part).min(shape.len);
        let got = backend.get(&object, at..end).await.unwrap();
        assert!(got.iter().all(|b| *b == byte) && got.len() as u64 == end - at, "at {at}");
    }
    assert!(backend.list_uploads("").await.unwrap().is_empty());
    // A different shape starts a new upload and abandons the first.
    let dropped = backend.begin_upload(&object, shape).await.unwrap();
    dropped.put_part(0, payload(part, 5)).await.unwrap();
    let other =
        backend.begin_upload(&object, UploadLayout { len: part, part_len: part }).await.unwrap();
    assert!(backend.list_uploads("").await.unwrap().is_empty());
    assert!(other.stored_parts().is_empty());
    let expired = dropped.put_part(1, payload(part, 5)).await.unwrap_err();
    assert_eq!(expired.kind(), Kind::SessionExpired, "{}", expired.report());
    backend.delete(&object).await.unwrap();
}

#[test]
fn seaweedfs_passes_the_conformance_suite() {
    assert_conforms(S3Server::seaweed());
}

#[test]
fn s3s_passes_the_conformance_suite() {
    // s3s-fs lists parts without ETags, so uploads start anew there.
    check_without_resume(&S3Server::s3s());
}

#[test]
#[ignore = "Garage takes long to install: scripts/test --all"]
fn garage_passes_the_conformance_suite() {
    assert_conforms(&S3Server::garage());
}

#[test]
#[ignore = "Ceph takes long to install: scripts/test --all"]
fn ceph_passes_the_conformance_suite() {
    assert_conforms(&S3Server::ceph());
}

#[test]
#[ignore = "moto comes with the servers that take long to install: scripts/test --all"]
fn moto_passes_the_conformance_suite() {
    // moto's list of parts has a different root element, so uploads start anew there. When one key is put several
    // times at once, moto sometimes answers 500, which is temporary.
    let server = S3Server::moto();
    runtime().block_on(check_with_retries(&server, &server.bucket("contract")));
}

#[test]
fn a_listing_of_many_pages_has_every_object_once() {
    let server = S3Server::seaweed();
    runtime().block_on(async {
        let backend = Arc::new(open(server, &server.bucket("pages"), "p").await);
        let mut puts = tokio::task::JoinSet::new();
        for n in 0..1203 {
            let backend = Arc::clone(&backend);
            puts.spawn(async move { backend.put(&key(&format!("{n:04}")), payload(1, 1)).await });
            if n % 16 == 15 {
                while let Some(done) = puts.join_next().await {
                    done.unwrap().unwrap();
                }
            }
        }
        while let Some(done) = puts.join_next().await {
            done.unwrap().unwrap();
        }
        let first = backend.list("", None).await.unwrap();
        assert!(first.next.is_some() && first.objects.len() < 1203);
        let all = list_all(&*backend, "").await.unwrap();
        let mut names: Vec<_> = all.iter().map(|o| o.key.to_string()).collect();
        names.sort();
        names.dedup();
        assert_eq!((all.len(), names.len()), (1203, 1203));
    });
}

#[test]
fn a_missing_bucket_and_wrong_keys_are_reported() {
    let server = S3Server::seaweed();
    let settings = server.settings(&server.bucket("mistakes"), "");
    let list = |settings| {
        runtime().block_on(async {
            let backend = S3Backend::open(settings, Arc::new(InMemoryState::default())).await?;
            list_all(&backend, "").await
        })
    };
    let missing = S3Settings { bucket: "missing".into(), ..settings.clone() };
    let missing = list(missing).unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound, "{}", missing.report());
    assert!(missing.hint_text().unwrap().contains("bucket"), "{missing:?}");
    for (id, secret) in [("unknown", "x"), (&server.access_key, "wrong")] {
        let (access_key_id, secret_access_key) = (Some(id.into()), Some(secret.into()));
        let wrong = S3Settings { access_key_id, secret_access_key, ..settings.clone() };
        let wrong = list(wrong).unwrap_err();
        assert_eq!(wrong.kind(), Kind::Unauthenticated, "{}", wrong.report());
    }
}

#[test]
fn a_presigned_url_works_without_keys() {
    let server = S3Server::seaweed();
    runtime().block_on(async {
        let backend = open(server, &server.bucket("links"), "p q").await;
        let object = key("Björk/01 - Jóga (live) [x] a+b.flac");
        backend.put(&object, payload(100, 9)).await.unwrap();
        let link = backend.url(&object, Duration::from_secs(60)).await.unwrap();
        let got = reqwest::get(link).await.unwrap();
        assert_eq!(got.status(), 200);
        assert_eq!(got.bytes().await.unwrap(), vec![9; 100]);
    });
}

/// Whether a directory is in a tmpfs, as `/tmp` is on some systems.
fn is_in_memory(dir: &std::path::Path) -> bool {
    const TMPFS: i64 = 0x0102_1994;
    rustix::fs::statfs(dir).unwrap().f_type == TMPFS
}

#[test]
fn an_import_into_a_bucket_writes_no_payload_to_disk() {
    let server = S3Server::seaweed();
    let bucket = server.bucket("import");
    let files = (0..12).map(|i| (format!("disc {}/Jóga {i:02} + x.flac", i % 2), 5 * MIB + i));
    let torrent = Recipe::folder("Straight in", files.collect()).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new().with_storage_url(&server.storage_url(&bucket, "my music"), server.env());
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--memory", "32MiB"]);
    let mut running = bae.start(args);
    let (mut disk_bytes, mut peak) = (None, 0);
    let done = loop {
        let event = running.next_event();
        disk_bytes = bytes_written(running.0.id()).or(disk_bytes);
        peak = peak.max(peak_memory(running.0.id()).unwrap_or(0));
        if event["event"] == "imported" {
            break event;
        }
    };
    running.wait(LONG).expect(0);
    let minimum = if is_in_memory(&bae.data_dir()) { 0 } else { 1 };
    let disk_bytes = disk_bytes.expect("the kernel counts what is written");
    assert!(
        (minimum..8 * MIB).contains(&disk_bytes),
        "{disk_bytes} bytes were written to the disk"
    );
    // Payloads are sent without a copy. Copies would exceed the limit.
    assert!(peak <= 32 * MIB + OVERHEAD, "{peak} bytes were resident");
    let id = done["id"].as_str().unwrap();
    let stored: u64 = server.objects(&bucket).iter().map(|(_, len)| len).sum();
    assert!((torrent.bytes..torrent.bytes + MIB).contains(&stored), "{stored} bytes are stored");
    bae.assert_verified(id);
    bae.assert_exact(id, &torrent);
    assert!(!bae.storage_dir().exists(), "objects were stored locally");
}
