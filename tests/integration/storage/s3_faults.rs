//! Faults of S3 servers, from a script: every answer is verified, and a temporary error is reported as temporary.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use bae::{
    Kind, Result,
    backends::{
        InMemoryState, Key, Payload, RetryPolicy, Retrying, S3Backend, S3Settings, StorageBackend,
        UploadLayout,
    },
};
use bytes::Bytes;
use url::Url;

use crate::support::{
    s3_server::runtime,
    scripted_http::{Answer, Request, ScriptedHttp},
};

async fn open(server: &ScriptedHttp) -> S3Backend {
    let settings = S3Settings {
        bucket: "b".into(),
        endpoint: Some(Url::parse(&server.url()).unwrap()),
        access_key_id: Some("id".into()),
        secret_access_key: Some("hunter2".into()),
        ..S3Settings::default()
    };
    S3Backend::open(settings, Arc::new(InMemoryState::default())).await.unwrap()
}

fn key() -> Key {
    Key::new("a/k").unwrap()
}

fn put(server: &ScriptedHttp, payload: Payload) -> Result<()> {
    runtime().block_on(async { open(server).await.put(&key(), payload).await })
}

fn get(server: &ScriptedHttp, range: Range<u64>) -> Result<Bytes> {
    runtime().block_on(async { open(server).await.get(&key(), range).await })
}

fn small_payload() -> Payload {
    Payload::from_iter([Bytes::from_static(b"hello"), Bytes::from_static(b" world")])
}

#[test]
fn a_put_is_signed_with_its_payload_hash_and_has_a_content_length() {
    let server = ScriptedHttp::start(|_, _| Some(Answer::new(200, "").with("ETag", "\"x\"")));
    // More than one frame and more than one socket write.
    let parts = (0..512).map(|n| Bytes::from(vec![n as u8; 4096])).collect::<Payload>();
    put(&server, parts.clone()).unwrap();
    let request = &server.requests()[0];
    assert_eq!(
        (request.method.as_str(), request.target.split('?').next()),
        ("PUT", Some("/b/a/k"))
    );
    assert!(request.body == parts.to_bytes());
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &request.body);
    let hash: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(request.header("x-amz-content-sha256"), Some(hash.as_str()));
    assert_eq!(request.header("content-length"), Some("2097152"));
    assert_eq!(request.header("content-type"), Some("application/octet-stream"));
    for absent in ["content-encoding", "transfer-encoding", "x-amz-trailer", "expect"] {
        assert_eq!(request.header(absent), None, "{absent}");
    }
    let checksum = request.headers.iter().find(|(n, _)| n.contains("checksum"));
    assert_eq!(checksum, None);
    assert!(request.header("user-agent").unwrap().contains("app/bae"), "{request:?}");
}

#[test]
fn retry_after_of_an_s3_server_is_followed() {
    let server = ScriptedHttp::start(|n, _| {
        Some(match n {
            0 => Answer::error(503, "SlowDown").with("Retry-After", 2),
            _ => Answer::new(200, ""),
        })
    });
    let error = put(&server, small_payload()).unwrap_err();
    assert_eq!(
        (error.kind(), error.requested_wait()),
        (Kind::RateLimited, Some(Duration::from_secs(2)))
    );
    let server = ScriptedHttp::start(|n, _| {
        Some(match n {
            0 => Answer::error(503, "SlowDown").with("Retry-After", 2),
            _ => Answer::new(200, "").with("ETag", "\"x\""),
        })
    });
    let start = Instant::now();
    runtime().block_on(async {
        let policy = RetryPolicy { base: Duration::from_millis(1), ..RetryPolicy::default() };
        let retrying = Retrying::with_policy(open(&server).await, policy);
        retrying.put(&key(), small_payload()).await.unwrap();
    });
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(server.requests().len(), 2, "the SDK retries by itself");
}

