//! S3 as a source, from real servers: the protocols' conformance suite, buckets in other regions, and wrong keys.

use async_trait::async_trait;
use bae::{
    Error, Kind,
    config::Secret,
    protocols::{
        FetchOptions, Found, Login, conformance,
        conformance::{Ground, Visit, WRONG},
    },
};
use bytes::Bytes;
use url::Url;

use crate::get::{get, out, ranged, same};
use crate::support::{
    bae::Bae,
    s3_server::{POOR, PUBLIC, S3Server, runtime},
    scripted::{Answer, Scripted},
    served::protocol,
};

/// A folder of a bucket as [`Ground`] of the protocols' conformance suite.
#[derive(Debug)]
struct Bucket<'a> {
    server: &'a S3Server,
    bucket: String,
    /// The options of a client that may list objects and read none; `None` where the server has no such user.
    poor: Option<FetchOptions>,
    /// The server is for this test alone and may be killed. Its objects are files, so the path of a folder cannot
    /// be probed as an object.
    own: bool,
}

impl Bucket<'_> {
    fn visit(&self, options: FetchOptions, path: &str) -> Visit {
        let url = self.server.storage_url(&self.bucket, &format!("a folder/{path}"));
        Visit { protocol: protocol(&url, options), url: url.parse().unwrap() }
    }
}

