//! Answers of an S3 server, or of another server in its place, that do not prove success: bae checks before it
//! counts them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bae::{
    Kind, Result,
    backends::{Key, MemoryNotes, Payload, S3Backend, S3Settings, Shape, StorageBackend, list_all},
};
use bytes::Bytes;
use url::Url;

use crate::support::{
    s3_server::runtime,
    scripted::{Answer, Request, Scripted},
};

async fn open_at(endpoint: &str) -> S3Backend {
    let settings = S3Settings {
        bucket: "b".into(),
        endpoint: Some(Url::parse(endpoint).unwrap()),
        access_key_id: Some("id".into()),
        secret_access_key: Some("hunter2".into()),
        ..S3Settings::default()
    };
    S3Backend::open(settings, Arc::new(MemoryNotes::default())).await.unwrap()
}

async fn open(server: &Scripted) -> S3Backend {
    open_at(&server.url()).await
}

fn key() -> Key {
    Key::new("a/k").unwrap()
}

fn small() -> Payload {
    Payload::from_iter([Bytes::from_static(b"hello world")])
}

fn put(server: &Scripted) -> Result<()> {
    runtime().block_on(async { open(server).await.put(&key(), small()).await })
}

fn page() -> Answer {
    let text = "<!DOCTYPE html><title>Blocked</title>";
    Answer::new(200, text).with("Content-Type", "text/html; charset=utf-8")
}

fn tagged() -> Answer {
    Answer::new(200, "").with("ETag", "\"x\"")
}

#[test]
fn a_put_that_nothing_of_a_storage_answered_is_looked_for() {
    let told = |answer: Answer, there: Option<usize>| {
        let server = Scripted::start(move |_, request| {
            Some(match request.method.as_str() {
                "PUT" => answer.clone(),
                _ => there.map_or(Answer::head(404, 0), |len| Answer::head(200, len)),
            })
        });
        let put = put(&server);
        assert_eq!(server.requests().len(), 2, "one PUT and one HEAD");
        put
    };
    for answer in [page(), Answer::new(200, ""), Answer::new(200, "ok"), Answer::new(204, "")] {
        told(answer.clone(), Some(11)).unwrap();
        for there in [None, Some(10)] {
            let error = told(answer.clone(), there).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput, "{}", error.report());
            assert!(error.hint_text().is_some(), "{error:?}");
        }
    }
    let error = told(page(), None).unwrap_err();
    assert!(error.report().contains("this is not S3: a web page came"), "{}", error.report());
}

#[test]
fn a_head_that_a_page_answers_is_no_object() {
    let server =
        Scripted::start(|_, _| Some(Answer::head(200, 11).with("Content-Type", "text/html")));
    let error = runtime().block_on(async { open(&server).await.head(&key()).await }).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput, "{}", error.report());
    let server = Scripted::start(|_, _| {
        let answer = Answer::head(200, 11).with("Content-Type", "text/html");
        Some(answer.with("ETag", "\"a page that somebody stored\""))
    });
    let found = runtime().block_on(async { open(&server).await.head(&key()).await });
    assert_eq!(found.unwrap(), Some(11));
}

#[test]
fn a_delete_that_a_page_answers_did_not_happen() {
    let server = Scripted::start(|_, _| Some(page()));
    let error = runtime().block_on(async { open(&server).await.delete(&key()).await }).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput, "{}", error.report());
}

fn begun() -> Answer {
    let body = "<InitiateMultipartUploadResult><UploadId>u</UploadId>";
    Answer::new(200, format!("{body}</InitiateMultipartUploadResult>"))
}

#[test]
fn a_part_without_a_tag_counts_when_it_is_listed() {
    let listed = "<ListPartsResult><Part><PartNumber>1</PartNumber><ETag>\"p\"</ETag>\
                  <Size>11</Size></Part></ListPartsResult>";
    for (answer, list, ok) in [
        (page(), listed, true),
        (Answer::new(200, ""), listed, true),
        (page(), "<ListPartsResult></ListPartsResult>", false),
        (Answer::new(200, ""), "<ListPartsResult></ListPartsResult>", false),
    ] {
        let server = Scripted::start(move |_, request| {
            Some(match request.method.as_str() {
                "POST" => begun(),
                "PUT" => answer.clone(),
                _ => Answer::new(200, list),
            })
        });
        let written = runtime().block_on(async {
            let shape = Shape { len: 11, part_len: 11 };
            let upload = open(&server).await.begin(&key(), shape).await.unwrap();
            upload.write(0, small()).await
        });
        assert_eq!(written.is_ok(), ok, "{written:?}");
    }
}

