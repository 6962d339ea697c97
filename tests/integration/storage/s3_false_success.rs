//! Answers of an S3 server, or of another server in its place, that do not prove success: bae checks before it
//! counts them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bae::{
    Kind, Result,
    backends::{
        InMemoryState, Key, Payload, S3Backend, S3Settings, StorageBackend, UploadLayout, list_all,
    },
};
use bytes::Bytes;
use url::Url;

use crate::support::{
    s3_server::runtime,
    scripted_http::{Answer, Request, ScriptedHttp},
};

async fn open_at(endpoint: &str) -> S3Backend {
    let settings = S3Settings {
        bucket: "b".into(),
        endpoint: Some(Url::parse(endpoint).unwrap()),
        access_key_id: Some("id".into()),
        secret_access_key: Some("hunter2".into()),
        ..S3Settings::default()
    };
    S3Backend::open(settings, Arc::new(InMemoryState::default())).await.unwrap()
}

async fn open(server: &ScriptedHttp) -> S3Backend {
    open_at(&server.url()).await
}

fn key() -> Key {
    Key::new("a/k").unwrap()
}

fn small_payload() -> Payload {
    Payload::from_iter([Bytes::from_static(b"hello world")])
}

fn put(server: &ScriptedHttp) -> Result<()> {
    runtime().block_on(async { open(server).await.put(&key(), small_payload()).await })
}

fn web_page() -> Answer {
    let text = "<!DOCTYPE html><title>Blocked</title>";
    Answer::new(200, text).with("Content-Type", "text/html; charset=utf-8")
}

fn with_etag() -> Answer {
    Answer::new(200, "").with("ETag", "\"x\"")
}

#[test]
fn a_put_with_an_unproven_answer_is_checked_with_a_head() {
    let put_with_answer = |answer: Answer, head_len: Option<usize>| {
        let server = ScriptedHttp::start(move |_, request| {
            Some(match request.method.as_str() {
                "PUT" => answer.clone(),
                _ => head_len.map_or(Answer::head(404, 0), |len| Answer::head(200, len)),
            })
        });
        let put = put(&server);
        assert_eq!(server.requests().len(), 2, "one PUT and one HEAD");
        put
    };
    for answer in [web_page(), Answer::new(200, ""), Answer::new(200, "ok"), Answer::new(204, "")] {
        put_with_answer(answer.clone(), Some(11)).unwrap();
        for head_len in [None, Some(10)] {
            let error = put_with_answer(answer.clone(), head_len).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput, "{}", error.report());
            assert!(error.hint_text().is_some(), "{error:?}");
        }
    }
    let error = put_with_answer(web_page(), None).unwrap_err();
    assert!(
        error.report().contains("this is not S3: the server sent a web page"),
        "{}",
        error.report()
    );
}

#[test]
fn a_web_page_in_answer_to_a_head_is_not_an_object() {
    let server =
        ScriptedHttp::start(|_, _| Some(Answer::head(200, 11).with("Content-Type", "text/html")));
    let error = runtime().block_on(async { open(&server).await.head(&key()).await }).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput, "{}", error.report());
    let server = ScriptedHttp::start(|_, _| {
        let answer = Answer::head(200, 11).with("Content-Type", "text/html");
        Some(answer.with("ETag", "\"a page that somebody stored\""))
    });
    let found = runtime().block_on(async { open(&server).await.head(&key()).await });
    assert_eq!(found.unwrap(), Some(11));
}

#[test]
fn a_web_page_in_answer_to_a_delete_is_an_error() {
    let server = ScriptedHttp::start(|_, _| Some(web_page()));
    let error = runtime().block_on(async { open(&server).await.delete(&key()).await }).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput, "{}", error.report());
}

fn upload_started() -> Answer {
    let body = "<InitiateMultipartUploadResult><UploadId>u</UploadId>";
    Answer::new(200, format!("{body}</InitiateMultipartUploadResult>"))
}

#[test]
fn a_part_without_an_etag_counts_when_it_is_listed() {
    let listed = "<ListPartsResult><Part><PartNumber>1</PartNumber><ETag>\"p\"</ETag>\
                  <Size>11</Size></Part></ListPartsResult>";
    for (answer, list, ok) in [
        (web_page(), listed, true),
        (Answer::new(200, ""), listed, true),
        (web_page(), "<ListPartsResult></ListPartsResult>", false),
        (Answer::new(200, ""), "<ListPartsResult></ListPartsResult>", false),
    ] {
        let server = ScriptedHttp::start(move |_, request| {
            Some(match request.method.as_str() {
                "POST" => upload_started(),
                "PUT" => answer.clone(),
                _ => Answer::new(200, list),
            })
        });
        let written = runtime().block_on(async {
            let shape = UploadLayout { len: 11, part_len: 11 };
            let upload = open(&server).await.begin_upload(&key(), shape).await.unwrap();
            upload.put_part(0, small_payload()).await
        });
        assert_eq!(written.is_ok(), ok, "{written:?}");
    }
}