#[test]
fn an_error_body_with_status_200_is_an_error() {
    let server = ScriptedHttp::start(|_, _| Some(Answer::error(200, "InternalError")));
    let error = put(&server, small_payload()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{}", error.report());
}

#[test]
fn a_finish_that_failed_with_status_200_can_be_repeated() {
    let shape = UploadLayout { len: 11, part_len: 11 };
    let script = |finishes: Arc<AtomicUsize>| {
        move |_, request: &Request| {
            let (method, query) = (request.method.as_str(), request.target.as_str());
            Some(match method {
                "POST" if query.contains("uploads") => {
                    let body = "<InitiateMultipartUploadResult><UploadId>u</UploadId>";
                    Answer::new(200, format!("{body}</InitiateMultipartUploadResult>"))
                }
                "POST" if finishes.fetch_add(1, Ordering::Relaxed) == 0 => {
                    Answer::error(200, "InternalError")
                }
                // The object exists: the first finish succeeded.
                "POST" => Answer::error(404, "NoSuchUpload"),
                "PUT" => Answer::new(200, "").with("ETag", "\"p\""),
                "HEAD" => Answer::head(200, 11),
                _ => Answer::error(404, "NoSuchUpload"),
            })
        }
    };
    let server = ScriptedHttp::start(script(Arc::default()));
    runtime().block_on(async {
        let upload = open(&server).await.begin_upload(&key(), shape).await.unwrap();
        upload.put_part(0, small_payload()).await.unwrap();
        let error = upload.finish().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{}", error.report());
        upload.finish().await.unwrap();
    });
}

#[test]
fn a_put_without_an_answer_is_checked_with_a_head() {
    for (head_len, ok) in [(Some(11), true), (Some(10), false), (None, false)] {
        let server = ScriptedHttp::start(move |_, request| match request.method.as_str() {
            "PUT" => None,
            "HEAD" => Some(head_len.map_or(Answer::head(404, 0), |len| Answer::head(200, len))),
            _ => Some(Answer::new(200, "<ListBucketResult></ListBucketResult>")),
        });
        let put = put(&server, small_payload()).map_err(|e| e.kind());
        assert_eq!(put, if ok { Ok(()) } else { Err(Kind::Network) }, "{head_len:?}");
    }
}

#[test]
fn the_reason_for_a_put_without_an_answer_is_requested() {
    let server = ScriptedHttp::start(|_, request| match request.method.as_str() {
        "PUT" => None,
        "HEAD" => Some(Answer::head(404, 0)),
        _ => Some(Answer::error(404, "NoSuchBucket")),
    });
    let error = put(&server, small_payload()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{}", error.report());
    assert!(error.report().contains("NoSuchBucket"), "{}", error.report());
}

const WHOLE: &[u8] = b"0123456789";

/// The part of [`WHOLE`] that a request asks for.
fn ranged(request: &Request) -> Answer {
    let range = request.header("range").unwrap().strip_prefix("bytes=").unwrap().to_owned();
    let (first, last) = range.split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    Answer::new(206, &WHOLE[first..=last])
        .with("Content-Range", format!("bytes {first}-{last}/{}", WHOLE.len()))
}

#[test]
fn a_truncated_body_is_resumed_where_it_ended() {
    let server = ScriptedHttp::start(|n, request| {
        let answer = ranged(request);
        Some(if n == 0 { answer.truncated(3) } else { answer })
    });
    assert_eq!(&get(&server, 1..9).unwrap()[..], &WHOLE[1..9]);
    assert_eq!(server.requests()[1].header("range"), Some("bytes=4-8"));
    let server = ScriptedHttp::start(|_, request| Some(ranged(request).truncated(1)));
    let error = get(&server, 1..9).unwrap_err();
    assert_eq!(error.kind(), Kind::Network, "{}", error.report());
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_wrong_range_is_never_returned() {
    let get_with_answer = |status: u16, header: Option<&str>, body: &[u8]| {
        let answer = Answer::new(status, body);
        let answer = header.map_or(answer.clone(), |range| answer.with("Content-Range", range));
        let server = ScriptedHttp::start(move |_, _| Some(answer.clone()));
        get(&server, 2..6).map_err(|e| e.kind())
    };
    assert_eq!(get_with_answer(206, Some("bytes 3-6/10"), b"3456"), Err(Kind::Unsupported));
    assert_eq!(get_with_answer(200, None, WHOLE), Err(Kind::Unsupported));
    assert_eq!(get_with_answer(206, Some("bytes 2-4/5"), b"234"), Err(Kind::Corrupt));
    assert_eq!(get_with_answer(200, None, b"012"), Err(Kind::Corrupt));
    assert_eq!(get_with_answer(206, Some("bytes 2-5/10"), b"2345").unwrap(), "2345");
}

#[test]
fn a_wrong_region_is_reported_with_the_right_one() {
    let server = ScriptedHttp::start(|_, _| {
        let region = "<Region>eu-west-3</Region>";
        let body = format!("<Error><Code>AuthorizationHeaderMalformed</Code>{region}</Error>");
        Some(Answer::new(400, body))
    });
    let error = put(&server, small_payload()).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput);
    assert!(error.hint_text().unwrap().contains("region=eu-west-3"), "{error:?}");
    let server = ScriptedHttp::start(|_, _| {
        Some(Answer::head(301, 0).with("x-amz-bucket-region", "ap-south-1"))
    });
    let head = runtime().block_on(async { open(&server).await.head(&key()).await });
    assert!(head.unwrap_err().hint_text().unwrap().contains("region=ap-south-1"));
}

fn http_date(time: SystemTime) -> String {
    DateTime::from(time).fmt(DateTimeFormat::HttpDate).unwrap()
}

/// The difference in seconds between the time in a request's signature and `time`.
fn clock_skew(request: &Request, time: SystemTime) -> u64 {
    let text = request.header("x-amz-date").unwrap();
    let (date, clock) = text.split_once('T').unwrap();
    let (year, rest) = date.split_at(4);
    let (month, day) = rest.split_at(2);
    let (hour, minute, second) = (&clock[..2], &clock[2..4], &clock[4..6]);
    let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    let signed = DateTime::from_str(&text, DateTimeFormat::DateTime).unwrap();
    signed.secs().abs_diff(DateTime::from(time).secs())
}

#[test]
fn a_clock_that_is_twenty_minutes_off_is_corrected() {
    let minutes = Duration::from_secs(20 * 60);
    for ahead in [true, false] {
        let time = move || {
            let now = SystemTime::now();
            if ahead { now + minutes } else { now - minutes }
        };
        let server = ScriptedHttp::start(move |_, request| {
            let answer = match (clock_skew(request, time()) < 15 * 60, request.method.as_str()) {
                (true, "HEAD") => Answer::head(200, 5),
                (true, _) => Answer::new(200, "").with("ETag", "\"x\""),
                (false, "HEAD") => Answer::head(403, 0),
                (false, _) => Answer::error(403, "RequestTimeTooSkewed"),
            };
            Some(answer.with("Date", http_date(time())))
        });
        runtime().block_on(async {
            let backend = open(&server).await;
            let error = backend.put(&key(), small_payload()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Unavailable, "{}", error.report());
            backend.put(&key(), small_payload()).await.unwrap();
            // The answer to a HEAD has no body and no error code, so its first refusal counts as temporary too.
            let other = open(&server).await;
            let error = other.head(&key()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Unavailable, "{}", error.report());
            assert_eq!(other.head(&key()).await.unwrap(), Some(5));
            let link = other.url(&key(), Duration::from_secs(60)).await.unwrap();
            let signed = link.query_pairs().find(|(n, _)| n == "X-Amz-Date").unwrap().1;
            let as_header = vec![("x-amz-date".into(), signed.into_owned())];
            let request = Request { headers: as_header, ..server.requests()[0].clone() };
            assert!(clock_skew(&request, time()) < 60, "{link}");
        });
    }
}
