//! Unusual answers of HTTP servers: the file is whole, or the error names the reason. A part never counts as the
//! whole.

use std::{fs, time::SystemTime};

use bae::protocols::{
    Protocols,
    conformance::{self, UnusualResponse},
};
use bytes::Bytes;

use crate::support::{
    LONG, LONG_TIMEOUT, MIB,
    bae::Bae,
    get::{assert_file, event, get, out_path, ranged, start},
    h2_server::H2Server,
    random,
    s3_server::runtime,
    scripted_http::{Answer, Request, ScriptedHttp},
};

/// The answer to a request for a body.
type Script = fn(&Request, &[u8]) -> Answer;
/// The answer, given also the number of earlier requests.
type NthScript = fn(usize, &Request, &[u8]) -> Answer;

const DATE: &str = "Mon, 02 Nov 2020 11:00:00 GMT";

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut coded = Vec::new();
    for part in body.chunks(1000) {
        coded.extend(format!("{:x}\r\n", part.len()).into_bytes());
        coded.extend([part, b"\r\n"].concat());
    }
    coded.extend(b"0\r\n\r\n");
    coded
}

fn chunked_with_length(content_length: usize, body: &[u8]) -> Answer {
    Answer::without_length(200, chunked(body))
        .with("Content-Length", content_length)
        .with("Transfer-Encoding", "chunked")
}

/// Imports the file at `url` and returns the stored bytes.
fn import_bytes(url: &str) -> Vec<u8> {
    let bae = Bae::new();
    let storage = bae.storage_url();
    let id = bae.run(["--json", "import", url, "--storage", &storage]).expect(0).summary().id;
    bae.stdout_of(["cat", &id])
}

/// Every unusual answer to a GET, as cases of the protocols' conformance suite.
#[test]
fn unusual_answers_are_the_whole_file_or_an_error() {
    let body = random(101, 30_000);
    let table: Vec<(&str, Script, bool)> = vec![
        ("a length of fewer bytes with chunks", |_, body| chunked_with_length(5, body), true),
        ("a length of more bytes with chunks", |_, body| chunked_with_length(40_000, body), true),
        ("neither length nor chunks", |_, body| Answer::without_length(200, body), true),
        ("a body that ends early", |_, body| Answer::new(200, body).truncated(9000), false),
        (
            "chunks without a last one",
            |_, body| {
                let coded = chunked(body);
                let cut = coded.len() - 5;
                Answer::without_length(200, &coded[..cut]).with("Transfer-Encoding", "chunked")
            },
            false,
        ),
        (
            "a range without Content-Range",
            |request, body| match request.header("range") {
                Some(_) => Answer::new(206, &body[..9000]),
                None => Answer::new(200, body),
            },
            true,
        ),
        (
            "a range of an unknown length",
            |request, body| match request.header("range") {
                Some(_) => Answer::new(206, body).with("Content-Range", "bytes 0-29999/*"),
                None => Answer::new(200, body),
            },
            true,
        ),
        (
            "another range",
            |request, body| match request.header("range") {
                Some(_) => {
                    Answer::new(206, &body[1..]).with("Content-Range", "bytes 1-29999/30000")
                }
                None => Answer::new(200, body),
            },
            true,
        ),
        (
            "a range that was not requested",
            |_, body| Answer::new(206, &body[..9000]).with("Content-Range", "bytes 7-9006/30000"),
            false,
        ),
        (
            "a range that is shorter than its Content-Range",
            |request, body| match request.header("range") {
                Some(_) => {
                    Answer::new(206, &body[..9000]).with("Content-Range", "bytes 0-29999/30000")
                }
                None => Answer::new(200, body),
            },
            true,
        ),
        (
            "a part with status 200",
            |request, body| match request.header("range") {
                Some(_) => {
                    Answer::new(200, &body[..9000]).with("Content-Range", "bytes 0-8999/30000")
                }
                None => Answer::new(200, body),
            },
            true,
        ),
        (
            "a coding that was not requested",
            |_, body| {
                Answer::without_length(200, chunked(body))
                    .with("Transfer-Encoding", "gzip, chunked")
            },
            false,
        ),
        ("an unknown status", |_, body| Answer::new(299, body), false),
    ];
    for (what, answer, whole) in table {
        let served = body.clone();
        let server = ScriptedHttp::start(move |_, request| Some(answer(request, &served)));
        let url: url::Url = format!("{}/f", server.url()).parse().unwrap();
        let protocol = Protocols::new(Default::default()).for_url(&url, None).unwrap();
        let body = whole.then(|| Bytes::from(body.clone()));
        let oddity = UnusualResponse { description: what, url, body };
        runtime().block_on(conformance::check_unusual_response(&*protocol, &oddity));
    }
}

