//! WebDAV from real servers: the protocols' conformance suite with every login, and invalid answers.

use bae::{Error, Kind, protocols::FetchOptions};

use crate::{
    get::{args, get, out, ranged, same},
    support::{
        bae::Bae,
        dav_server::{DavServer, PASSWORD},
        s3_server::runtime,
        scripted::{Answer, Scripted},
        served::protocol,
    },
};

fn refused(url: &str, options: FetchOptions) -> Error {
    let probe = runtime().block_on(protocol(url, options).probe(&url.parse().unwrap()));
    let error = probe.expect_err("a refusal was wanted");
    assert!(!error.report().contains(PASSWORD), "{}", error.report());
    error
}

#[test]
fn apache_keeps_the_contract_with_basic_logins() {
    let server = DavServer::apache();
    server.ground(&server.url(PASSWORD, "basic/")).check(server.options());
}

#[test]
fn apache_keeps_the_contract_with_digest_logins() {
    let server = DavServer::apache();
    server.ground(&server.url(PASSWORD, "digest/")).check(server.options());
}

#[test]
fn apache_keeps_the_contract_over_tls() {
    let server = DavServer::apache();
    server.ground(&server.tls_url("basic/")).check(server.options());
}

#[test]
fn rclone_keeps_the_contract_over_webdav() {
    let server = DavServer::rclone();
    server.ground(&server.url(PASSWORD, "")).check(server.options());
}

#[test]
fn a_webdav_server_that_wants_a_login_is_told_by_name() {
    let server = DavServer::apache();
    for place in ["basic/", "digest/"] {
        let error = refused(&server.url_of_anyone(place), server.options());
        assert_eq!(error.kind(), Kind::Unauthenticated, "{place}: {}", error.report());
        assert_eq!(error.kind().exit_code(), 24);
    }
}

#[test]
fn a_certificate_that_nobody_signed_is_refused_over_webdav() {
    let server = DavServer::apache();
    let error = refused(&server.tls_url("basic/"), FetchOptions::default());
    assert_eq!(error.kind(), Kind::Unauthenticated, "{}", error.report());
    assert!(error.hint_text().unwrap().contains("--cacert"));
}

const ANSWER: &str = "<?xml version=\"1.0\"?><multistatus xmlns=\"DAV:\"><response><href>";

/// A server that describes the requested path as a folder, with `href` as a folder in it.
fn server_with(href: &'static str) -> Scripted {
    Scripted::start(move |_, request| {
        let href = if request.header("depth") == Some("0") { "/top/" } else { href };
        let body = format!(
            "{ANSWER}{href}</href><propstat><prop><resourcetype><collection/></resourcetype></prop>\
             <status>HTTP/1.1 200 OK</status></propstat></response></multistatus>"
        );
        Some(Answer::new(207, body))
    })
}

fn dav_url(server: &Scripted, path: &str) -> String {
    format!("{}/{path}", server.url().replace("http:", "dav:"))
}

#[test]
fn a_listing_that_leads_elsewhere_is_refused() {
    for (href, why) in [
        ("/etc/", "which is not in it"),
        ("/top/../other/", "which is not in it"),
        ("/top/..%2F..%2Fetc/", "which is no name"),
    ] {
        let server = server_with(href);
        let error = refused(&dav_url(&server, "top/"), FetchOptions::default());
        assert_eq!(error.kind(), Kind::Unsupported, "{href}: {}", error.report());
        assert!(error.report().contains(why), "{href}: {}", error.report());
    }
}

#[test]
fn a_listing_of_nothing_is_no_empty_folder() {
    let server = Scripted::start(|_, request| {
        let itself = format!(
            "{ANSWER}/top/</href><propstat><prop><resourcetype><collection/></resourcetype></prop>\
             <status>HTTP/1.1 200 OK</status></propstat></response></multistatus>"
        );
        let nothing = "<multistatus xmlns=\"DAV:\"></multistatus>".to_owned();
        let first = request.header("depth") == Some("0");
        Some(Answer::new(207, if first { itself } else { nothing }))
    });
    let error = refused(&dav_url(&server, "top/"), FetchOptions::default());
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.report().contains("says nothing of it"), "{}", error.report());
}