#[async_trait]
impl Ground for Bucket<'_> {
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
        !self.own
    }

    fn stranger(&self) -> Option<Visit> {
        Some(self.visit(with_keys(&self.server.access_key, WRONG), ""))
    }

    async fn forbidden(&self) -> Option<Visit> {
        let visit = self.visit(self.poor.clone()?, "secret.bin");
        self.write("secret.bin", Bytes::from_static(b"not for you")).await;
        Some(visit)
    }

    fn may_stop(&self) -> bool {
        self.own
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

fn passes_the_suite(ground: &Bucket) {
    let protocol = protocol(ground.url().as_str(), options(ground.server));
    runtime().block_on(conformance::check(&*protocol, ground));
}

fn probe(url: &str, options: FetchOptions) -> Result<Found, Error> {
    runtime().block_on(protocol(url, options).probe(&url.parse().unwrap()))
}

#[test]
fn seaweedfs_keeps_the_contract_as_a_source() {
    let server = S3Server::seaweed();
    let poor = Some(with_keys(POOR, &server.secret_key));
    passes_the_suite(&Bucket { server, bucket: server.bucket("source"), poor, own: false });
}

#[test]
fn s3s_keeps_the_contract_as_a_source() {
    let server = &S3Server::s3s();
    passes_the_suite(&Bucket { server, bucket: server.bucket("source"), poor: None, own: true });
}

#[test]
fn a_prefix_is_a_folder_and_what_is_not_there_is_not_found() {
    let server = S3Server::seaweed();
    let bucket = server.bucket("prefix");
    for key in ["album/1.flac", "album/cd 2/2.flac", "albums/3.flac", "4.flac"] {
        server.put(&bucket, key, key.into());
    }
    let names =
        |path: &str| match probe(&server.storage_url(&bucket, path), options(server)).unwrap() {
            Found::Folder(listing) => listing.files.into_iter().map(|file| file.path).collect(),
            Found::File(_) => vec!["a file".to_owned()],
        };
    assert_eq!(names("album"), ["1.flac", "cd 2/2.flac"]);
    assert_eq!(names("album/"), ["1.flac", "cd 2/2.flac"]);
    assert_eq!(names("album/1.flac"), ["a file"]);
    assert_eq!(names("").len(), 4, "a whole bucket");
    for (url, what) in [
        (server.storage_url(&bucket, "alb"), "a part of a name"),
        (server.storage_url("no-such-bucket", "x"), "a bucket"),
    ] {
        let error = probe(&url, options(server)).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{what}: {}", error.report());
    }
}

/// A home without keys, on a machine without a metadata service that could provide some.
fn nobody(more: &[(&str, &str)]) -> Bae {
    let bae = Bae::new();
    let objects = format!("file://{}", bae.objects().display());
    let env = [("AWS_EC2_METADATA_DISABLED", "true")].iter().chain(more);
    bae.storing_at(
        &objects,
        env.map(|(name, value)| (name.to_string(), value.to_string())).collect(),
    )
}

#[test]
fn a_public_bucket_needs_no_keys() {
    let server = S3Server::seaweed();
    server.make_bucket(PUBLIC);
    server.put(PUBLIC, "top/a.bin", b"for all".to_vec());
    server.put(PUBLIC, "top/sub/b.bin", b"too".to_vec());
    let bae = nobody(&[]);
    get(&bae, &[&server.storage_url(PUBLIC, "top/a.bin")]).expect(0);
    same(&out(&bae, "a.bin"), b"for all");
    get(&bae, &[&server.storage_url(PUBLIC, "top/")]).expect(0);
    same(&out(&bae, "top/sub/b.bin"), b"too");
    let private = server.bucket("private");
    server.put(&private, "a.bin", b"for few".to_vec());
    let refused = get(&bae, &[&server.storage_url(&private, "a.bin")]).expect(24);
    refused.says("asked without keys");
    // With `anonymous=true` unknown keys are not sent.
    let bae = nobody(&[("AWS_ACCESS_KEY_ID", "nobody"), ("AWS_SECRET_ACCESS_KEY", "knows")]);
    let url = server.storage_url(PUBLIC, "top/a.bin");
    get(&bae, &[&url]).expect(24);
    get(&bae, &[&format!("{url}&anonymous=true")]).expect(0);
    same(&out(&bae, "a.bin"), b"for all");
}

/// Garage names its region when it refuses a request.
#[test]
#[ignore = "Garage takes long to install: scripts/test --all"]
fn garage_tells_its_region() {
    let server = S3Server::garage();
    let bucket = server.bucket("region");
    server.put(&bucket, "a.bin", b"far away".to_vec());
    let url = format!("s3://{bucket}/a.bin?endpoint={}&path_style=true", server.endpoint);
    let Found::File(remote) = probe(&url, options(&server)).unwrap() else { panic!("no file") };
    assert_eq!(remote.len, Some(8));
}

/// As at Amazon: the answer to a HEAD does not name the bucket's region; other answers do.
#[test]
fn a_bucket_in_another_region_is_asked_there() {
    let server = Scripted::start(|_, request| {
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
    let Found::File(remote) = found else { panic!("no file") };
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
fn listing(pages: Pages) -> Scripted {
    let keys: Vec<_> = (10..35).map(|n| format!("top/{n}")).collect();
    Scripted::start(move |_, request| {
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
        let left: Vec<_> = keys.iter().filter(|key| Some(*key) > after.as_ref()).collect();
        let object = |key: &&String| {
            let tag = key.rsplit('/').next().unwrap();
            format!("<Contents><Key>{key}</Key><Size>2</Size><ETag>{tag}</ETag></Contents>")
        };
        let objects: String = left.iter().take(10).map(object).collect();
        let body = format!(
            "<?xml version=\"1.0\"?><ListBucketResult><Name>b</Name><MaxKeys>10</MaxKeys>\
             <IsTruncated>{}</IsTruncated>{objects}</ListBucketResult>",
            left.len() > 10
        );
        Some(Answer::new(200, body))
    })
}

#[test]
fn a_listing_without_tokens_is_followed_to_its_end_or_is_an_error() {
    for pages in [Pages::Second, Pages::First, Pages::None] {
        let (server, bae) = (listing(pages), nobody(&[]));
        let query = format!("endpoint={}&region=x&path_style=true&anonymous=true", server.url());
        let ran = get(&bae, &[&format!("s3://b/top/?{query}"), "-j", "1", "-m", "1"]);
        if pages == Pages::None {
            ran.expect(5).says("not all is listed");
            continue;
        }
        ran.expect(0);
        for n in 10..35 {
            same(&out(&bae, &format!("top/{n}")), n.to_string().as_bytes());
        }
    }
}

/// A server with this listing and this content for each object, and its URL.
fn tells(listing: &'static str, object: &'static [u8]) -> (Scripted, String) {
    let server = Scripted::start(move |_, request| {
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
fn a_listing_that_ends_in_the_middle_is_not_all() {
    for cut in [
        "<ListBucketResult><IsTruncated>false</IsTruncated>\
         <Contents><Key>top/a</Key><Size>5</Size><ETag>e</ETag></Contents>",
        "<ListBucketResult><Contents><Key>top/a</Key><Size>5</Size></Contents><Contents><Key>top/b</K",
    ] {
        let ((_server, url), bae) = (tells(cut, b"hello"), nobody(&[]));
        get(&bae, &[&url]).expect(6).says("the answer ends in the middle");
        assert!(!out(&bae, "top/a").exists());
    }
}

#[test]
fn a_length_in_a_listing_is_held_against_the_object() {
    let listed = |len: &str| {
        let text = format!(
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>top/a</Key>\
             <Size>{len}</Size><ETag>\"e\"</ETag></Contents></ListBucketResult>"
        );
        &*text.leak()
    };
    let ((_server, url), bae) = (tells(listed("0"), b"hello"), nobody(&[]));
    get(&bae, &[&url]).expect(0);
    same(&out(&bae, "top/a"), b"hello");
    let ((_server, url), bae) = (tells(listed("3"), b"hello"), nobody(&[]));
    get(&bae, &[&url]).expect(1).says("another object");
    assert!(!out(&bae, "top/a").exists());
}

#[test]
fn a_name_in_a_listing_that_is_not_read_is_an_error_and_a_tag_of_nothing_is_none() {
    let ((_server, url), bae) = (
        tells(
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key><![CDATA[top/a]]></Key>\
             <Size>5</Size></Contents></ListBucketResult>",
            b"hello",
        ),
        nobody(&[]),
    );
    get(&bae, &[&url, "-m", "1"]).expect(5).says("whose name cannot be read");
    let ((_server, url), bae) = (
        tells(
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>top/a</Key><Size>5</Size>\
             <ETag>\"\"</ETag></Contents></ListBucketResult>",
            b"hello",
        ),
        nobody(&[]),
    );
    get(&bae, &[&url]).expect(0);
    same(&out(&bae, "top/a"), b"hello");
    // The value of `IsTruncated` is unknown, so the listing may be incomplete.
    let ((_server, url), bae) = (
        tells(
            "<ListBucketResult><IsTruncated>perhaps</IsTruncated><Contents><Key>top/a</Key><Size>5</Size>\
             </Contents></ListBucketResult>",
            b"hello",
        ),
        nobody(&[]),
    );
    let ran = get(&bae, &[&url, "-m", "1"]);
    assert_ne!(ran.code, Some(0), "{}", ran.stderr);
    assert!(!out(&bae, "top/a").exists());
}
