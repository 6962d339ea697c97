//! Google Drive, tested with a strict fake server (`support/fake_drive` lists its rules).

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bae::{
    Error, Kind, Result,
    backends::{
        BackendState, DriveBackend, DriveSettings, InMemoryState, Key, MultipartUpload, Payload,
        RetryPolicy, Retrying, StorageBackend, UploadLayout, conformance,
        drive::{Credentials, DriveLimits, http_client},
        list_all,
    },
    hints::Operation,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

use crate::support::{
    KIB, LONG, MIB, Random,
    bae::{Bae, CommandOutput, Running},
    fake_drive::{
        self, FakeDrive, FaultKind, REFRESH_TOKEN, SESSION, SESSION_SECRET, TOKEN_SECRET,
    },
    peers::{LibtorrentPeer, Release},
    process::Process,
    torrents::{Fixture, Recipe},
    wait_until,
};

/// Limits that delay no request.
fn no_limits() -> DriveLimits {
    let first_wait = Duration::from_millis(5);
    DriveLimits {
        units_per_minute: 1e12,
        creates_per_second: 1e9,
        create_burst: 1e9,
        first_wait,
        ..DriveLimits::default()
    }
}

fn user_login(drive: &FakeDrive) -> Credentials {
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
    limits: DriveLimits,
    state: Arc<dyn BackendState>,
) -> DriveBackend {
    let http = http_client().unwrap();
    let tokens = credentials.into_token_source(&http).unwrap();
    let endpoint = drive.endpoint().parse().unwrap();
    let settings = DriveSettings { folder: folder.map(str::to_owned), endpoint, limits };
    DriveBackend::open(http, settings, tokens, state)
}

fn open(drive: &FakeDrive, state: &InMemoryState) -> DriveBackend {
    open_with(drive, None, user_login(drive), no_limits(), Arc::new(state.clone()))
}

fn retrying<B: StorageBackend>(backend: B) -> Retrying<B> {
    let millis = Duration::from_millis;
    Retrying::with_policy(
        backend,
        RetryPolicy {
            base: millis(2),
            cap: millis(20),
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
async fn drive_passes_the_conformance_suite() {
    let drive = FakeDrive::start();
    conformance::check(&open(&drive, &InMemoryState::default())).await;
    assert!(drive.files().is_empty(), "{:?}", drive.files().len());
    assert_eq!(drive.sessions(), 0, "sessions were left");
    drive.counts(|counts| {
        assert!(counts.refused.keys().all(|reason| reason == "notFound"), "{:?}", counts.refused)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn drive_passes_the_conformance_suite_in_a_shared_drive() {
    let drive = FakeDrive::start();
    let folder = drive.make_folder("Music of all", true);
    let state = Arc::new(InMemoryState::default());
    let backend = open_with(&drive, Some(&folder), user_login(&drive), no_limits(), state);
    conformance::check(&backend).await;
    assert_eq!(backend.free_space().await.unwrap(), None, "a shared drive has no quota of a user");
}

#[tokio::test(flavor = "multi_thread")]
async fn drive_objects_are_found_when_backend_state_cannot_be_written() {
    let drive = FakeDrive::start();
    let state = Arc::new(ReadOnlyState::default());
    let backend = open_with(&drive, None, user_login(&drive), no_limits(), state);
    let whole = bytes(70_000, 1);
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    assert_holds(&backend, &chunk(1), &whole).await;
    let other = open_with(
        &drive,
        None,
        user_login(&drive),
        no_limits(),
        Arc::new(ReadOnlyState::default()),
    );
    assert_holds(&other, &chunk(1), &whole).await;
}

/// Notes that cannot be written, as in a command that opens the catalog read-only.
#[derive(Debug, Default)]
struct ReadOnlyState(InMemoryState);

#[async_trait]
impl BackendState for ReadOnlyState {
    async fn get(&self, name: &str) -> Result<Option<String>> {
        self.0.get(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        self.0.list(prefix).await
    }

    async fn set(&self, _: &str, _: Option<String>) -> Result<()> {
        Err(Error::new(Kind::PermissionDenied, "open for reading only"))
    }
}

/// A put, the operations on its object, and a delete. Each of these requests is made to fail in turn.
async fn put_get_and_delete(drive: &FakeDrive) {
    let backend = retrying(open(drive, &InMemoryState::default()));
    let whole = bytes(700 * KIB, 3);
    backend.put(&chunk(7), payload(&whole)).await.unwrap_or_else(|e| panic!("{}", e.report()));
    assert_eq!(drive.files().len(), 1, "one put makes one file");
    assert_holds(&backend, &chunk(7), &whole).await;
    assert_eq!(backend.head(&chunk(7)).await.unwrap(), Some(700 * KIB));
    assert_eq!(list_all(&backend, "0123").await.unwrap().len(), 1);
    backend.delete(&chunk(7)).await.unwrap();
    assert_eq!(drive.files().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn drive_operations_succeed_whichever_request_fails() {
    let kinds = [
        FaultKind::Refuse(503, "backendError", None),
        FaultKind::Refuse(403, "userRateLimitExceeded", None),
        FaultKind::Refuse(500, "internalError", None),
        FaultKind::Reset,
        FaultKind::LoseAnswer,
        FaultKind::CutAnswer(7),
        FaultKind::Stall(Duration::from_millis(50)),
        FaultKind::ExpireTokens,
    ];
    for kind in kinds {
        for skip in 0.. {
            let drive = FakeDrive::start();
            drive.fail_requests("", "", skip, 1, kind.clone());
            put_get_and_delete(&drive).await;
            if !drive.all_faults_used() {
                assert!(skip > 8, "{kind:?}: only {skip} requests");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_put_resumes_after_the_last_received_byte() {
    let drive = FakeDrive::start();
    drive.fail_requests("PUT", SESSION, 0, 2, FaultKind::CutBody(MIB as usize + 99));
    let backend = open(&drive, &InMemoryState::default());
    let whole = bytes(5 * MIB + 3, 4);
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    assert_holds(&backend, &chunk(1), &whole).await;
    let received = drive.counts(|counts| counts.received);
    assert!(received < whole.len() as u64 + MIB, "{received} bytes were sent");
    assert_eq!(drive.request_count("POST /upload/drive/v3/files"), 1, "one session");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_upload_session_is_restarted_with_the_same_file_id() {
    let drive = FakeDrive::start();
    drive.fail_requests("PUT", SESSION, 0, 1, FaultKind::Expire);
    let backend = open(&drive, &InMemoryState::default());
    let whole = bytes(MIB, 5);
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    assert_holds(&backend, &chunk(1), &whole).await;
    assert_eq!(drive.request_count("POST /upload/drive/v3/files"), 2);
    assert_eq!(drive.files().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_in_an_upload_session_restarts_it_once() {
    let drive = FakeDrive::start();
    drive.fail_requests("PUT", SESSION, 0, 1, FaultKind::Refuse(400, "badRequest", None));
    let backend = open(&drive, &InMemoryState::default());
    let whole = bytes(MIB, 6);
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    drive.fail_requests("PUT", SESSION, 0, 2, FaultKind::Refuse(400, "badRequest", None));
    let refused = backend.put(&chunk(2), payload(&whole)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Internal);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_during_uploads_is_renewed_once_for_all() {
    let drive = FakeDrive::start();
    let backend = open(&drive, &InMemoryState::default());
    backend.put(&chunk(0), Payload::default()).await.unwrap();
    let before = drive.request_count("POST /token");
    drive.fail_requests("PUT", SESSION, 0, 1, FaultKind::ExpireTokens);
    let whole = bytes(MIB, 7);
    let (one, two, three) = (chunk(1), chunk(2), chunk(3));
    let put = |key| backend.put(key, payload(&whole));
    let (a, b, c) = tokio::join!(put(&one), put(&two), put(&three));
    a.and(b).and(c).unwrap();
    assert_eq!(drive.request_count("POST /token") - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_access_token_is_reported_with_a_hint() {
    let drive = FakeDrive::start();
    let credentials = Credentials::Token(drive.token().into());
    let backend =
        open_with(&drive, None, credentials, no_limits(), Arc::new(InMemoryState::default()));
    backend.put(&chunk(1), Payload::default()).await.unwrap();
    drive.expire_tokens();
    let refused = backend.put(&chunk(2), Payload::default()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unauthenticated);
    assert!(refused.typed_hint().unwrap().names_operation(Operation::StorageLogin));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_login_is_reported_with_a_hint() {
    let drive = FakeDrive::start();
    drive.revoke();
    let refused = open(&drive, &InMemoryState::default()).head(&chunk(1)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unauthenticated);
    let hint = refused.typed_hint().unwrap();
    assert!(hint.names_operation(Operation::StorageLogin), "{hint}");
    assert!(hint.to_string().contains("7 days"), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_logs_in_with_its_key() {
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
    let state = Arc::new(InMemoryState::default());
    let backend = open_with(&drive, Some(&folder), credentials, no_limits(), state);
    let whole = bytes(1000, 8);
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    drive.expire_tokens();
    assert_holds(&backend, &chunk(1), &whole).await;
    assert_eq!(drive.request_count("POST /token"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_upload_is_removed_and_can_be_repeated() {
    let drive = FakeDrive::start();
    drive.fail_requests("PUT", SESSION, 0, 1, FaultKind::Corrupt);
    let backend = open(&drive, &InMemoryState::default());
    let whole = bytes(MIB, 9);
    let damaged = backend.put(&chunk(1), payload(&whole)).await.unwrap_err();
    assert!(damaged.kind().is_retryable(), "{}", damaged.report());
    assert!(drive.files().is_empty(), "the damaged file still exists");
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    assert_holds(&backend, &chunk(1), &whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_requests_wait_for_retry_after() {
    let drive = FakeDrive::start();
    let backend = open(&drive, &InMemoryState::default());
    backend.put(&chunk(0), Payload::default()).await.unwrap();
    drive.fail_requests(
        "POST",
        "/upload/",
        0,
        1,
        FaultKind::Refuse(429, "rateLimitExceeded", Some(2)),
    );
    let refused = backend.put(&chunk(1), Payload::default()).await.unwrap_err();
    assert_eq!(refused.requested_wait(), Some(Duration::from_secs(2)), "{}", refused.report());
    let start = Instant::now();
    backend.put(&chunk(2), Payload::default()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(1900), "the other request did not wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_account_is_reported_and_accepts_puts_when_space_is_freed() {
    let drive = FakeDrive::start();
    drive.set_rules(|rules| rules.quota = Some(MIB));
    let backend = open(&drive, &InMemoryState::default());
    let whole = bytes(700 * KIB, 10);
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    assert_eq!(backend.free_space().await.unwrap(), Some(324 * KIB));
    let full = backend.put(&chunk(2), payload(&whole)).await.unwrap_err();
    assert_eq!(full.kind(), Kind::NoSpace);
    assert!(full.hint_text().unwrap().contains("trash"), "{:?}", full.hint_text());
    drive.set_rules(|rules| rules.quota = Some(2 * MIB));
    backend.put(&chunk(2), payload(&whole)).await.unwrap();
    drive.set_rules(|rules| rules.quota = None);
    assert_eq!(backend.free_space().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_stay_below_the_rate_limit() {
    let drive = FakeDrive::start();
    drive.set_rules(|rules| rules.creates_per_second = Some(12.0));
    let limits = DriveLimits { creates_per_second: 10.0, create_burst: 5.0, ..no_limits() };
    let state = Arc::new(InMemoryState::default());
    let backend = Arc::new(open_with(&drive, None, user_login(&drive), limits, state));
    let puts = (0..30).map(|n| {
        let backend = Arc::clone(&backend);
        tokio::spawn(async move { backend.put(&key(&format!("n{n}")), Payload::default()).await })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap().unwrap();
    }
    drive.counts(|counts| {
        assert!(counts.refused.is_empty(), "{:?}", counts.refused);
        let elapsed = counts.creates.last().unwrap().duration_since(counts.creates[0]);
        assert!(elapsed >= Duration::from_millis(2300), "31 creates in {elapsed:?}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn long_refusals_of_creates_are_reported_as_the_daily_limit() {
    let drive = FakeDrive::start();
    let limits = DriveLimits { daily_limit_after: Duration::from_millis(300), ..no_limits() };
    let state = Arc::new(InMemoryState::default());
    let backend = open_with(&drive, None, user_login(&drive), limits, state);
    backend.put(&chunk(0), Payload::default()).await.unwrap();
    drive.fail_requests(
        "POST",
        "/upload/",
        0,
        100,
        FaultKind::Refuse(403, "userRateLimitExceeded", None),
    );
    let refused = retrying(backend).put(&chunk(1), Payload::default()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::NoSpace, "{}", refused.report());
    assert!(refused.report().contains("750 GB"), "{}", refused.report());
    let refusals = drive.counts(|counts| counts.faults);
    assert!(refusals > 1, "reported after {refusals} refusals");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_backend_state_is_rebuilt_from_file_properties() {
    let drive = FakeDrive::start();
    let backend = open(&drive, &InMemoryState::default());
    let long = key(&format!(
        "{}/日本 - it's \"1\".flac",
        ["Ünïcode folder name, quite long"; 20].join("/")
    ));
    let keys = [chunk(1), key("Album/01 - Track.flac"), long];
    let whole = bytes(5000, 11);
    for key in &keys {
        backend.put(key, payload(&whole)).await.unwrap();
    }
    let state = InMemoryState::default();
    let fresh = open(&drive, &state);
    for key in &keys {
        assert_holds(&fresh, key, &whole).await;
    }
    let listing = InMemoryState::default();
    let mut listed: Vec<_> =
        list_all(&open(&drive, &listing), "").await.unwrap().into_iter().map(|o| o.key).collect();
    listed.sort();
    let mut expected = keys.to_vec();
    expected.sort();
    assert_eq!(listed, expected);
    assert_eq!(listing.list("id:").await.unwrap().len(), 3);
    // A second put of a key makes no second file.
    open(&drive, &InMemoryState::default()).put(&keys[1], payload(&whole)).await.unwrap();
    assert_eq!(drive.files().len(), 3);
    for key in &keys {
        open(&drive, &InMemoryState::default()).delete(key).await.unwrap();
    }
    assert!(drive.files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_have_readable_names_and_can_be_renamed_and_moved() {
    let drive = FakeDrive::start();
    let backend = open(&drive, &InMemoryState::default());
    let (track, whole) = (key("Album/Disc 1/01 - Track.flac"), bytes(900, 12));
    backend.put(&track, payload(&whole)).await.unwrap();
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    let files = drive.files();
    let paths: Vec<String> = files.iter().map(|file| drive.path(file)).collect();
    assert!(paths.contains(&"My Drive/bae/Album/Disc 1/01 - Track.flac".to_owned()), "{paths:?}");
    assert!(paths.iter().any(|path| path.starts_with("My Drive/bae/chunks/")), "{paths:?}");
    let file = files.iter().find(|file| file.name.starts_with("01")).unwrap();
    drive.edit_file(&file.id, |file| {
        Some(fake_drive::File {
            name: "renamed".into(),
            parent: Some("root-of-my-drive".into()),
            ..file
        })
    });
    assert_holds(&open(&drive, &InMemoryState::default()), &track, &whole).await;
    drive.edit_file(&file.id, |file| Some(fake_drive::File { trashed: true, ..file }));
    assert_eq!(backend.head(&track).await.unwrap(), None, "a trashed file is found");
    let link = backend.url(&chunk(1), Duration::ZERO).await.unwrap();
    assert!(link.as_str().starts_with("https://drive.google.com/file/d/1"), "{link}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_programs_share_a_folder_and_recreate_it_when_it_is_removed() {
    let drive = FakeDrive::start();
    let (one, two) =
        (open(&drive, &InMemoryState::default()), open(&drive, &InMemoryState::default()));
    let (a, b) = (key("Album/a"), key("Album/b"));
    one.put(&a, Payload::default()).await.unwrap();
    two.put(&b, Payload::default()).await.unwrap();
    let albums = |drive: &FakeDrive| {
        drive.folders().into_iter().filter(|f| f.name == "Album").collect::<Vec<_>>()
    };
    assert_eq!(albums(&drive).len(), 1);
    drive.edit_file(&albums(&drive)[0].id, |_| None);
    one.put(&key("Album/c"), Payload::default()).await.unwrap();
    assert_eq!(albums(&drive).len(), 1);
    drive.edit_file(&albums(&drive)[0].id, |folder| {
        Some(fake_drive::File { trashed: true, ..folder })
    });
    let (d, whole) = (key("Album/d"), bytes(10, 1));
    retrying(one).put(&d, payload(&whole)).await.unwrap();
    assert!(drive.files().iter().any(|file| file.name == "d" && !file.trashed));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invisible_folder_is_reported_with_the_reason() {
    let drive = FakeDrive::start();
    let state = Arc::new(InMemoryState::default());
    let backend = open_with(&drive, Some("unknown"), user_login(&drive), no_limits(), state);
    let missing = backend.put(&chunk(1), Payload::default()).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
    assert!(missing.hint_text().unwrap().contains("drive.file"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_range_is_continued() {
    let drive = FakeDrive::start();
    let backend = open(&drive, &InMemoryState::default());
    let whole = bytes(MIB, 13);
    backend.put(&chunk(1), payload(&whole)).await.unwrap();
    drive.fail_requests("GET", "alt=media", 0, 2, FaultKind::CutAnswer(300_000));
    assert_holds(&backend, &chunk(1), &whole).await;
    drive.fail_requests("GET", "alt=media", 0, 9, FaultKind::CutAnswer(1000));
    let broken = backend.get(&chunk(1), 0..MIB).await.unwrap_err();
    assert!(broken.kind().is_retryable(), "{}", broken.report());
}

/// The part length of whole files: the smallest that Drive accepts before the last part.
const PART: u64 = 256 * KIB;

async fn write(
    upload: &dyn MultipartUpload,
    shape: UploadLayout,
    whole: &Bytes,
    part: u64,
) -> Result<()> {
    let range = shape.part_range(part);
    let (start, end) = (range.start as usize, range.end as usize);
    upload.put_part(part, payload(&whole.slice(start..end))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_a_whole_file_resumes_after_the_last_received_byte() {
    let drive = FakeDrive::start();
    let state = InMemoryState::default();
    let shape = UploadLayout { len: 9 * PART + 5, part_len: 3 * PART };
    let (file, whole) = (key("Album/whole.flac"), bytes(shape.len, 14));
    let first = open(&drive, &state);
    let upload = first.begin_upload(&file, shape).await.unwrap();
    write(&*upload, shape, &whole, 0).await.unwrap();
    // A third of the second part arrives, then every request is refused. Then the process ends.
    drive.fail_requests("PUT", SESSION, 0, 1, FaultKind::CutBody(PART as usize + 77));
    drive.fail_requests("PUT", SESSION, 0, 5, FaultKind::Refuse(503, "backendError", None));
    write(&*upload, shape, &whole, 1).await.unwrap_err();
    drop((upload, first));
    let before = drive.counts(|counts| counts.received);
    let second = open(&drive, &state);
    assert_eq!(second.list_uploads("Album").await.unwrap().len(), 1);
    let upload = second.begin_upload(&file, shape).await.unwrap();
    assert_eq!(upload.stored_parts(), [0]);
    for part in 1..shape.part_count() {
        write(&*upload, shape, &whole, part).await.unwrap();
    }
    assert_eq!(second.head(&file).await.unwrap(), None, "an unfinished upload has a key");
    upload.finish().await.unwrap();
    upload.finish().await.unwrap();
    assert_holds(&second, &file, &whole).await;
    let sent = drive.counts(|counts| counts.received) - before;
    assert_eq!(sent, shape.len - 4 * PART, "more than the missing bytes are sent");
    assert!(second.list_uploads("").await.unwrap().is_empty());
    assert_eq!(drive.request_count("POST /upload/drive/v3/files"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_file_whose_last_answer_was_lost_is_finished_in_the_next_run() {
    let drive = FakeDrive::start();
    let state = InMemoryState::default();
    let shape = UploadLayout { len: PART + 1, part_len: PART };
    let (file, whole) = (key("a.bin"), bytes(shape.len, 15));
    let upload = open(&drive, &state).begin_upload(&file, shape).await.unwrap();
    write(&*upload, shape, &whole, 0).await.unwrap();
    write(&*upload, shape, &whole, 1).await.unwrap();
    drop(upload);
    let next = open(&drive, &state);
    let upload = next.begin_upload(&file, shape).await.unwrap();
    assert_eq!(upload.stored_parts(), [0, 1]);
    upload.finish().await.unwrap();
    assert_holds(&next, &file, &whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_file_whose_upload_session_expires_is_uploaded_again() {
    let drive = FakeDrive::start();
    let state = InMemoryState::default();
    let shape = UploadLayout { len: 4 * PART, part_len: PART };
    let (file, whole) = (key("b.bin"), bytes(shape.len, 16));
    let backend = open(&drive, &state);
    let upload = backend.begin_upload(&file, shape).await.unwrap();
    write(&*upload, shape, &whole, 0).await.unwrap();
    drive.fail_requests("PUT", SESSION, 0, 1, FaultKind::Expire);
    let expired = write(&*upload, shape, &whole, 1).await.unwrap_err();
    assert_eq!(expired.kind(), Kind::SessionExpired);
    let upload = backend.begin_upload(&file, shape).await.unwrap();
    assert!(upload.stored_parts().is_empty());
    drive.fail_requests("PUT", SESSION, 3, 1, FaultKind::Corrupt);
    for part in 0..shape.part_count() {
        write(&*upload, shape, &whole, part).await.unwrap();
    }
    let damaged = upload.finish().await.unwrap_err();
    assert_eq!(damaged.kind(), Kind::SessionExpired, "{}", damaged.report());
    assert!(drive.files().is_empty(), "the damaged file still exists");
    let upload = backend.begin_upload(&file, shape).await.unwrap();
    for part in 0..shape.part_count() {
        write(&*upload, shape, &whole, part).await.unwrap();
    }
    upload.finish().await.unwrap();
    assert_holds(&backend, &file, &whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn part_lengths_must_be_multiples_of_256_kib() {
    let drive = FakeDrive::start();
    let backend = open(&drive, &InMemoryState::default());
    let odd = UploadLayout { len: 3 * PART, part_len: PART + 1 };
    let refused = backend.begin_upload(&key("c"), odd).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
    assert!(refused.report().contains("256 KiB"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_side_copy_sends_no_bytes_and_stores_its_own_key() {
    let drive = FakeDrive::start();
    let backend = open(&drive, &InMemoryState::default());
    let long = key(&["a rather long name of a folder"; 20].join("/"));
    let whole = bytes(3 * MIB, 17);
    backend.put(&long, payload(&whole)).await.unwrap();
    let before = drive.counts(|counts| counts.received);
    let shape = UploadLayout { len: 3 * MIB, part_len: 4 * MIB };
    let file = key("Album/short.flac");
    let upload = backend.begin_upload(&file, shape).await.unwrap();
    upload.copy_part(0, &long, 0..3 * MIB).await.unwrap();
    drive.fail_requests("POST", "/copy", 0, 1, FaultKind::LoseAnswer);
    assert!(upload.finish().await.unwrap_err().kind().is_retryable());
    upload.finish().await.unwrap();
    assert_eq!(drive.counts(|counts| counts.received), before);
    assert_eq!(drive.files().len(), 2);
    let fresh = open(&drive, &InMemoryState::default());
    assert_holds(&fresh, &file, &whole).await;
    assert_holds(&fresh, &long, &whole).await;
    let two = UploadLayout { len: 3 * MIB, part_len: 2 * MIB };
    let upload = backend.begin_upload(&key("d"), two).await.unwrap();
    let refused = upload.copy_part(0, &long, 0..2 * MIB).await.unwrap_err();
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

fn wait_for(process: Process) -> CommandOutput {
    Running(process).wait(LONG)
}

/// Panics when a secret of the fake server is in `text`.
fn assert_no_secrets(text: &str) {
    let secrets =
        [SESSION_SECRET, TOKEN_SECRET, REFRESH_TOKEN, fake_drive::CLIENT_SECRET, "S3CR3T"];
    for secret in secrets {
        let at = text.find(secret);
        assert!(
            at.is_none(),
            "a secret is in the output: {}",
            &text[at.unwrap().saturating_sub(200)..][..260]
        );
    }
}

#[test]
fn an_import_into_drive_is_exact_and_logs_no_secret() {
    let rig = Rig::new("");
    let torrent = Recipe::single("into drive.bin", 6 * MIB + 77).piece(128 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    // Every fault is logged, and no log line contains a secret.
    rig.drive.fail_requests("PUT", SESSION, 1, 1, FaultKind::CutBody(300_000));
    rig.drive.fail_requests("PUT", SESSION, 3, 1, FaultKind::LoseAnswer);
    rig.drive.fail_requests("POST", "/upload/", 2, 1, FaultKind::Refuse(503, "backendError", None));
    let mut command = rig.bae.command(rig.import_args(&torrent, &seeder));
    command.env("RUST_LOG", "trace");
    let output = wait_for(Process::start("bae", &command)).expect(0);
    assert!(rig.drive.all_faults_used(), "not every fault happened");
    assert!(output.stderr.len() > 10_000, "nothing was logged: {} bytes", output.stderr.len());
    assert_no_secrets(&output.stderr);
    assert_no_secrets(&output.stdout);
    let summary = output.summary();
    assert_eq!(summary.bytes, torrent.bytes);
    rig.bae.assert_verified(&summary.id);
    rig.bae.assert_exact(&summary.id, &torrent);
    let stored: u64 = rig.drive.files().iter().map(|file| file.data.len() as u64).sum();
    assert!((torrent.bytes..torrent.bytes + MIB).contains(&stored), "{stored} bytes are stored");
    rig.bae.run(["rm", "--yes", &summary.id]).expect(0);
    assert!(rig.drive.files().is_empty(), "rm left {} files", rig.drive.files().len());
}

#[test]
fn a_killed_import_into_drive_resumes() {
    let rig = Rig::new("");
    let torrent = Recipe::single("killed.bin", 12 * MIB + 5).piece(128 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let mut random = Random::of_this_run();
    // The second run is killed when the server has carried out the request.
    for fault in [FaultKind::Hold, FaultKind::HoldAnswer] {
        // With three uploads at once, the first of four is durable before the last is sent.
        let skip = 3 + random.below(3) as u32;
        eprintln!("killed at upload {skip}: {fault:?}");
        rig.drive.fail_requests("PUT", SESSION, skip, 1, fault);
        let command = rig.bae.command(rig.import_args(&torrent, &seeder));
        let mut running = Running(Process::start("bae", &command));
        let held = rig.drive.counts(|counts| counts.held);
        wait_until("a held request", LONG, || {
            assert!(running.0.is_running(), "it ended\n{}", running.0.log());
            rig.drive.counts(|counts| counts.held) > held
        });
        running.kill();
    }
    let output = rig.bae.run(rig.import_args(&torrent, &seeder)).expect(0);
    let started = output.json().into_iter().find(|e| e["event"] == "started").unwrap();
    assert!(started["stored"].as_u64() > Some(0), "{started}");
    let summary = output.summary();
    rig.bae.assert_verified(&summary.id);
    rig.bae.assert_exact(&summary.id, &torrent);
    rig.bae.run(["gc", "--yes"]).expect(0);
    rig.bae.assert_exact(&summary.id, &torrent);
    let stored: u64 = rig.drive.files().iter().map(|file| file.data.len() as u64).sum();
    assert!(stored < torrent.bytes + MIB, "{stored} bytes are stored of {}", torrent.bytes);
}

#[test]
fn a_large_file_is_sent_once_and_a_killed_upload_resumes_in_its_session() {
    let rig = Rig::new("");
    let torrent = Recipe::single("large.bin", 12 * MIB + 5).piece(128 * KIB).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, 4 * MIB);
    let mut args = rig.import_args(&torrent, &seeder);
    args.extend(["--layout".into(), "files".into()]);
    let command = rig.bae.command(&args);
    let mut running = Running(Process::start("bae", &command));
    running.event_where("progress", |e| e["stored"].as_u64() > Some(4 * MIB));
    running.kill();
    let listed = rig.bae.run(["ls", "--json"]).expect(0).json().remove(0);
    let id = listed["id"].as_str().unwrap();
    rig.bae.run(["cat", id]).expect(5).expect_stderr("complete");
    rig.bae.run(["gc", "--yes"]).expect(0);
    let output = rig.bae.run(&args).expect(0);
    let events = output.json();
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
fn files_published_by_another_catalog_are_adopted_from_drive_and_kept() {
    let rig = Rig::new("");
    let torrent = Recipe::single("adopt me.bin", 5 * MIB + 5).piece(128 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let mut args = rig.import_args(&torrent, &seeder);
    args.extend(["--layout".into(), "files".into()]);
    rig.bae.run(&args).expect(0);
    fs::remove_dir_all(rig.bae.data_dir()).unwrap();
    let published =
        || rig.drive.files().iter().filter(|f| f.data.len() as u64 == torrent.bytes).count();
    assert_eq!(published(), 1);
    let from = format!("drive://{}", rig.folder);
    let adopt = ["--json", "adopt", torrent.torrent.to_str().unwrap(), "--from", &from];
    let adopted = rig.bae.run(adopt).expect(0).json().remove(0);
    assert_eq!(adopted["state"], "imported", "{adopted}");
    let id = adopted["id"].as_str().unwrap();
    rig.bae.assert_exact(id, &torrent);
    rig.bae.run(["rm", "--yes", id]).expect(0);
    rig.bae.run(["gc", "--yes"]).expect(0);
    assert_eq!(published(), 1, "the user's file was removed");
}

#[test]
fn an_expired_upload_session_is_reported_and_the_same_command_continues() {
    let rig = Rig::new("");
    let torrent = Recipe::single("expires.bin", 8 * MIB + 5).piece(128 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let mut args = rig.import_args(&torrent, &seeder);
    args.extend(["--layout".into(), "files".into()]);
    rig.drive.fail_requests("PUT", SESSION, 3, 1, FaultKind::Expire);
    rig.bae.run(&args).expect(5).expect_stderr("run the same command again");
    let output = rig.bae.run(&args).expect(0);
    let summary = output.summary();
    rig.bae.assert_verified(&summary.id);
    rig.bae.assert_exact(&summary.id, &torrent);
    rig.bae.run(["gc", "--yes"]).expect(0);
    assert_eq!(rig.drive.files().iter().filter(|file| file.data.len() > 64 << 10).count(), 1);
}

#[test]
fn an_access_token_in_an_environment_variable_is_enough() {
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
    let summary = wait_for(Process::start("bae", &command)).expect(0).summary();
    let mut command = bae.command(["verify", &summary.id]);
    command.envs(drive.env());
    wait_for(Process::start("bae", &command)).expect(0);
    // Without the token, the error names the variable that is missing.
    bae.run(["verify", &summary.id]).expect(3).expect_stderr("BAE_DRIVE_TOKEN");
    let help = bae.command(["--help"]).env("BAE_DRIVE_TOKEN", "hunter2").output().unwrap();
    assert!(!String::from_utf8_lossy(&help.stdout).contains("hunter2"));
}

/// Sends one GET, as a browser does. Returns the URL of the redirect.
fn follow_redirect(url: &str) -> Option<String> {
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
fn profile_without_login(rig: &Rig) -> String {
    let profile = rig.drive.profile("music", Some(&rig.folder));
    let lines: Vec<&str> = profile.lines().filter(|line| !line.contains("refresh_token")).collect();
    lines.join("\n")
}

#[test]
fn a_browser_login_is_saved_in_a_file_that_only_the_user_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new("");
    rig.configure(&profile_without_login(&rig));
    let mut running = rig.bae.start(["--json", "-vv", "storage", "login", "music"]);
    let page = running.event("login")["url"].as_str().unwrap().to_owned();
    let redirect = follow_redirect(&page).expect("the consent page redirects");
    // A request with a guessed `state` is rejected.
    let origin = &redirect[..redirect.find("/?").unwrap()];
    assert_eq!(follow_redirect(&format!("{origin}/?state=guess&code=stolen")), None);
    follow_redirect(&redirect);
    let output = running.wait(LONG).expect(0);
    assert_no_secrets(&output.stdout);
    assert_no_secrets(&output.stderr);
    let secrets = rig.bae.home().join("config/bae/secrets.toml");
    assert_eq!(fs::metadata(&secrets).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&secrets).unwrap().contains(REFRESH_TOKEN));
    let torrent = Recipe::single("after login.bin", MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    rig.bae.run(rig.import_args(&torrent, &seeder)).expect(0);
}

#[test]
fn a_device_logs_in_with_a_code() {
    let rig = Rig::new("");
    rig.configure(&profile_without_login(&rig));
    rig.drive.device_answers(&["authorization_pending", "access_denied"]);
    rig.bae
        .run(["storage", "login", "music", "--device"])
        .expect(24)
        .expect_stderr("access was denied");
    rig.drive.device_answers(&["authorization_pending", ""]);
    rig.bae.run(["storage", "login", "music", "--device"]).expect(0).expect_stderr("ABCD-EFGH");
    assert!(rig.bae.home().join("config/bae/secrets.toml").is_file());
    rig.bae.run(["storage", "login", "file"]).expect(1).expect_stderr("drive");
}
