//! WebDAV from real servers: the protocols' conformance suite with every login, and invalid answers.

use bae::{Error, Kind, hints::Setting, protocols::FetchOptions};

use crate::support::{
    bae::Bae,
    dav_server::{DavServer, PASSWORD},
    get::{args, assert_file, get, out_path, ranged},
    s3_server::runtime,
    scripted_http::{Answer, ScriptedHttp},
    served_folder::protocol,
};

fn probe_error(url: &str, options: FetchOptions) -> Error {
    let probe = runtime().block_on(protocol(url, options).probe(&url.parse().unwrap()));
    let error = probe.expect_err("no refusal");
    assert!(!error.report().contains(PASSWORD), "{}", error.report());
    error
}

#[test]
fn apache_passes_the_webdav_conformance_suite_with_basic_logins() {
    let server = DavServer::apache();
    server.conformance_folder(&server.url(PASSWORD, "basic/")).check(server.options());
}

#[test]
fn apache_passes_the_webdav_conformance_suite_with_digest_logins() {
    let server = DavServer::apache();
    server.conformance_folder(&server.url(PASSWORD, "digest/")).check(server.options());
}

#[test]
fn apache_passes_the_webdav_conformance_suite_over_tls() {
    let server = DavServer::apache();
    server.conformance_folder(&server.tls_url("basic/")).check(server.options());
}

#[test]
fn rclone_passes_the_conformance_suite_over_webdav() {
    let server = DavServer::rclone();
    server.conformance_folder(&server.url(PASSWORD, "")).check(server.options());
}

#[test]
fn a_webdav_server_that_requires_a_login_is_reported() {
    let server = DavServer::apache();
    for path in ["basic/", "digest/"] {
        let error = probe_error(&server.anonymous_url(path), server.options());
        assert_eq!(error.kind(), Kind::Unauthenticated, "{path}: {}", error.report());
        assert_eq!(error.kind().exit_code(), 24);
    }
}

#[test]
fn an_untrusted_certificate_is_refused_over_webdav() {
    let server = DavServer::apache();
    let error = probe_error(&server.tls_url("basic/"), FetchOptions::default());
    assert_eq!(error.kind(), Kind::Unauthenticated, "{}", error.report());
    assert!(error.typed_hint().unwrap().names_setting(Setting::CaCertificates));
}

const ANSWER: &str = "<?xml version=\"1.0\"?><multistatus xmlns=\"DAV:\"><response><href>";

/// A server that describes the requested path as a folder, with `href` as a folder in it.
fn server_with_entry(href: &'static str) -> ScriptedHttp {
    ScriptedHttp::start(move |_, request| {
        let href = if request.header("depth") == Some("0") { "/top/" } else { href };
        let body = format!(
            "{ANSWER}{href}</href><propstat><prop><resourcetype><collection/></resourcetype></prop>\
             <status>HTTP/1.1 200 OK</status></propstat></response></multistatus>"
        );
        Some(Answer::new(207, body))
    })
}

fn dav_url(server: &ScriptedHttp, path: &str) -> String {
    format!("{}/{path}", server.url().replace("http:", "dav:"))
}

#[test]
fn a_listing_with_paths_outside_its_folder_is_refused() {
    for (href, message) in [
        ("/etc/", "which is outside the folder"),
        ("/top/../other/", "which is outside the folder"),
        ("/top/..%2F..%2Fetc/", "the invalid name"),
    ] {
        let server = server_with_entry(href);
        let error = probe_error(&dav_url(&server, "top/"), FetchOptions::default());
        assert_eq!(error.kind(), Kind::Unsupported, "{href}: {}", error.report());
        assert!(error.report().contains(message), "{href}: {}", error.report());
    }
}

#[test]
fn a_listing_without_entries_is_not_an_empty_folder() {
    let server = ScriptedHttp::start(|_, request| {
        let folder = format!(
            "{ANSWER}/top/</href><propstat><prop><resourcetype><collection/></resourcetype></prop>\
             <status>HTTP/1.1 200 OK</status></propstat></response></multistatus>"
        );
        let empty = "<multistatus xmlns=\"DAV:\"></multistatus>".to_owned();
        let is_folder = request.header("depth") == Some("0");
        Some(Answer::new(207, if is_folder { folder } else { empty }))
    });
    let error = probe_error(&dav_url(&server, "top/"), FetchOptions::default());
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.report().contains("the server sent no properties"), "{}", error.report());
}

#[test]
fn a_server_without_webdav_is_reported() {
    let server = ScriptedHttp::start(|_, _| Some(Answer::new(200, "<html>")));
    let error = probe_error(&dav_url(&server, "x"), FetchOptions::default());
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.report().contains("WebDAV is not supported here"), "{}", error.report());
}

