//! S3 as a source, from real servers: the protocols' conformance suite, buckets in other regions, and wrong keys.

use async_trait::async_trait;
use bae::{
    Error, Kind,
    config::Secret,
    protocols::{
        FetchOptions, Login, UrlTarget, conformance,
        conformance::{ConformanceTarget, TargetAccess, WRONG_PASSWORD},
    },
};
use bytes::Bytes;
use url::Url;

use crate::support::{
    bae::Bae,
    get::{assert_file, get, out_path, ranged},
    s3_server::{LIST_ONLY_KEY, PUBLIC_BUCKET, S3Server, runtime},
    scripted_http::{Answer, ScriptedHttp},
    served_folder::protocol,
};

/// A folder of a bucket as [`Ground`] of the protocols' conformance suite.
#[derive(Debug)]
struct Bucket<'a> {
    server: &'a S3Server,
    bucket: String,
    /// The options of a client that may list objects and read none; `None` where the server has no such user.
    list_only: Option<FetchOptions>,
    /// The server is for this test alone and may be killed. Its objects are files, so the path of a folder cannot
    /// be probed as an object.
    dedicated: bool,
}

impl Bucket<'_> {
    fn target(&self, options: FetchOptions, path: &str) -> TargetAccess {
        let url = self.server.storage_url(&self.bucket, &format!("a folder/{path}"));
        TargetAccess { protocol: protocol(&url, options), url: url.parse().unwrap() }
    }
}

#[async_trait]
impl ConformanceTarget for Bucket<'_> {
    async fn write(&self, path: &str, bytes: Bytes) {
        self.server.put(&self.bucket, &format!("a folder/{path}"), bytes.to_vec());
    }

    async fn remove(&self, path: &str) {
        self.server.remove(&self.bucket, &format!("a folder/{path}"));
    }

    fn url(&self) -> Url {
        self.server.storage_url(&self.bucket, "a folder/").parse().unwrap()
    }

    fn has_folders(&self) -> bool {
        !self.dedicated
    }

    fn with_wrong_login(&self) -> Option<TargetAccess> {
        Some(self.target(with_keys(&self.server.access_key, WRONG_PASSWORD), ""))
    }

    async fn forbidden_file(&self) -> Option<TargetAccess> {
        let target = self.target(self.list_only.clone()?, "secret.bin");
        self.write("secret.bin", Bytes::from_static(b"not for you")).await;
        Some(target)
    }

    fn is_content_addressed(&self) -> bool {
        false
    }

    fn can_stop(&self) -> bool {
        self.dedicated
    }

    async fn stop(&self) {
        self.server.kill();
    }
}

fn with_keys(id: &str, secret: &str) -> FetchOptions {
    let password = Some(Secret::Text(secret.to_owned()));
    FetchOptions { login: Some(Login { user: id.to_owned(), password }), ..Default::default() }
}

fn options(server: &S3Server) -> FetchOptions {
    with_keys(&server.access_key, &server.secret_key)
}

fn assert_conforms(bucket: &Bucket) {
    let protocol = protocol(bucket.url().as_str(), options(bucket.server));
    runtime().block_on(conformance::check(&*protocol, bucket));
}

fn probe(url: &str, options: FetchOptions) -> Result<UrlTarget, Error> {
    runtime().block_on(protocol(url, options).probe(&url.parse().unwrap()))
}

#[test]
fn seaweedfs_passes_the_conformance_suite_as_a_source() {
    let server = S3Server::seaweed();
    let list_only = Some(with_keys(LIST_ONLY_KEY, &server.secret_key));
    assert_conforms(&Bucket {
        server,
        bucket: server.bucket("source"),
        list_only,
        dedicated: false,
    });
}

#[test]
fn s3s_passes_the_conformance_suite_as_a_source() {
    let server = &S3Server::s3s();
    assert_conforms(&Bucket {
        server,
        bucket: server.bucket("source"),
        list_only: None,
        dedicated: true,
    });
}

#[test]
fn a_prefix_is_a_folder_and_a_missing_key_is_not_found() {
    let server = S3Server::seaweed();
    let bucket = server.bucket("prefix");
    for key in ["album/1.flac", "album/cd 2/2.flac", "albums/3.flac", "4.flac"] {
        server.put(&bucket, key, key.into());
    }
    let names =
        |path: &str| match probe(&server.storage_url(&bucket, path), options(server)).unwrap() {
            UrlTarget::Folder(listing) => listing.files.into_iter().map(|file| file.path).collect(),
            UrlTarget::File(_) => vec!["a file".to_owned()],
        };
    assert_eq!(names("album"), ["1.flac", "cd 2/2.flac"]);
    assert_eq!(names("album/"), ["1.flac", "cd 2/2.flac"]);
    assert_eq!(names("album/1.flac"), ["a file"]);
    assert_eq!(names("").len(), 4, "a whole bucket");
    for (url, case) in [
        (server.storage_url(&bucket, "alb"), "a part of a name"),
        (server.storage_url("no-such-bucket", "x"), "a bucket"),
    ] {
        let error = probe(&url, options(server)).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{case}: {}", error.report());
    }
}