#[test]
fn a_place_without_webdav_is_told_so() {
    let server = Scripted::start(|_, _| Some(Answer::new(200, "<html>")));
    let error = refused(&dav_url(&server, "x"), FetchOptions::default());
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.report().contains("WebDAV is not spoken here"), "{}", error.report());
}

#[test]
fn names_that_are_not_escaped_come_and_what_is_refused_is_told() {
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
    let server = Scripted::start(move |_, request| {
        Some(match (request.method.as_str(), request.target.as_str()) {
            ("PROPFIND", "/top/deep/") => {
                let own = folder.replace("//top//", "/top/deep/") + &file("/top/deep/er.txt");
                Answer::new(207, format!("<multistatus xmlns=\"DAV:\">{own}</multistatus>"))
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
    let ran = get(&bae, &[&dav_url(&server, "top/")]).expect(24).says("top/gone").says("403");
    for name in ["t #:?3.txt", "plain.txt", "deep/er.txt"] {
        same(&out(&bae, "top").join(name), b"hello");
    }
    assert_eq!(ran.json().iter().filter(|event| event["event"] == "fetched").count(), 3);
}

#[test]
fn a_length_of_nothing_in_a_listing_is_asked_for_again_and_a_folder_that_is_refused_is_told() {
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
    let server = Scripted::start(move |_, request| {
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
    get(&bae, &[&dav_url(&server, "top/")]).expect(24).says("lost+found").says("403");
    same(&out(&bae, "top/made.txt"), b"hello");
    same(&out(&bae, "top/empty.txt"), b"");
}

#[test]
fn a_file_of_nothing_that_is_refused_is_told_and_not_made() {
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
    let server = Scripted::start(move |_, request| {
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
    let done = bae.command(args(&bae, &[&url])).env("BAE_PASSWORD", "x").output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(24), "{said}");
    assert!(said.contains("secret.txt") && said.contains("403"), "{said}");
    same(&out(&bae, "top/made.txt"), b"hello");
    assert!(!out(&bae, "top/secret.txt").exists());
    let probes = server.requests().into_iter().filter(|request| request.method == "GET");
    let unknown = probes.filter(|request| request.header("authorization").is_none()).count();
    assert_eq!(unknown, 0, "the login of the URL is for its files too");
}

/// The listing has no length. The server gives ten bytes at a time, or does not tell how many there are.
#[test]
fn a_file_of_unknown_length_comes_whole_from_answers_of_a_part_each() {
    let body = b"a text that comes in four parts";
    for total in [true, false] {
        let all = "<response><href>/top/</href><propstat><prop><resourcetype><collection/></resourcetype></prop>\
                   <status>HTTP/1.1 200 OK</status></propstat></response>\
                   <response><href>/top/a</href><propstat><prop><resourcetype/></prop>\
                   <status>HTTP/1.1 200 OK</status></propstat></response>";
        let server = Scripted::start(move |_, request| {
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
        same(&out(&bae, "top/a"), body);
    }
}

/// The file has another ETag in the listing than in its own answer.
#[test]
fn tags_that_differ_between_listing_and_file_are_no_change() {
    let date = "Sat, 07 Nov 2026 10:00:00 GMT";
    for tag in ["W/\"e\"", "\"e-gzip\""] {
        let server = Scripted::start(move |_, request| {
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
        same(&out(&bae, "top/a"), b"hello");
        same(&out(&bae, "top/b"), b"hello");
    }
}

/// Dates that are not in HTTP's format, or not dates at all.
#[test]
fn odd_dates_of_a_listing_keep_no_file_away() {
    for (listed, sent) in [
        ("2026-11-07T10:00:00Z", "Sat, 07 Nov 2026 10:00:00 GMT"),
        ("7 Nov 2026 10:00:00 GMT", "Sat, 07 Nov 2026 10:00:00 GMT"),
        ("yesterday", "Sat, 07 Nov 2026 10:00:00 GMT"),
        ("yesterday", "yesterday"),
    ] {
        let server = Scripted::start(move |_, request| {
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
        same(&out(&bae, "top/a"), b"hello");
    }
}