#[test]
fn unescaped_names_are_fetched_and_refused_entries_are_reported() {
    let file = |href: &str| {
        format!(
            "<response><href>{href}</href><propstat><prop><resourcetype/>\
             <getcontentlength>5</getcontentlength></prop><status>HTTP/1.1 200 OK</status></propstat></response>"
        )
    };
    let folder = "<response><href>//top//</href><propstat><prop><resourcetype><collection/></resourcetype></prop>\
                  <status>HTTP/1.1 200 OK</status></propstat></response>";
    let refused =
        "<response><href>/top/gone</href><status>HTTP/1.1 403 Forbidden</status></response>";
    let files =
        [file("/top/t #:?3.txt"), file("//top//plain.txt"), file("/top/deep/er.txt")].concat();
    let server = ScriptedHttp::start(move |_, request| {
        Some(match (request.method.as_str(), request.target.as_str()) {
            ("PROPFIND", "/top/deep/") => {
                let listing = folder.replace("//top//", "/top/deep/") + &file("/top/deep/er.txt");
                Answer::new(207, format!("<multistatus xmlns=\"DAV:\">{listing}</multistatus>"))
            }
            ("PROPFIND", _) => {
                let all = format!("{folder}{refused}{files}");
                Answer::new(207, format!("<multistatus xmlns=\"DAV:\">{all}</multistatus>"))
            }
            (_, "/top/t%20%23:%3F3.txt" | "/top/plain.txt" | "/top/deep/er.txt") => {
                ranged(request, b"hello")
            }
            _ => Answer::new(404, ""),
        })
    });
    let bae = Bae::new();
    let output = get(&bae, &[&dav_url(&server, "top/")])
        .expect(24)
        .expect_stderr("top/gone")
        .expect_stderr("403");
    for name in ["t #:?3.txt", "plain.txt", "deep/er.txt"] {
        assert_file(&out_path(&bae, "top").join(name), b"hello");
    }
    assert_eq!(output.json().iter().filter(|event| event["event"] == "fetched").count(), 3);
}

#[test]
fn a_listed_length_of_zero_is_checked_and_a_refused_folder_is_reported() {
    let entry = |href: &str, kind: &str| {
        format!(
            "<response><href>{href}</href><propstat><prop><resourcetype>{kind}</resourcetype>\
             <getcontentlength>0</getcontentlength></prop><status>HTTP/1.1 200 OK</status></propstat></response>"
        )
    };
    let all = [
        entry("/top/", "<collection/>"),
        entry("/top/made.txt", ""),
        entry("/top/empty.txt", ""),
        entry("/top/lost+found/", "<collection/>"),
    ];
    let all = all.concat();
    let server = ScriptedHttp::start(move |_, request| {
        Some(match (request.method.as_str(), request.target.as_str()) {
            ("PROPFIND", "/top/lost+found/") => Answer::new(403, ""),
            ("PROPFIND", _) => {
                Answer::new(207, format!("<multistatus xmlns=\"DAV:\">{all}</multistatus>"))
            }
            (_, "/top/made.txt") => ranged(request, b"hello"),
            _ => Answer::new(200, ""),
        })
    });
    let bae = Bae::new();
    get(&bae, &[&dav_url(&server, "top/")])
        .expect(24)
        .expect_stderr("lost+found")
        .expect_stderr("403");
    assert_file(&out_path(&bae, "top/made.txt"), b"hello");
    assert_file(&out_path(&bae, "top/empty.txt"), b"");
}

#[test]
fn a_refused_file_of_listed_length_zero_is_reported_and_not_created() {
    let entry = |href: &str, kind: &str| {
        format!(
            "<response><href>{href}</href><propstat><prop><resourcetype>{kind}</resourcetype>\
             <getcontentlength>0</getcontentlength><getetag>\"e\"</getetag></prop>\
             <status>HTTP/1.1 200 OK</status></propstat></response>"
        )
    };
    let all =
        [entry("/top/", "<collection/>"), entry("/top/made.txt", ""), entry("/top/secret.txt", "")];
    let all = all.concat();
    let server = ScriptedHttp::start(move |_, request| {
        if request.header("authorization").is_none() {
            return Some(Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"r\""));
        }
        Some(match (request.method.as_str(), request.target.as_str()) {
            ("PROPFIND", _) => {
                Answer::new(207, format!("<multistatus xmlns=\"DAV:\">{all}</multistatus>"))
            }
            (_, "/top/secret.txt") => Answer::new(403, ""),
            _ => ranged(request, b"hello"),
        })
    });
    let bae = Bae::new();
    let url = dav_url(&server, "top/").replace("//", "//bob@");
    let output = bae.command(args(&bae, &[&url])).env("BAE_PASSWORD", "x").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(24), "{stderr}");
    assert!(stderr.contains("secret.txt") && stderr.contains("403"), "{stderr}");
    assert_file(&out_path(&bae, "top/made.txt"), b"hello");
    assert!(!out_path(&bae, "top/secret.txt").exists());
    let probes = server.requests().into_iter().filter(|request| request.method == "GET");
    let unknown = probes.filter(|request| request.header("authorization").is_none()).count();
    assert_eq!(unknown, 0, "a request for a file has no login");
}