#[test]
fn an_object_that_was_finished_and_is_not_there_is_an_error() {
    let server = Scripted::start(|_, request| {
        Some(match (request.method.as_str(), request.target.contains("uploads")) {
            ("POST", true) => begun(),
            ("POST", false) => page(),
            ("PUT", _) => tagged(),
            ("HEAD", _) => Answer::head(404, 0),
            _ => Answer::error(404, "NoSuchUpload"),
        })
    });
    let finished = runtime().block_on(async {
        let upload = open(&server).await.begin(&key(), Shape { len: 11, part_len: 11 }).await;
        let upload = upload.unwrap();
        upload.write(0, small()).await.unwrap();
        upload.finish().await
    });
    let error = finished.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput, "{}", error.report());
}

/// A page of a listing with one object, and more to follow.
fn one_of_more(name: &str, token: Option<&str>) -> Answer {
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
fn a_listing_that_breaks_off_or_goes_in_circles_is_an_error_at_once() {
    // Without a token the next page is requested by the last key, then with the first version of the API.
    for (token, requests) in [(None, 3), (Some("again"), 2)] {
        let server = Scripted::start(move |_, _| Some(one_of_more("a", token)));
        let listed = runtime().block_on(async { list_all(&open(&server).await, "").await });
        let error = listed.unwrap_err();
        assert!(!error.kind().is_retryable(), "{}", error.report());
        assert!(error.report().contains("the listing does not go on"), "{}", error.report());
        assert_eq!(server.requests().len(), requests, "{token:?}");
    }
    let empty = "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
    let server = Scripted::start(move |_, _| Some(Answer::new(200, empty)));
    assert!(runtime().block_on(async { list_all(&open(&server).await, "").await }).is_err());
}

#[test]
fn a_server_that_knows_the_first_version_of_listings_is_listed_to_the_end() {
    let server = Scripted::start(|_, request| {
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
            name => one_of_more(name, None),
        })
    });
    let listed = runtime().block_on(async { list_all(&open(&server).await, "").await }).unwrap();
    let keys: Vec<_> = listed.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "c"]);
}

#[test]
fn uploads_and_parts_that_are_listed_without_an_end_are_errors() {
    let uploads = "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>\
                   <Upload><Key>a/k</Key><UploadId>u</UploadId></Upload></ListMultipartUploadsResult>";
    let server = Scripted::start(move |_, _| Some(Answer::new(200, uploads)));
    let error = runtime().block_on(async { open(&server).await.unfinished("").await }).unwrap_err();
    assert!(error.report().contains("does not go on"), "{}", error.report());
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_bucket_that_insists_on_checksums_gets_them() {
    let refusals = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refusals);
    let server = Scripted::start(move |_, request: &Request| {
        let sum = request.header("content-md5");
        Some(match (request.method.as_str(), sum) {
            ("POST", _) => begun(),
            ("PUT", Some("XrY7u+Ae7tCTyyK7j1rNww==")) => tagged(),
            ("PUT", None) => {
                counted.fetch_add(1, Ordering::Relaxed);
                let why = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object \
                           requests with Object Lock parameters";
                let body =
                    format!("<Error><Code>InvalidRequest</Code><Message>{why}</Message></Error>");
                Answer::new(400, body)
            }
            _ => Answer::error(400, "BadDigest"),
        })
    });
    runtime().block_on(async {
        let backend = open(&server).await;
        backend.put(&key(), small()).await.unwrap();
        backend.put(&key(), small()).await.unwrap();
        let upload = backend.begin(&key(), Shape { len: 11, part_len: 11 }).await.unwrap();
        upload.write(0, small()).await.unwrap();
    });
    assert_eq!(refusals.load(Ordering::Relaxed), 1, "it is learnt once");
}

#[test]
fn an_endpoint_with_a_path_needs_no_slash_at_its_end() {
    for end in ["", "/"] {
        let server = Scripted::start(|_, _| Some(tagged()));
        let endpoint = format!("{}/storage/v1/s3{end}", server.url());
        runtime().block_on(async { open_at(&endpoint).await.put(&key(), small()).await }).unwrap();
        let target = server.requests()[0].target.clone();
        assert!(target.starts_with("/storage/v1/s3/b/a/k"), "{target}");
    }
}