#[test]
fn a_finished_upload_without_an_object_is_an_error() {
    let server = ScriptedHttp::start(|_, request| {
        Some(match (request.method.as_str(), request.target.contains("uploads")) {
            ("POST", true) => upload_started(),
            ("POST", false) => web_page(),
            ("PUT", _) => with_etag(),
            ("HEAD", _) => Answer::head(404, 0),
            _ => Answer::error(404, "NoSuchUpload"),
        })
    });
    let finished = runtime().block_on(async {
        let upload =
            open(&server).await.begin_upload(&key(), UploadLayout { len: 11, part_len: 11 }).await;
        let upload = upload.unwrap();
        upload.put_part(0, small_payload()).await.unwrap();
        upload.finish().await
    });
    let error = finished.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput, "{}", error.report());
}

/// A page of a listing with one object, and more to follow.
fn truncated_page(name: &str, token: Option<&str>) -> Answer {
    let token = token.map(|t| format!("<NextContinuationToken>{t}</NextContinuationToken>"));
    Answer::new(
        200,
        format!(
            "<ListBucketResult><IsTruncated>true</IsTruncated>{}\
             <Contents><Key>{name}</Key><Size>1</Size></Contents></ListBucketResult>",
            token.unwrap_or_default()
        ),
    )
}

#[test]
fn a_listing_that_ends_early_or_repeats_is_a_permanent_error() {
    // Without a token the next page is requested by the last key, then with the first version of the API.
    for (token, requests) in [(None, 3), (Some("again"), 2)] {
        let server = ScriptedHttp::start(move |_, _| Some(truncated_page("a", token)));
        let listed = runtime().block_on(async { list_all(&open(&server).await, "").await });
        let error = listed.unwrap_err();
        assert!(!error.kind().is_retryable(), "{}", error.report());
        assert!(
            error.report().contains("incomplete listing: the server reports more objects"),
            "{}",
            error.report()
        );
        assert_eq!(server.requests().len(), requests, "{token:?}");
    }
    let empty = "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
    let server = ScriptedHttp::start(move |_, _| Some(Answer::new(200, empty)));
    assert!(runtime().block_on(async { list_all(&open(&server).await, "").await }).is_err());
}

#[test]
fn a_server_with_only_version_1_listings_is_listed_completely() {
    let server = ScriptedHttp::start(|_, request| {
        let names = ["a", "b", "c"];
        let query = request.target.split_once('?').map_or("", |(_, query)| query);
        let marker = query.split('&').find_map(|field| field.strip_prefix("marker="));
        let next = names.iter().find(|name| marker.is_none_or(|marker| **name > marker)).unwrap();
        Some(match *next {
            "c" => Answer::new(
                200,
                "<ListBucketResult><IsTruncated>false</IsTruncated>\
                 <Contents><Key>c</Key><Size>1</Size></Contents></ListBucketResult>",
            ),
            name => truncated_page(name, None),
        })
    });
    let listed = runtime().block_on(async { list_all(&open(&server).await, "").await }).unwrap();
    let keys: Vec<_> = listed.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "c"]);
}

#[test]
fn an_endless_listing_of_uploads_is_an_error() {
    let uploads = "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>\
                   <Upload><Key>a/k</Key><UploadId>u</UploadId></Upload></ListMultipartUploadsResult>";
    let server = ScriptedHttp::start(move |_, _| Some(Answer::new(200, uploads)));
    let error =
        runtime().block_on(async { open(&server).await.list_uploads("").await }).unwrap_err();
    assert!(error.report().contains("incomplete listing"), "{}", error.report());
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_bucket_that_requires_checksums_gets_them() {
    let refusals = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refusals);
    let server = ScriptedHttp::start(move |_, request: &Request| {
        let checksum = request.header("content-md5");
        Some(match (request.method.as_str(), checksum) {
            ("POST", _) => upload_started(),
            ("PUT", Some("XrY7u+Ae7tCTyyK7j1rNww==")) => with_etag(),
            ("PUT", None) => {
                counted.fetch_add(1, Ordering::Relaxed);
                let message = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object \
                           requests with Object Lock parameters";
                let body = format!(
                    "<Error><Code>InvalidRequest</Code><Message>{message}</Message></Error>"
                );
                Answer::new(400, body)
            }
            _ => Answer::error(400, "BadDigest"),
        })
    });
    runtime().block_on(async {
        let backend = open(&server).await;
        backend.put(&key(), small_payload()).await.unwrap();
        backend.put(&key(), small_payload()).await.unwrap();
        let upload =
            backend.begin_upload(&key(), UploadLayout { len: 11, part_len: 11 }).await.unwrap();
        upload.put_part(0, small_payload()).await.unwrap();
    });
    assert_eq!(refusals.load(Ordering::Relaxed), 1, "the checksum is refused more than once");
}

#[test]
fn an_endpoint_with_a_path_needs_no_trailing_slash() {
    for end in ["", "/"] {
        let server = ScriptedHttp::start(|_, _| Some(with_etag()));
        let endpoint = format!("{}/storage/v1/s3{end}", server.url());
        runtime()
            .block_on(async { open_at(&endpoint).await.put(&key(), small_payload()).await })
            .unwrap();
        let target = server.requests()[0].target.clone();
        assert!(target.starts_with("/storage/v1/s3/b/a/k"), "{target}");
    }
}