/// The listing has no length. The server gives ten bytes at a time, or does not tell how many there are.
#[test]
fn a_file_of_unknown_length_is_assembled_from_partial_answers() {
    let body = b"a text that comes in four parts";
    for total in [true, false] {
        let all = "<response><href>/top/</href><propstat><prop><resourcetype><collection/></resourcetype></prop>\
                   <status>HTTP/1.1 200 OK</status></propstat></response>\
                   <response><href>/top/a</href><propstat><prop><resourcetype/></prop>\
                   <status>HTTP/1.1 200 OK</status></propstat></response>";
        let server = ScriptedHttp::start(move |_, request| {
            let range = request.header("range").and_then(|text| text.strip_prefix("bytes="));
            Some(match (request.method.as_str(), range) {
                ("PROPFIND", _) => {
                    Answer::new(207, format!("<multistatus xmlns=\"DAV:\">{all}</multistatus>"))
                }
                (_, None) => Answer::new(200, body),
                (_, Some(range)) => {
                    let start: usize = range.split_once('-').unwrap().0.parse().unwrap();
                    let end = body.len().min(start + 10);
                    let len = if total { body.len().to_string() } else { "*".to_owned() };
                    Answer::new(206, &body[start..end])
                        .with("Content-Range", format!("bytes {start}-{}/{len}", end - 1))
                }
            })
        });
        let bae = Bae::new();
        get(&bae, &[&dav_url(&server, "top/")]).expect(0);
        assert_file(&out_path(&bae, "top/a"), body);
    }
}

/// The file has another ETag in the listing than in its own answer.
#[test]
fn an_etag_that_differs_between_listing_and_file_is_not_a_change() {
    let date = "Sat, 07 Nov 2026 10:00:00 GMT";
    for tag in ["W/\"e\"", "\"e-gzip\""] {
        let server = ScriptedHttp::start(move |_, request| {
            let props = |kind: &str| {
                format!(
                    "<propstat><prop><resourcetype>{kind}</resourcetype><getcontentlength>5</getcontentlength>\
                     <getetag>\"e\"</getetag><getlastmodified>{date}</getlastmodified></prop></propstat>"
                )
            };
            let all = format!(
                "<response><href>/top/</href>{}</response><response><href>/top/a</href>{}</response>\
                 <response><href>/top/b</href>{}</response>",
                props("<collection/>"),
                props(""),
                props("")
            );
            Some(match request.method.as_str() {
                "PROPFIND" => {
                    Answer::new(207, format!("<multistatus xmlns=\"DAV:\">{all}</multistatus>"))
                }
                _ => ranged(request, b"hello").with("ETag", tag).with("Last-Modified", date),
            })
        });
        let bae = Bae::new();
        get(&bae, &[&dav_url(&server, "top/")]).expect(0);
        assert_file(&out_path(&bae, "top/a"), b"hello");
        assert_file(&out_path(&bae, "top/b"), b"hello");
    }
}

/// Dates that are not in HTTP's format, or not dates at all.
#[test]
fn unusual_dates_in_a_listing_do_not_prevent_a_fetch() {
    for (listed, sent) in [
        ("2026-11-07T10:00:00Z", "Sat, 07 Nov 2026 10:00:00 GMT"),
        ("7 Nov 2026 10:00:00 GMT", "Sat, 07 Nov 2026 10:00:00 GMT"),
        ("yesterday", "Sat, 07 Nov 2026 10:00:00 GMT"),
        ("yesterday", "yesterday"),
    ] {
        let server = ScriptedHttp::start(move |_, request| {
            let entry = |href: &str, kind: &str| {
                format!(
                    "<response><href>{href}</href><propstat><prop><resourcetype>{kind}</resourcetype>\
                     <getcontentlength>5</getcontentlength><getetag></getetag>\
                     <getlastmodified>{listed}</getlastmodified></prop></propstat></response>"
                )
            };
            let all = [entry("/top/", "<collection/>"), entry("/top/a", "")].concat();
            Some(match request.method.as_str() {
                "PROPFIND" => {
                    Answer::new(207, format!("<multistatus xmlns=\"DAV:\">{all}</multistatus>"))
                }
                _ => ranged(request, b"hello").with("Last-Modified", sent),
            })
        });
        let bae = Bae::new();
        get(&bae, &[&dav_url(&server, "top/")]).expect(0);
        assert_file(&out_path(&bae, "top/a"), b"hello");
    }
}