#[test]
fn content_length_is_ignored_with_chunked_encoding() {
    let body = random(102, 300_000);
    for content_length in [5, 299_999, 400_000] {
        let served = body.clone();
        let server =
            ScriptedHttp::start(move |_, _| Some(chunked_with_length(content_length, &served)));
        let (url, bae) = (format!("{}/f", server.url()), Bae::new());
        get(&bae, &[&url]).expect(0);
        assert_file(&out_path(&bae, "f"), &body);
        assert!(import_bytes(&url) == body, "stored, with a length of {content_length}");
    }
}

#[test]
fn an_http_2_reset_without_an_error_code_is_not_the_end_of_a_body() {
    let body = random(103, 60_000);
    for content_length in [None, Some(body.len())] {
        // The first three answers are reset, after 0, 20,000 and 40,000 bytes.
        let server = H2Server::start(body.clone(), content_length, &[0, 20_000, 40_000]);
        let (bae, ca) = (Bae::new(), server.ca());
        get(&bae, &[&server.url("/f"), "--cacert", &ca]).expect(0);
        assert_file(&out_path(&bae, "f"), &body);
        assert!(server.requests() >= 4, "{} requests", server.requests());
        let server = H2Server::start(body.clone(), content_length, &[20_000; 9]);
        let (bae, ca) = (Bae::new(), server.ca());
        get(&bae, &[&server.url("/f"), "--cacert", &ca, "-m", "2"])
            .expect(6)
            .expect_stderr("reset");
        assert!(!out_path(&bae, "f").exists());
    }
}

/// The first answer breaks off, so that the rest is requested as a range.
fn truncate_first(n: usize, answer: Answer) -> Answer {
    if n == 0 { answer.truncated(1_500_000) } else { answer }
}

#[test]
fn if_range_is_omitted_for_servers_that_answer_it_with_the_whole_file() {
    let body = random(104, 3 * MIB);
    let serve = |name: &'static str, value: &'static str| {
        let served = body.clone();
        ScriptedHttp::start(move |n, request| {
            Some(match request.header("if-range") {
                Some(_) => Answer::new(200, &*served).with(name, value),
                None => truncate_first(n, ranged(request, &served).with(name, value)),
            })
        })
    };
    for (name, value) in [("ETag", "\"a\""), ("Last-Modified", DATE)] {
        let (server, bae) = (serve(name, value), Bae::new());
        // With one connection. More connections might send `If-Range` before the server's behaviour is known.
        let output = get(&bae, &[&format!("{}/f", server.url()), "-x", "1"]).expect(0);
        assert_file(&out_path(&bae, "f"), &body);
        assert_eq!(
            event(&output, "fetched")["downloaded"],
            body.len(),
            "{name}: received bytes were discarded"
        );
        let conditional =
            server.requests().iter().filter(|r| r.header("if-range").is_some()).count();
        assert_eq!(conditional, 1, "{name}: If-Range was sent again");
    }
    let server = serve("ETag", "\"a\"");
    assert!(import_bytes(&format!("{}/f", server.url())) == body, "stored");
}

#[test]
fn a_range_requested_without_if_range_must_have_the_same_validator() {
    let body = random(105, 3 * MIB);
    for tag in ["\"b\"", ""] {
        let served = body.clone();
        let server = ScriptedHttp::start(move |n, request| {
            let answer = ranged(request, &served);
            Some(match request.header("if-range") {
                Some(_) => Answer::new(200, &*served).with("ETag", "\"a\""),
                None if n == 0 => truncate_first(n, answer.with("ETag", "\"a\"")),
                None if request.header("range") == Some("bytes=0-") => Answer::new(404, ""),
                None if tag.is_empty() => answer,
                None => answer.with("ETag", tag),
            })
        });
        let bae = Bae::new();
        get(&bae, &[&format!("{}/f", server.url()), "-m", "2"]).expect(1);
        assert!(!out_path(&bae, "f").exists(), "{tag:?}");
    }
}