/// A home without keys, on a machine without a metadata service that could provide some.
fn bae_without_keys(more: &[(&str, &str)]) -> Bae {
    let bae = Bae::new();
    let objects = format!("file://{}", bae.storage_dir().display());
    let env = [("AWS_EC2_METADATA_DISABLED", "true")].iter().chain(more);
    bae.with_storage_url(
        &objects,
        env.map(|(name, value)| (name.to_string(), value.to_string())).collect(),
    )
}

#[test]
fn a_public_bucket_needs_no_keys() {
    let server = S3Server::seaweed();
    server.make_bucket(PUBLIC_BUCKET);
    server.put(PUBLIC_BUCKET, "top/a.bin", b"for all".to_vec());
    server.put(PUBLIC_BUCKET, "top/sub/b.bin", b"too".to_vec());
    let bae = bae_without_keys(&[]);
    get(&bae, &[&server.storage_url(PUBLIC_BUCKET, "top/a.bin")]).expect(0);
    assert_file(&out_path(&bae, "a.bin"), b"for all");
    get(&bae, &[&server.storage_url(PUBLIC_BUCKET, "top/")]).expect(0);
    assert_file(&out_path(&bae, "top/sub/b.bin"), b"too");
    let private = server.bucket("private");
    server.put(&private, "a.bin", b"for few".to_vec());
    let refused = get(&bae, &[&server.storage_url(&private, "a.bin")]).expect(24);
    refused.expect_stderr("the request was not signed");
    // With `anonymous=true` unknown keys are not sent.
    let bae =
        bae_without_keys(&[("AWS_ACCESS_KEY_ID", "unknown"), ("AWS_SECRET_ACCESS_KEY", "unknown")]);
    let url = server.storage_url(PUBLIC_BUCKET, "top/a.bin");
    get(&bae, &[&url]).expect(24);
    get(&bae, &[&format!("{url}&anonymous=true")]).expect(0);
    assert_file(&out_path(&bae, "a.bin"), b"for all");
}

/// Garage names its region when it refuses a request.
#[test]
#[ignore = "Garage takes long to install: scripts/test --all"]
fn garage_reports_its_region() {
    let server = S3Server::garage();
    let bucket = server.bucket("region");
    server.put(&bucket, "a.bin", b"8 bytes!".to_vec());
    let url = format!("s3://{bucket}/a.bin?endpoint={}&path_style=true", server.endpoint);
    let UrlTarget::File(remote) = probe(&url, options(&server)).unwrap() else { panic!("no file") };
    assert_eq!(remote.len, Some(8));
}

/// As at Amazon: the answer to a HEAD does not name the bucket's region; other answers do.
#[test]
fn requests_are_repeated_in_the_region_of_the_bucket() {
    let server = ScriptedHttp::start(|_, request| {
        let signed = request.header("authorization").unwrap_or_default();
        Some(match request.method.as_str() {
            _ if signed.contains("/eu-west-9/") => {
                Answer::head(200, 5).with("ETag", "\"a\"").with("Accept-Ranges", "bytes")
            }
            "HEAD" => Answer::head(400, 0),
            _ => Answer::new(
                400,
                "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-9</Region></Error>",
            ),
        })
    });
    let url = format!("s3://bucket/key?endpoint={}&path_style=true", server.url());
    let found = probe(&url, with_keys("id", "secret")).unwrap();
    let UrlTarget::File(remote) = found else { panic!("no file") };
    assert_eq!(remote.len, Some(5));
    assert_eq!(server.requests().len(), 3);
}

/// The paging that a server supports.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pages {
    /// `start-after`; it never sends a continuation token.
    Second,
    /// Only `marker`.
    First,
    /// None: always the first page.
    None,
}

/// A bucket `b` with 25 objects below `top/`, ten per page. In the listing their ETags have no quotes.
fn listing(pages: Pages) -> ScriptedHttp {
    let keys: Vec<_> = (10..35).map(|n| format!("top/{n}")).collect();
    ScriptedHttp::start(move |_, request| {
        let url: Url = format!("http://x{}", request.target).parse().unwrap();
        if let Some(key) = url.path().strip_prefix("/b/top/") {
            let answer = if request.method == "HEAD" {
                Answer::head(200, 2)
            } else {
                ranged(request, key.as_bytes())
            };
            return Some(answer.with("ETag", format!("\"{key}\"")));
        }
        let name = match pages {
            Pages::Second => "start-after",
            Pages::First => "marker",
            Pages::None => "nothing",
        };
        let after =
            url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        let remaining: Vec<_> = keys.iter().filter(|key| Some(*key) > after.as_ref()).collect();
        let object = |key: &&String| {
            let tag = key.rsplit('/').next().unwrap();
            format!("<Contents><Key>{key}</Key><Size>2</Size><ETag>{tag}</ETag></Contents>")
        };
        let objects: String = remaining.iter().take(10).map(object).collect();
        let body = format!(
            "<?xml version=\"1.0\"?><ListBucketResult><Name>b</Name><MaxKeys>10</MaxKeys>\
             <IsTruncated>{}</IsTruncated>{objects}</ListBucketResult>",
            remaining.len() > 10
        );
        Some(Answer::new(200, body))
    })
}

