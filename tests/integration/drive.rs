//! Google Drive, tested with a strict fake server (`support/fake_drive` lists its rules).

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bae::{
    Error, Kind, Result,
    backends::{
        DriveBackend, DriveSettings, Key, MemoryNotes, Notes, Payload, RetryPolicy, Retrying,
        Shape, StorageBackend, Upload, conformance,
        drive::{Credentials, Limits, http_client},
        list_all,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

use crate::support::{
    KIB, MIB, Random,
    bae::{Bae, Ran, Running},
    fake_drive::{self, Act, FakeDrive, REFRESH_TOKEN, SESSION, SESSION_SECRET, TOKEN_SECRET},
    peers::{LibtorrentPeer, Release},
    process::Process,
    torrents::{Fixture, Recipe},
};

/// Limits that delay no request.
fn fast() -> Limits {
    let first_wait = Duration::from_millis(5);
    Limits {
        units_per_minute: 1e12,
        creates_per_second: 1e9,
        create_burst: 1e9,
        first_wait,
        ..Limits::default()
    }
}

fn signed_in(drive: &FakeDrive) -> Credentials {
    Credentials::User {
        client_id: fake_drive::CLIENT_ID.into(),
        client_secret: fake_drive::CLIENT_SECRET.into(),
        refresh_token: REFRESH_TOKEN.into(),
        token_uri: Some(drive.token_uri().parse().unwrap()),
    }
}

fn open_with(
    drive: &FakeDrive,
    folder: Option<&str>,
    credentials: Credentials,
    limits: Limits,
    notes: Arc<dyn Notes>,
) -> DriveBackend {
    let http = http_client().unwrap();
    let tokens = credentials.into_source(&http).unwrap();
    let endpoint = drive.endpoint().parse().unwrap();
    let settings = DriveSettings { folder: folder.map(str::to_owned), endpoint, limits };
    DriveBackend::open(http, settings, tokens, notes)
}

fn open(drive: &FakeDrive, notes: &MemoryNotes) -> DriveBackend {
    open_with(drive, None, signed_in(drive), fast(), Arc::new(notes.clone()))
}

fn retrying<B: StorageBackend>(backend: B) -> Retrying<B> {
    let ms = Duration::from_millis;
    Retrying::with_policy(
        backend,
        RetryPolicy {
            base: ms(2),
            cap: ms(20),
            send_budget: Duration::from_secs(30),
            budget: Duration::from_secs(30),
            resends: 50,
        },
    )
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// The key of chunk `n`.
fn chunk(n: u64) -> Key {
    key(&format!("0123456789abcdef/00000001/{n:08x}"))
}

fn bytes(len: u64, seed: u64) -> Bytes {
    Random(seed).bytes(len).into()
}

/// The bytes in slices of 16 KiB, like the blocks that peers send.
fn payload(bytes: &Bytes) -> Payload {
    (0..bytes.len())
        .step_by(16 << 10)
        .map(|at| bytes.slice(at..bytes.len().min(at + (16 << 10))))
        .collect()
}

async fn assert_holds(backend: &dyn StorageBackend, key: &Key, whole: &Bytes) {
    let got = backend.get(key, 0..whole.len() as u64).await;
    let got = got.unwrap_or_else(|e| panic!("get {key}: {}", e.report()));
    assert!(got == whole, "{key} has other bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let drive = FakeDrive::start();
    conformance::check(&open(&drive, &MemoryNotes::default())).await;
    assert!(drive.files().is_empty(), "{:?}", drive.files().len());
    assert_eq!(drive.sessions(), 0, "sessions were left");
    drive.counts(|counts| {
        assert!(counts.refused.keys().all(|reason| reason == "notFound"), "{:?}", counts.refused)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_in_a_shared_drive() {
    let drive = FakeDrive::start();
    let folder = drive.make_folder("Music of all", true);
    let notes = Arc::new(MemoryNotes::default());
    let backend = open_with(&drive, Some(&folder), signed_in(&drive), fast(), notes);
    conformance::check(&backend).await;
    assert_eq!(backend.free_room().await.unwrap(), None, "a shared drive has no quota of a user");
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_when_nothing_can_be_noted() {
    let drive = FakeDrive::start();
    let notes = Arc::new(ReadOnly::default());
    let backend = open_with(&drive, None, signed_in(&drive), fast(), notes);
    let whole = bytes(70_000, 1);
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    assert_holds(&backend, &chunk(1), &whole).await;
    let other = open_with(&drive, None, signed_in(&drive), fast(), Arc::new(ReadOnly::default()));
    assert_holds(&other, &chunk(1), &whole).await;
}

/// Notes that cannot be written, as in a command that opens the catalog read-only.
#[derive(Debug, Default)]
struct ReadOnly(MemoryNotes);

#[async_trait]
impl Notes for ReadOnly {
    fn get(&self, name: &str) -> Result<Option<String>> {
        self.0.get(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        self.0.list(prefix)
    }

    async fn set(&self, _: &str, _: Option<String>) -> Result<()> {
        Err(Error::new(Kind::PermissionDenied, "open for reading only"))
    }
}

/// A put, the operations on its object, and a delete. Each of these requests is made to fail in turn.
async fn a_life(drive: &FakeDrive) {
    let backend = retrying(open(drive, &MemoryNotes::default()));
    let whole = bytes(700 * KIB, 3);
    backend.put(&chunk(7), payload(&whole)).await.unwrap_or_else(|e| panic!("{}", e.report()));
    assert_eq!(drive.files().len(), 1, "one put, one file");
    assert_holds(&backend, &chunk(7), &whole).await;
    assert_eq!(backend.head(&chunk(7)).await.unwrap(), Some(700 * KIB));
    assert_eq!(list_all(&backend, "0123").await.unwrap().len(), 1);
    backend.delete(&chunk(7)).await.unwrap();
    assert_eq!(drive.files().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_may_fail_in_every_way() {
    let acts = [
        Act::Refuse(503, "backendError", None),
        Act::Refuse(403, "userRateLimitExceeded", None),
        Act::Refuse(500, "internalError", None),
        Act::Reset,
        Act::LoseAnswer,
        Act::CutAnswer(7),
        Act::Stall(Duration::from_millis(50)),
        Act::ExpireTokens,
    ];
    for act in acts {
        for skip in 0.. {
            let drive = FakeDrive::start();
            drive.fail("", "", skip, 1, act.clone());
            a_life(&drive).await;
            if !drive.all_failed() {
                assert!(skip > 8, "{act:?}: only {skip} requests");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_put_goes_on_where_it_broke_off() {
    let drive = FakeDrive::start();
    drive.fail("PUT", SESSION, 0, 2, Act::CutBody(MIB as usize + 99));
    let backend = open(&drive, &MemoryNotes::default());
    let whole = bytes(5 * MIB + 3, 4);
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    assert_holds(&backend, &chunk(1), &whole).await;
    let received = drive.counts(|counts| counts.received);
    assert!(received < whole.len() as u64 + MIB, "{received} bytes were sent");
    assert_eq!(drive.asked("POST /upload/drive/v3/files"), 1, "one session");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_session_is_begun_again_under_the_same_id() {
    let drive = FakeDrive::start();
    drive.fail("PUT", SESSION, 0, 1, Act::Expire);
    let backend = open(&drive, &MemoryNotes::default());
    let whole = bytes(MIB, 5);
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    assert_holds(&backend, &chunk(1), &whole).await;
    assert_eq!(drive.asked("POST /upload/drive/v3/files"), 2);
    assert_eq!(drive.files().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_inside_a_session_begins_it_again_once() {
    let drive = FakeDrive::start();
    drive.fail("PUT", SESSION, 0, 1, Act::Refuse(400, "badRequest", None));
    let backend = open(&drive, &MemoryNotes::default());
    let whole = bytes(MIB, 6);
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    drive.fail("PUT", SESSION, 0, 2, Act::Refuse(400, "badRequest", None));
    let refused = backend.put(&chunk(2), payload(&whole)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Internal);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_under_an_upload_is_renewed_once_for_all() {
    let drive = FakeDrive::start();
    let backend = open(&drive, &MemoryNotes::default());
    backend.put(&chunk(0), Payload::default()).await.unwrap();
    let before = drive.asked("POST /token");
    drive.fail("PUT", SESSION, 0, 1, Act::ExpireTokens);
    let whole = bytes(MIB, 7);
    let (one, two, three) = (chunk(1), chunk(2), chunk(3));
    let put = |key| backend.put(key, payload(&whole));
    let (a, b, c) = tokio::join!(put(&one), put(&two), put(&three));
    a.and(b).and(c).unwrap();
    assert_eq!(drive.asked("POST /token") - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_token_that_has_ended_is_told_with_what_to_do() {
    let drive = FakeDrive::start();
    let ready = Credentials::Token(drive.token().into());
    let backend = open_with(&drive, None, ready, fast(), Arc::new(MemoryNotes::default()));
    backend.put(&chunk(1), Payload::default()).await.unwrap();
    drive.expire_tokens();
    let refused = backend.put(&chunk(2), Payload::default()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unauthenticated);
    assert!(refused.hint_text().unwrap().contains("bae storage login"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_taken_back_is_told_with_what_to_do() {
    let drive = FakeDrive::start();
    drive.revoke();
    let refused = open(&drive, &MemoryNotes::default()).head(&chunk(1)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unauthenticated);
    let hint = refused.hint_text().unwrap();
    assert!(hint.contains("bae storage login") && hint.contains("7 days"), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_signs_in_with_its_key() {
    use aws_lc_rs::{encoding::AsDer, rsa};
    let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
    let body = STANDARD.encode(der.as_ref());
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).unwrap()).collect();
    let pem =
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
    let key_file = serde_json::json!({
        "type": "service_account",
        "client_email": "bae@project.iam.gserviceaccount.com",
        "private_key": pem,
        "token_uri": "https://oauth2.googleapis.com/token",
    });
    let drive = FakeDrive::start();
    let folder = drive.make_folder("Shared", true);
    let credentials = Credentials::ServiceAccount {
        key: key_file.to_string(),
        token_uri: Some(drive.token_uri().parse().unwrap()),
    };
    let notes = Arc::new(MemoryNotes::default());
    let backend = open_with(&drive, Some(&folder), credentials, fast(), notes);
    let whole = bytes(1000, 8);
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    drive.expire_tokens();
    assert_holds(&backend, &chunk(1), &whole).await;
    assert_eq!(drive.asked("POST /token"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_damaged_is_removed_and_sent_again() {
    let drive = FakeDrive::start();
    drive.fail("PUT", SESSION, 0, 1, Act::Corrupt);
    let backend = open(&drive, &MemoryNotes::default());
    let whole = bytes(MIB, 9);
    let damaged = backend.put(&chunk(1), payload(&whole)).await.unwrap_err();
    assert!(damaged.kind().is_retryable(), "{}", damaged.report());
    assert!(drive.files().is_empty(), "the damaged file is still there");
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    assert_holds(&backend, &chunk(1), &whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_waited_for_by_all() {
    let drive = FakeDrive::start();
    let backend = retrying(open(&drive, &MemoryNotes::default()));
    backend.put(&chunk(0), Payload::default()).await.unwrap();
    drive.fail("POST", "/upload/", 0, 1, Act::Refuse(429, "rateLimitExceeded", Some(2)));
    let start = Instant::now();
    let (one, two) = (chunk(1), chunk(2));
    let put = |key| backend.put(key, Payload::default());
    let (a, b) = tokio::join!(put(&one), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        put(&two).await.map(|()| start.elapsed())
    });
    a.unwrap();
    assert!(b.unwrap() >= Duration::from_millis(1900), "the other did not wait");
    assert!(start.elapsed() >= Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_account_is_told_by_name_and_goes_on_when_there_is_room() {
    let drive = FakeDrive::start();
    drive.rules(|rules| rules.quota = Some(MIB));
    let backend = open(&drive, &MemoryNotes::default());
    let whole = bytes(700 * KIB, 10);
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    assert_eq!(backend.free_room().await.unwrap(), Some(324 * KIB));
    let full = backend.put(&chunk(2), payload(&whole)).await.unwrap_err();
    assert_eq!(full.kind(), Kind::NoSpace);
    assert!(full.hint_text().unwrap().contains("trash"), "{:?}", full.hint_text());
    drive.rules(|rules| rules.quota = Some(2 * MIB));
    backend.put(&chunk(2), payload(&whole)).await.unwrap();
    drive.rules(|rules| rules.quota = None);
    assert_eq!(backend.free_room().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_keep_a_pace_that_is_not_refused() {
    let drive = FakeDrive::start();
    drive.rules(|rules| rules.creates_per_second = Some(12.0));
    let limits = Limits { creates_per_second: 10.0, create_burst: 5.0, ..fast() };
    let notes = Arc::new(MemoryNotes::default());
    let backend = Arc::new(open_with(&drive, None, signed_in(&drive), limits, notes));
    let puts = (0..30).map(|n| {
        let backend = Arc::clone(&backend);
        tokio::spawn(async move { backend.put(&key(&format!("n{n}")), Payload::default()).await })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap().unwrap();
    }
    drive.counts(|counts| {
        assert!(counts.refused.is_empty(), "{:?}", counts.refused);
        let took = counts.creates.last().unwrap().duration_since(counts.creates[0]);
        assert!(took >= Duration::from_millis(2300), "31 creates in {took:?}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_refused_for_long_are_the_limit_of_the_day() {
    let drive = FakeDrive::start();
    let limits = Limits { daily_after: Duration::from_millis(300), ..fast() };
    let notes = Arc::new(MemoryNotes::default());
    let backend = open_with(&drive, None, signed_in(&drive), limits, notes);
    backend.put(&chunk(0), Payload::default()).await.unwrap();
    drive.fail("POST", "/upload/", 0, 100, Act::Refuse(403, "userRateLimitExceeded", None));
    let start = Instant::now();
    let refused = retrying(backend).put(&chunk(1), Payload::default()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::NoSpace, "{}", refused.report());
    assert!(refused.report().contains("750 GB"), "{}", refused.report());
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_notes_are_mended_from_what_the_files_say() {
    let drive = FakeDrive::start();
    let backend = open(&drive, &MemoryNotes::default());
    let long = key(&format!(
        "{}/日本 - it's \"1\".flac",
        ["Ünïcode folder name, quite long"; 20].join("/")
    ));
    let keys = [chunk(1), key("Album/01 - Track.flac"), long];
    let whole = bytes(5000, 11);
    for key in &keys {
        backend.put(key, payload(&whole)).await.unwrap();
    }
    let notes = MemoryNotes::default();
    let fresh = open(&drive, &notes);
    for key in &keys {
        assert_holds(&fresh, key, &whole).await;
    }
    let listing = MemoryNotes::default();
    let mut listed: Vec<_> =
        list_all(&open(&drive, &listing), "").await.unwrap().into_iter().map(|o| o.key).collect();
    listed.sort();
    let mut wanted = keys.to_vec();
    wanted.sort();
    assert_eq!(listed, wanted);
    assert_eq!(listing.list("id:").unwrap().len(), 3);
    // A second put of a key makes no second file.
    open(&drive, &MemoryNotes::default()).put(&keys[1], payload(&whole)).await.unwrap();
    assert_eq!(drive.files().len(), 3);
    for key in &keys {
        open(&drive, &MemoryNotes::default()).delete(key).await.unwrap();
    }
    assert!(drive.files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_sees_names_and_may_change_them() {
    let drive = FakeDrive::start();
    let backend = open(&drive, &MemoryNotes::default());
    let (track, whole) = (key("Album/Disc 1/01 - Track.flac"), bytes(900, 12));
    backend.put(&track, payload(&whole)).await.unwrap();
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    let files = drive.files();
    let paths: Vec<String> = files.iter().map(|file| drive.path(file)).collect();
    assert!(paths.contains(&"My Drive/bae/Album/Disc 1/01 - Track.flac".to_owned()), "{paths:?}");
    assert!(paths.iter().any(|path| path.starts_with("My Drive/bae/chunks/")), "{paths:?}");
    let file = files.iter().find(|file| file.name.starts_with("01")).unwrap();
    drive.meddle(&file.id, |file| {
        Some(fake_drive::File {
            name: "renamed".into(),
            parent: Some("root-of-my-drive".into()),
            ..file
        })
    });
    assert_holds(&open(&drive, &MemoryNotes::default()), &track, &whole).await;
    drive.meddle(&file.id, |file| Some(fake_drive::File { trashed: true, ..file }));
    assert_eq!(backend.head(&track).await.unwrap(), None, "what is in the trash is gone");
    let link = backend.url(&chunk(1), Duration::ZERO).await.unwrap();
    assert!(link.as_str().starts_with("https://drive.google.com/file/d/1"), "{link}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_programs_share_a_folder_and_a_removed_one_is_made_again() {
    let drive = FakeDrive::start();
    let (one, two) = (open(&drive, &MemoryNotes::default()), open(&drive, &MemoryNotes::default()));
    let (a, b) = (key("Album/a"), key("Album/b"));
    one.put(&a, Payload::default()).await.unwrap();
    two.put(&b, Payload::default()).await.unwrap();
    let albums = |drive: &FakeDrive| {
        drive.folders().into_iter().filter(|f| f.name == "Album").collect::<Vec<_>>()
    };
    assert_eq!(albums(&drive).len(), 1);
    drive.meddle(&albums(&drive)[0].id, |_| None);
    one.put(&key("Album/c"), Payload::default()).await.unwrap();
    assert_eq!(albums(&drive).len(), 1);
    drive
        .meddle(&albums(&drive)[0].id, |folder| Some(fake_drive::File { trashed: true, ..folder }));
    let (d, whole) = (key("Album/d"), bytes(10, 1));
    retrying(one).put(&d, payload(&whole)).await.unwrap();
    assert!(drive.files().iter().any(|file| file.name == "d" && !file.trashed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_seen_is_told_with_the_reason() {
    let drive = FakeDrive::start();
    let notes = Arc::new(MemoryNotes::default());
    let backend = open_with(&drive, Some("elsewhere"), signed_in(&drive), fast(), notes);
    let missing = backend.put(&chunk(1), Payload::default()).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
    assert!(missing.hint_text().unwrap().contains("drive.file"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_breaks_off_goes_on_from_there() {
    let drive = FakeDrive::start();
    let backend = open(&drive, &MemoryNotes::default());
    let whole = bytes(MIB, 13);
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    drive.fail("GET", "alt=media", 0, 2, Act::CutAnswer(300_000));
    assert_holds(&backend, &chunk(1), &whole).await;
    drive.fail("GET", "alt=media", 0, 9, Act::CutAnswer(1000));
    let broken = backend.get(&chunk(1), 0..MIB).await.unwrap_err();
    assert!(broken.kind().is_retryable(), "{}", broken.report());
}

/// The part length of whole files: the smallest that Drive accepts before the last part.
const PART: u64 = 256 * KIB;

async fn write(upload: &dyn Upload, shape: Shape, whole: &Bytes, part: u64) -> Result<()> {
    let range = shape.part(part);
    let (start, end) = (range.start as usize, range.end as usize);
    upload.write(part, payload(&whole.slice(start..end))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_file_goes_on_in_the_next_run_from_the_byte_that_arrived() {
    let drive = FakeDrive::start();
    let notes = MemoryNotes::default();
    let shape = Shape { len: 9 * PART + 5, part_len: 3 * PART };
    let (file, whole) = (key("Album/whole.flac"), bytes(shape.len, 14));
    let first = open(&drive, &notes);
    let upload = first.begin(&file, shape).await.unwrap();
    write(&*upload, shape, &whole, 0).await.unwrap();
    // A third of the second part arrives, then every request is refused. Then the process ends.
    drive.fail("PUT", SESSION, 0, 1, Act::CutBody(PART as usize + 77));
    drive.fail("PUT", SESSION, 0, 5, Act::Refuse(503, "backendError", None));
    write(&*upload, shape, &whole, 1).await.unwrap_err();
    drop((upload, first));
    let before = drive.counts(|counts| counts.received);
    let second = open(&drive, &notes);
    assert_eq!(second.unfinished("Album").await.unwrap().len(), 1);
    let upload = second.begin(&file, shape).await.unwrap();
    assert_eq!(upload.done(), [0]);
    for part in 1..shape.parts() {
        write(&*upload, shape, &whole, part).await.unwrap();
    }
    assert_eq!(second.head(&file).await.unwrap(), None, "it has no key before it is finished");
    upload.finish().await.unwrap();
    upload.finish().await.unwrap();
    assert_holds(&second, &file, &whole).await;
    let sent = drive.counts(|counts| counts.received) - before;
    assert_eq!(sent, shape.len - 4 * PART, "only what was missing is sent");
    assert!(second.unfinished("").await.unwrap().is_empty());
    assert_eq!(drive.asked("POST /upload/drive/v3/files"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_file_whose_last_answer_was_lost_is_finished_in_the_next_run() {
    let drive = FakeDrive::start();
    let notes = MemoryNotes::default();
    let shape = Shape { len: PART + 1, part_len: PART };
    let (file, whole) = (key("a.bin"), bytes(shape.len, 15));
    let upload = open(&drive, &notes).begin(&file, shape).await.unwrap();
    write(&*upload, shape, &whole, 0).await.unwrap();
    write(&*upload, shape, &whole, 1).await.unwrap();
    drop(upload);
    let next = open(&drive, &notes);
    let upload = next.begin(&file, shape).await.unwrap();
    assert_eq!(upload.done(), [0, 1]);
    upload.finish().await.unwrap();
    assert_holds(&next, &file, &whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_file_whose_session_ends_is_begun_again() {
    let drive = FakeDrive::start();
    let notes = MemoryNotes::default();
    let shape = Shape { len: 4 * PART, part_len: PART };
    let (file, whole) = (key("b.bin"), bytes(shape.len, 16));
    let backend = open(&drive, &notes);
    let upload = backend.begin(&file, shape).await.unwrap();
    write(&*upload, shape, &whole, 0).await.unwrap();
    drive.fail("PUT", SESSION, 0, 1, Act::Expire);
    let expired = write(&*upload, shape, &whole, 1).await.unwrap_err();
    assert_eq!(expired.kind(), Kind::SessionExpired);
    let upload = backend.begin(&file, shape).await.unwrap();
    assert!(upload.done().is_empty());
    drive.fail("PUT", SESSION, 3, 1, Act::Corrupt);
    for part in 0..shape.parts() {
        write(&*upload, shape, &whole, part).await.unwrap();
    }
    let damaged = upload.finish().await.unwrap_err();
    assert_eq!(damaged.kind(), Kind::SessionExpired, "{}", damaged.report());
    assert!(drive.files().is_empty(), "the damaged file is still there");
    let upload = backend.begin(&file, shape).await.unwrap();
    for part in 0..shape.parts() {
        write(&*upload, shape, &whole, part).await.unwrap();
    }
    upload.finish().await.unwrap();
    assert_holds(&backend, &file, &whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_multiples_of_256_kib() {
    let drive = FakeDrive::start();
    let backend = open(&drive, &MemoryNotes::default());
    let odd = Shape { len: 3 * PART, part_len: PART + 1 };
    let refused = backend.begin(&key("c"), odd).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
    assert!(refused.report().contains("256 KiB"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_sends_no_bytes_and_says_its_own_key() {
    let drive = FakeDrive::start();
    let backend = open(&drive, &MemoryNotes::default());
    let long = key(&["a rather long name of a folder"; 20].join("/"));
    let whole = bytes(3 * MIB, 17);
    backend.put(&long, payload(&whole)).await.unwrap();
    let before = drive.counts(|counts| counts.received);
    let shape = Shape { len: 3 * MIB, part_len: 4 * MIB };
    let file = key("Album/short.flac");
    let upload = backend.begin(&file, shape).await.unwrap();
    upload.copy(0, &long, 0..3 * MIB).await.unwrap();
    drive.fail("POST", "/copy", 0, 1, Act::LoseAnswer);
    assert!(upload.finish().await.unwrap_err().kind().is_retryable());
    upload.finish().await.unwrap();
    assert_eq!(drive.counts(|counts| counts.received), before);
    assert_eq!(drive.files().len(), 2);
    let fresh = open(&drive, &MemoryNotes::default());
    assert_holds(&fresh, &file, &whole).await;
    assert_holds(&fresh, &long, &whole).await;
    let two = Shape { len: 3 * MIB, part_len: 2 * MIB };
    let upload = backend.begin(&key("d"), two).await.unwrap();
    let refused = upload.copy(0, &long, 0..2 * MIB).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
}

/// A bae whose config file has a storage `music` on a fake server.
struct Rig {
    bae: Bae,
    drive: FakeDrive,
    folder: String,
}

impl Rig {
    fn new(more: &str) -> Self {
        let (bae, drive) = (Bae::new(), FakeDrive::start());
        let folder = drive.make_folder("Music", false);
        let rig = Self { bae, drive, folder };
        rig.configure(&format!("{}{more}", rig.drive.profile("music", Some(&rig.folder))));
        rig
    }

    fn configure(&self, text: &str) {
        let dir = self.bae.home().join("config/bae");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("config.toml"), text).unwrap();
    }

    fn import_args(&self, torrent: &Fixture, seeder: &LibtorrentPeer) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["--json".into(), "import".into()];
        args.push(torrent.torrent.clone().into());
        args.extend(["--storage".into(), format!("drive://{}?chunk=1MiB", self.folder).into()]);
        args.extend(["--listen".into(), self.bae.listen.to_string().into()]);
        args.extend(["--no-dht".into(), "--no-lsd".into(), "--no-utp".into()]);
        args.extend(["--peer".into(), seeder.addr().to_string().into()]);
        args
    }
}

fn ended(process: Process) -> Ran {
    Running(process).ended(Duration::from_secs(120))
}

/// Panics when a secret of the fake server is in `text`.
fn assert_silent(text: &str) {
    let secrets =
        [SESSION_SECRET, TOKEN_SECRET, REFRESH_TOKEN, fake_drive::CLIENT_SECRET, "S3CR3T"];
    for secret in secrets {
        let at = text.find(secret);
        assert!(
            at.is_none(),
            "a secret was logged: {}",
            &text[at.unwrap().saturating_sub(200)..][..260]
        );
    }
}

#[test]
fn a_torrent_goes_into_drive_and_comes_back_and_no_secret_is_logged() {
    let rig = Rig::new("");
    let torrent = Recipe::single("into drive.bin", 6 * MIB + 77).piece(128 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    // Every fault is logged, and no log line contains a secret.
    rig.drive.fail("PUT", SESSION, 1, 1, Act::CutBody(300_000));
    rig.drive.fail("PUT", SESSION, 3, 1, Act::LoseAnswer);
    rig.drive.fail("POST", "/upload/", 2, 1, Act::Refuse(503, "backendError", None));
    let mut command = rig.bae.command(rig.import_args(&torrent, &seeder));
    command.env("RUST_LOG", "trace");
    let ran = ended(Process::start("bae", &command)).expect(0);
    assert!(rig.drive.all_failed(), "not everything went wrong");
    assert!(ran.stderr.len() > 10_000, "nothing was logged: {} bytes", ran.stderr.len());
    assert_silent(&ran.stderr);
    assert_silent(&ran.stdout);
    let done = ran.imported();
    assert_eq!(done.bytes, torrent.bytes);
    rig.bae.assert_verified(&done.id);
    rig.bae.assert_exact(&done.id, &torrent);
    let stored: u64 = rig.drive.files().iter().map(|file| file.data.len() as u64).sum();
    assert!((torrent.bytes..torrent.bytes + MIB).contains(&stored), "{stored} bytes are stored");
    rig.bae.run(["rm", "--yes", &done.id]).expect(0);
    assert!(rig.drive.files().is_empty(), "rm left {} files", rig.drive.files().len());
}

#[test]
fn a_killed_import_into_drive_resumes() {
    let rig = Rig::new("");
    let torrent = Recipe::single("killed.bin", 12 * MIB + 5).piece(128 * KIB).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, 4 * MIB);
    for round in 0..2 {
        let command = rig.bae.command(rig.import_args(&torrent, &seeder));
        let mut running = Running(Process::start("bae", &command));
        running.event_where("progress", |e| e["stored"].as_u64() > Some(round * 2 * MIB));
        thread::sleep(Duration::from_millis(150 + round * 200));
        running.kill();
    }
    let ran = rig.bae.run(rig.import_args(&torrent, &seeder)).expect(0);
    let started = ran.json().into_iter().find(|e| e["event"] == "started").unwrap();
    assert!(started["stored"].as_u64() > Some(0), "{started}");
    let done = ran.imported();
    rig.bae.assert_verified(&done.id);
    rig.bae.assert_exact(&done.id, &torrent);
    rig.bae.run(["gc", "--yes"]).expect(0);
    rig.bae.assert_exact(&done.id, &torrent);
    let stored: u64 = rig.drive.files().iter().map(|file| file.data.len() as u64).sum();
    assert!(stored < torrent.bytes + MIB, "{stored} bytes are stored of {}", torrent.bytes);
}

#[test]
fn a_file_of_many_chunks_is_sent_once_and_a_killed_run_goes_on_in_its_session() {
    let rig = Rig::new("");
    let torrent = Recipe::single("straight.bin", 12 * MIB + 5).piece(128 * KIB).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, 4 * MIB);
    let mut args = rig.import_args(&torrent, &seeder);
    args.extend(["--layout".into(), "files".into()]);
    let command = rig.bae.command(&args);
    let mut running = Running(Process::start("bae", &command));
    running.event_where("progress", |e| e["stored"].as_u64() > Some(4 * MIB));
    running.kill();
    let listed = rig.bae.run(["ls", "--json"]).expect(0).json().remove(0);
    let id = listed["id"].as_str().unwrap();
    rig.bae.run(["cat", id]).expect(5).says("complete");
    rig.bae.run(["gc", "--yes"]).expect(0);
    let ran = rig.bae.run(&args).expect(0);
    let events = ran.json();
    let started = events.iter().find(|e| e["event"] == "started").unwrap();
    let stored = started["stored"].as_u64().unwrap();
    assert!(stored >= 4 * MIB, "{started}");
    let done = events.iter().find(|e| e["event"] == "imported").unwrap();
    let fetched = done["downloaded"].as_u64().unwrap();
    assert!(fetched <= torrent.bytes - stored + MIB, "{fetched} bytes fetched over {stored}");
    // 1 MiB is the part that was in flight when the first run was killed; 64 KiB are for the manifests.
    let received = rig.drive.counts(|counts| counts.received);
    assert!(received <= torrent.bytes + MIB + 64 * KIB, "{received} bytes were sent");
    assert_eq!(rig.drive.files().iter().filter(|file| file.data.len() > 64 << 10).count(), 1);
    assert_eq!(rig.drive.sessions(), 0, "sessions were left");
    rig.bae.assert_verified(id);
    rig.bae.assert_exact(id, &torrent);
}

#[test]
fn what_another_catalog_published_into_drive_is_adopted_and_stays() {
    let rig = Rig::new("");
    let torrent = Recipe::single("adopt me.bin", 5 * MIB + 5).piece(128 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let mut args = rig.import_args(&torrent, &seeder);
    args.extend(["--layout".into(), "files".into()]);
    rig.bae.run(&args).expect(0);
    fs::remove_dir_all(rig.bae.data_dir()).unwrap();
    let whole =
        || rig.drive.files().iter().filter(|f| f.data.len() as u64 == torrent.bytes).count();
    assert_eq!(whole(), 1);
    let from = format!("drive://{}", rig.folder);
    let adopt = ["--json", "adopt", torrent.torrent.to_str().unwrap(), "--from", &from];
    let adopted = rig.bae.run(adopt).expect(0).json().remove(0);
    assert_eq!(adopted["state"], "imported", "{adopted}");
    let id = adopted["id"].as_str().unwrap();
    rig.bae.assert_exact(id, &torrent);
    rig.bae.run(["rm", "--yes", id]).expect(0);
    rig.bae.run(["gc", "--yes"]).expect(0);
    assert_eq!(whole(), 1, "the user's file is gone");
}

#[test]
fn a_session_that_ends_under_a_file_is_told_and_the_same_command_goes_on() {
    let rig = Rig::new("");
    let torrent = Recipe::single("ends.bin", 8 * MIB + 5).piece(128 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let mut args = rig.import_args(&torrent, &seeder);
    args.extend(["--layout".into(), "files".into()]);
    rig.drive.fail("PUT", SESSION, 3, 1, Act::Expire);
    rig.bae.run(&args).expect(5).says("run the same command again");
    let ran = rig.bae.run(&args).expect(0);
    let done = ran.imported();
    rig.bae.assert_verified(&done.id);
    rig.bae.assert_exact(&done.id, &torrent);
    rig.bae.run(["gc", "--yes"]).expect(0);
    assert_eq!(rig.drive.files().iter().filter(|file| file.data.len() > 64 << 10).count(), 1);
}

#[test]
fn a_ready_token_in_a_variable_is_enough() {
    let (bae, drive) = (Bae::new(), FakeDrive::start());
    let torrent = Recipe::single("token.bin", MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let listen = bae.listen.to_string();
    let peer = seeder.addr().to_string();
    let file = torrent.torrent.to_str().unwrap();
    let args = ["--json", "import", file, "--storage", "drive", "--listen", &listen, "--no-dht"];
    let mut command =
        bae.command(args.into_iter().chain(["--no-lsd", "--no-utp", "--peer", &peer]));
    command.envs(drive.env());
    let done = ended(Process::start("bae", &command)).expect(0).imported();
    let mut command = bae.command(["verify", &done.id]);
    command.envs(drive.env());
    ended(Process::start("bae", &command)).expect(0);
    // Without the token, the error names the variable that is missing.
    bae.run(["verify", &done.id]).expect(3).says("BAE_DRIVE_TOKEN");
    let help = bae.command(["--help"]).env("BAE_DRIVE_TOKEN", "hunter2").output().unwrap();
    assert!(!String::from_utf8_lossy(&help.stdout).contains("hunter2"));
}

/// Sends one GET, as a browser does. Returns the URL of the redirect.
fn browse(url: &str) -> Option<String> {
    let url: url::Url = url.parse().unwrap();
    let address = (url.host_str().unwrap(), url.port().unwrap());
    let mut stream = TcpStream::connect(address).unwrap();
    let path = &url[url::Position::BeforePath..];
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut location = None;
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 2 {
        location = location.or(line.strip_prefix("Location: ").map(|l| l.trim().to_owned()));
        line.clear();
    }
    let _ = reader.read_to_end(&mut Vec::new());
    location
}

/// A profile with a client and no refresh token.
fn without_sign_in(rig: &Rig) -> String {
    let profile = rig.drive.profile("music", Some(&rig.folder));
    let kept: Vec<&str> = profile.lines().filter(|line| !line.contains("refresh_token")).collect();
    kept.join("\n")
}

#[test]
fn a_browser_signs_in_and_the_sign_in_is_kept_where_nobody_else_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new("");
    rig.configure(&without_sign_in(&rig));
    let mut running = rig.bae.start(["--json", "-vv", "storage", "login", "music"]);
    let page = running.event("login")["url"].as_str().unwrap().to_owned();
    let back = browse(&page).expect("the consent page sends the browser on");
    // A request with a guessed `state` is rejected.
    let origin = &back[..back.find("/?").unwrap()];
    assert_eq!(browse(&format!("{origin}/?state=guess&code=stolen")), None);
    browse(&back);
    let ran = running.ended(Duration::from_secs(20)).expect(0);
    assert_silent(&ran.stdout);
    assert_silent(&ran.stderr);
    let kept = rig.bae.home().join("config/bae/secrets.toml");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&kept).unwrap().contains(REFRESH_TOKEN));
    let torrent = Recipe::single("after login.bin", MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    rig.bae.run(rig.import_args(&torrent, &seeder)).expect(0);
}

#[test]
fn a_device_signs_in_with_a_code() {
    let rig = Rig::new("");
    rig.configure(&without_sign_in(&rig));
    rig.drive.device_answers(&["authorization_pending", "access_denied"]);
    rig.bae.run(["storage", "login", "music", "--device"]).expect(24).says("turned down");
    rig.drive.device_answers(&["authorization_pending", ""]);
    rig.bae.run(["storage", "login", "music", "--device"]).expect(0).says("ABCD-EFGH");
    assert!(rig.bae.home().join("config/bae/secrets.toml").is_file());
    rig.bae.run(["storage", "login", "file"]).expect(1).says("drive");
}