#[test]
fn the_first_answer_is_the_file_whatever_later_answers_say() {
    let body = random(106, 4 * MIB);
    let table: Vec<(&str, NthScript)> = vec![
        ("a page whose length varies", |n, _, body| Answer::new(200, &body[n..])),
        ("a log that grows", |n, request, body| {
            let mut body = body.to_vec();
            body.extend(vec![b'x'; n]);
            ranged(request, &body)
        }),
        ("another tag each time", |n, request, body| {
            ranged(request, body).with("ETag", format!("\"{n}\""))
        }),
        ("a link that works once", |n, request, body| match n {
            0 => ranged(request, body),
            _ => Answer::new(404, ""),
        }),
        ("a login that works once", |n, request, body| match n {
            0 => ranged(request, body),
            _ => Answer::new(401, ""),
        }),
        ("ranges only once", |n, request, body| match n {
            0 => ranged(request, body),
            _ => Answer::new(200, body),
        }),
    ];
    for (what, answer) in table {
        for len in [5000, 4 * MIB as usize] {
            let served = body[..len].to_vec();
            let server = ScriptedHttp::start(move |n, request| Some(answer(n, request, &served)));
            let url = format!("{}/f", server.url());
            let lists = [&[url.as_str()][..], &[&url, "-x", "1"], &[&url, "--fresh"]];
            let runs = if what.contains("once") { 1 } else { lists.len() };
            for list in &lists[..runs] {
                let bae = Bae::new();
                let before = server.requests().len();
                let output = get(&bae, list);
                assert_eq!(output.code, Some(0), "{what}, {len}: {}", output.stderr);
                let got = fs::read(out_path(&bae, "f")).unwrap();
                let at = if what.contains("varies") { before } else { 0 };
                assert!(got.starts_with(&body[at..len]), "{what}, {len}");
            }
        }
    }
}