#[test]
fn a_listing_without_tokens_is_followed_to_its_end_or_is_an_error() {
    for pages in [Pages::Second, Pages::First, Pages::None] {
        let (server, bae) = (listing(pages), bae_without_keys(&[]));
        let query = format!("endpoint={}&region=x&path_style=true&anonymous=true", server.url());
        let output = get(&bae, &[&format!("s3://b/top/?{query}"), "-j", "1", "-m", "1"]);
        if pages == Pages::None {
            output.expect(5).expect_stderr("cannot list all objects");
            continue;
        }
        output.expect(0);
        for n in 10..35 {
            assert_file(&out_path(&bae, &format!("top/{n}")), n.to_string().as_bytes());
        }
    }
}

/// A server with this listing and this content for each object, and its URL.
fn server_with_listing(listing: &'static str, object: &'static [u8]) -> (ScriptedHttp, String) {
    let server = ScriptedHttp::start(move |_, request| {
        Some(match (request.method.as_str(), request.target.contains("list-type")) {
            (_, true) => Answer::new(200, listing),
            ("HEAD", _) => Answer::head(200, object.len()).with("ETag", "\"e\""),
            _ => ranged(request, object).with("ETag", "\"e\""),
        })
    });
    let query = format!("endpoint={}&region=x&path_style=true&anonymous=true", server.url());
    (server, format!("s3://b/top/?{query}"))
}

#[test]
fn a_truncated_listing_is_never_taken_as_complete() {
    for cut in [
        "<ListBucketResult><IsTruncated>false</IsTruncated>\
         <Contents><Key>top/a</Key><Size>5</Size><ETag>e</ETag></Contents>",
        "<ListBucketResult><Contents><Key>top/a</Key><Size>5</Size></Contents><Contents><Key>top/b</K",
    ] {
        let ((_server, url), bae) = (server_with_listing(cut, b"hello"), bae_without_keys(&[]));
        get(&bae, &[&url]).expect(6).expect_stderr("the response is cut off");
        assert!(!out_path(&bae, "top/a").exists());
    }
}

#[test]
fn a_listed_length_is_compared_with_the_object() {
    let listed = |len: &str| {
        let text = format!(
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>top/a</Key>\
             <Size>{len}</Size><ETag>\"e\"</ETag></Contents></ListBucketResult>"
        );
        &*text.leak()
    };
    let ((_server, url), bae) = (server_with_listing(listed("0"), b"hello"), bae_without_keys(&[]));
    get(&bae, &[&url]).expect(0);
    assert_file(&out_path(&bae, "top/a"), b"hello");
    let ((_server, url), bae) = (server_with_listing(listed("3"), b"hello"), bae_without_keys(&[]));
    get(&bae, &[&url]).expect(1).expect_stderr("the object has changed");
    assert!(!out_path(&bae, "top/a").exists());
}

#[test]
fn an_unreadable_listed_name_is_an_error_and_an_empty_etag_is_ignored() {
    let ((_server, url), bae) = (
        server_with_listing(
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key><![CDATA[top/a]]></Key>\
             <Size>5</Size></Contents></ListBucketResult>",
            b"hello",
        ),
        bae_without_keys(&[]),
    );
    get(&bae, &[&url, "-m", "1"]).expect(5).expect_stderr("with an unreadable name");
    let ((_server, url), bae) = (
        server_with_listing(
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>top/a</Key><Size>5</Size>\
             <ETag>\"\"</ETag></Contents></ListBucketResult>",
            b"hello",
        ),
        bae_without_keys(&[]),
    );
    get(&bae, &[&url]).expect(0);
    assert_file(&out_path(&bae, "top/a"), b"hello");
    // The value of `IsTruncated` is unknown, so the listing may be incomplete.
    let ((_server, url), bae) = (
        server_with_listing(
            "<ListBucketResult><IsTruncated>perhaps</IsTruncated><Contents><Key>top/a</Key><Size>5</Size>\
             </Contents></ListBucketResult>",
            b"hello",
        ),
        bae_without_keys(&[]),
    );
    let output = get(&bae, &[&url, "-m", "1"]);
    assert_ne!(output.code, Some(0), "{}", output.stderr);
    assert!(!out_path(&bae, "top/a").exists());
}