#[test]
fn a_one_time_link_can_be_imported_and_written_to_stdout() {
    let body = random(107, 12 * MIB);
    let once = |body: &[u8]| {
        let served = body.to_vec();
        ScriptedHttp::start(move |n, request| {
            Some(if n == 0 { ranged(request, &served) } else { Answer::new(404, "") })
        })
    };
    let server = once(&body);
    assert!(import_bytes(&format!("{}/f", server.url())) == body, "stored");
    let server = once(&body);
    let got = Bae::new().stdout_of(["get", &format!("{}/f", server.url()), "-o", "-"]);
    assert!(got == body, "to standard output");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn last_modified_and_length_outweigh_an_etag_that_differs_per_machine() {
    let body = random(108, 3 * MIB);
    for (dated, code) in [(true, 0), (false, 1)] {
        let served = body.clone();
        let server = ScriptedHttp::start(move |n, request| {
            let tag = format!("\"machine {n}\"");
            let answer = match request.header("if-range") {
                Some(value) if value != tag => Answer::new(200, &*served),
                _ => ranged(request, &served),
            };
            let answer = truncate_first(n, answer.with("ETag", tag));
            Some(if dated { answer.with("Last-Modified", DATE) } else { answer })
        });
        let bae = Bae::new();
        let output = get(&bae, &[&format!("{}/f", server.url())]);
        assert_eq!(output.code, Some(code), "dated {dated}: {}", output.stderr);
        assert_eq!(out_path(&bae, "f").exists(), dated);
        if dated {
            assert_file(&out_path(&bae, "f"), &body);
        }
    }
}

#[test]
fn a_refused_first_range_is_requested_without_a_range() {
    let body = random(109, 100_000);
    let table: Vec<(&str, Script)> = vec![
        ("416", |_, _| Answer::new(416, "")),
        ("400", |_, _| Answer::new(400, "")),
        ("403", |_, _| Answer::new(403, "")),
        ("406", |_, _| Answer::new(406, "")),
        ("500", |_, _| Answer::new(500, "")),
        ("503", |_, _| Answer::new(503, "")),
        ("an empty range", |_, _| Answer::new(206, "").with("Content-Range", "bytes 0--1/0")),
        ("units in capitals", |request, body| {
            let range = format!("Bytes 0-{}/{}", body.len() - 1, body.len());
            assert!(request.header("range").is_some());
            Answer::new(206, body).with("Content-Range", range)
        }),
    ];
    for (what, answer) in table {
        let served = body.clone();
        let server = ScriptedHttp::start(move |_, request| {
            Some(match request.header("range") {
                Some(_) => answer(request, &served),
                None => Answer::new(200, &*served),
            })
        });
        let bae = Bae::new();
        let output = get(&bae, &[&format!("{}/f", server.url()), "-m", "1"]);
        assert_eq!(output.code, Some(0), "{what}: {}", output.stderr);
        assert_file(&out_path(&bae, "f"), &body);
    }
    let empty = ScriptedHttp::start(|_, request| {
        Some(Answer::new(if request.header("range").is_some() { 416 } else { 200 }, ""))
    });
    let bae = Bae::new();
    get(&bae, &[&format!("{}/f", empty.url())]).expect(0);
    assert_file(&out_path(&bae, "f"), b"");
    for (status, code) in [(401, 24), (404, 3), (410, 3), (429, 5)] {
        let server = ScriptedHttp::start(move |_, _| Some(Answer::new(status, "")));
        get(&Bae::new(), &[&format!("{}/f", server.url()), "-m", "1"]).expect(code);
        assert_eq!(server.requests().len(), 1, "{status} was retried");
    }
}

#[test]
fn the_rest_of_a_shortened_range_is_requested() {
    let body = random(110, 3 * MIB);
    let serve = || {
        let served = body.clone();
        ScriptedHttp::start(move |_, request| {
            let range = request.header("range").and_then(|text| text.strip_prefix("bytes="));
            let (first, last) = range.unwrap().split_once('-').unwrap();
            let start: usize = first.parse().unwrap();
            let last =
                last.parse().unwrap_or(usize::MAX).min(start + 400_000).min(served.len() - 1);
            let range = format!("bytes {start}-{last}/{}", served.len());
            let part = Answer::new(206, &served[start..=last]).with("Content-Range", range);
            Some(part.with("ETag", "\"a\""))
        })
    };
    for connections in ["4", "1"] {
        let (server, bae) = (serve(), Bae::new());
        let output = get(&bae, &[&format!("{}/f", server.url()), "-x", connections]).expect(0);
        assert_file(&out_path(&bae, "f"), &body);
        assert_eq!(event(&output, "fetched")["downloaded"], body.len());
    }
    let server = serve();
    assert!(import_bytes(&format!("{}/f", server.url())) == body, "stored");
}

/// The server knows no ranges. In the last case it also closes the connection
/// after the requested range, which must not cause a retry.
#[test]
fn range_end_works_with_servers_without_ranges() {
    let body = random(112, MIB);
    let table: Vec<(&str, Script)> = vec![
        ("a length", |_, body| Answer::new(200, body)),
        ("no length", |_, body| Answer::without_length(200, body)),
        ("chunks", |_, body| {
            Answer::without_length(200, chunked(body)).with("Transfer-Encoding", "chunked")
        }),
        ("a length, cut", |_, body| Answer::new(200, body).truncated(500_000)),
    ];
    for (what, answer) in table {
        let served = body.clone();
        let server = ScriptedHttp::start(move |_, request| Some(answer(request, &served)));
        let (url, bae) = (format!("{}/f", server.url()), Bae::new());
        let output = get(&bae, &[&url, "--range-end", "99"]);
        assert_eq!(output.code, Some(0), "{what}: {}", output.stderr);
        assert_file(&out_path(&bae, "f"), &body[..100]);
        let got = bae.stdout_of(["get", &url, "-o", "-", "--range-end", "99"]);
        assert!(got == body[..100], "{what}: {} bytes received", got.len());
        assert_eq!(server.requests().len(), 2, "{what}");
    }
}

#[test]
fn malformed_response_headers_are_tolerated() {
    let lines = |n: usize| (0..n).map(|n| format!("X-{n:03}: 1\r\n")).collect::<String>();
    for (what, head) in [
        ("150 lines", lines(150)),
        ("a folded line", "X-Folded: one\r\n  two\r\n".to_owned()),
        ("a warning", "PHP Warning:  something in line 5\r\n".to_owned()),
        ("a line without a colon", "no header at all\r\n".to_owned()),
        ("a space before the colon", "X-Spaced : 1\r\n".to_owned()),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\n{head}Content-Length: 5\r\n");
        let server = ScriptedHttp::start(move |_, _| {
            Some(Answer::raw(format!("{head}X-End: 1\r\n\r\nhello")))
        });
        let bae = Bae::new();
        let output = get(&bae, &[&format!("{}/f", server.url()), "-m", "1"]);
        assert_eq!(output.code, Some(0), "{what}: {}", output.stderr);
        assert_file(&out_path(&bae, "f"), b"hello");
    }
    let server = ScriptedHttp::start(|_, _| Some(Answer::raw("SSH-2.0-OpenSSH_9.2\r\n")));
    get(&Bae::new(), &[&format!("{}/f", server.url())])
        .expect(1)
        .expect_stderr("the server's answer");
    assert_eq!(server.requests().len(), 1, "the request was retried");
}

#[test]
fn idle_connections_do_not_block_a_server_of_one_connection_at_a_time() {
    for ranges in [true, false] {
        let body = random(111, 4 * MIB);
        let served = body.clone();
        let server = ScriptedHttp::keep_alive(move |_, request| {
            Some(if ranges { ranged(request, &served) } else { Answer::new(200, &*served) })
        });
        let bae = Bae::new();
        let urls = ["a", "b", "c"].map(|name| format!("{}/{name}", server.url()));
        let list = [urls[0].as_str(), &urls[1], &urls[2], "-m", "1"];
        get(&bae, &[&list, &LONG_TIMEOUT[..]].concat()).expect(0);
        for name in ["a", "b", "c"] {
            assert_file(&out_path(&bae, name), &body);
        }
    }
}

#[test]
fn a_failed_first_request_is_reported_at_once() {
    let busy = |wait: &'static str| {
        ScriptedHttp::start(move |_, _| Some(Answer::new(503, "").with("Retry-After", wait)))
    };
    let server = busy("30");
    let (url, bae) = (format!("{}/f", server.url()), Bae::new());
    let mut running = start(&bae, &[&url]);
    let event = running.event_where("fetching", |event| event["trouble"].is_string());
    assert_eq!(event["state"], "probing", "{event}");
    assert!(event["trouble"].as_str().unwrap().contains("30 s"), "{event}");
    assert_eq!(server.requests().len(), 1);
    running.interrupt();
    running.wait(LONG).expect(7);
    let storage = bae.storage_url();
    let mut running = bae.start(["--json", "import", &url, "--storage", &storage]);
    let event = running.event_where("notice", |event| event["text"].is_string());
    assert!(event["text"].as_str().unwrap().contains("503"), "{event}");
    running.interrupt();
    running.wait(LONG).expect(7);
    let second = busy("0");
    let log = ["get", &format!("{}/f", second.url()), "-v", "-m", "2", "-o", "x"];
    bae.run(log)
        .expect(5)
        .expect_stderr("requesting 127")
        .expect_stderr("503")
        .expect_stderr("try 1 of 2");
    let long = busy("1200");
    get(&Bae::new(), &[&format!("{}/f", long.url())]).expect(5).expect_stderr("retry after 20 min");
    assert_eq!(long.requests().len(), 1);
}

#[test]
fn unescaped_redirects_are_followed_and_lower_case_dates_are_kept() {
    let server = ScriptedHttp::start(|_, request| {
        Some(match request.target.as_str() {
            "/from" => Answer::new(302, "").with("Location", "/\u{fc}.bin"),
            _ => ranged(request, b"hello").with("Last-Modified", "mon, 2 nov 2020 11:00:00 gmt"),
        })
    });
    let bae = Bae::new();
    get(&bae, &[&format!("{}/from", server.url()), "-o", "f"]).expect(0);
    assert_eq!(server.requests()[1].target, "/%C3%BC.bin");
    let modified = fs::metadata(out_path(&bae, "f")).unwrap().modified().unwrap();
    let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(since.as_secs(), 1_604_314_800);
}
