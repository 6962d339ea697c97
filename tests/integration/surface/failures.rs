//! A failure is one event of the library and one line of the program.

use std::{fs, path::Path};

use bae::{
    Kind,
    config::{Config, Env, Overrides, SeedOptions, TorrentOptions},
    downloads::{FetchLimits, ResumePolicy},
    engine::{
        Access, DownloadOptions, Engine, EngineOptions, GetItem, GetOptions, Getter, ImportHandle,
        ImportRequest,
    },
    events::{Event, EventSink, Failed},
    hints::Setting,
    protocols::FetchOptions,
};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use crate::support::{
    KIB,
    bae::{Bae, CommandOutput},
    scripted_http::{Answer, ScriptedHttp},
};

fn limits() -> FetchLimits {
    FetchLimits { max_tries: 1, ..FetchLimits::default() }
}

fn getter() -> Getter {
    Getter::new(GetOptions {
        fetch: FetchOptions::default(),
        protocol: None,
        fetch_limits: limits(),
        jobs: 1,
        limit: None,
        limit_each: None,
        memory: bae::config::DEFAULT_MEMORY,
        resume: ResumePolicy::default(),
        sidecar: false,
        overwrite: false,
        range: None,
    })
}

fn item(server: &ScriptedHttp, dir: &Path) -> GetItem {
    let url = format!("{}/f.bin", server.url()).parse().unwrap();
    GetItem { urls: vec![url], dir: dir.to_owned(), out: None, checksums: Vec::new() }
}

fn failures(mut events: UnboundedReceiver<Event>) -> Vec<Failed> {
    let all = std::iter::from_fn(|| events.try_recv().ok());
    let failed = all.filter_map(|event| match event {
        Event::Failed(failed) => Some(failed),
        _ => None,
    });
    failed.collect()
}

/// The failures of one download that does not succeed.
async fn failures_of_get(server: &ScriptedHttp, dir: &Path) -> Vec<Failed> {
    let (sink, events) = EventSink::channel();
    let got = getter().get(item(server, dir), &sink, &CancellationToken::new()).await;
    got.unwrap_err();
    failures(events)
}

#[tokio::test]
async fn a_file_that_cannot_be_downloaded_sends_one_failure_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.bin");
    let missing = ScriptedHttp::start(|_, _| Some(Answer::new(404, "")));
    let [failed] = &failures_of_get(&missing, dir.path()).await[..] else { panic!("not one") };
    assert_eq!((failed.kind, &failed.id), (Kind::NotFound, &None));
    assert_eq!(failed.path.as_deref(), path.to_str());

    fs::write(&path, "another file").unwrap();
    let server = ScriptedHttp::start(|_, _| Some(Answer::new(200, "hello")));
    let [failed] = &failures_of_get(&server, dir.path()).await[..] else { panic!("not one") };
    assert_eq!((failed.kind, failed.path.as_deref()), (Kind::AlreadyExists, path.to_str()));
    assert!(failed.hint.as_ref().unwrap().names_setting(Setting::Overwrite));
}

#[tokio::test]
async fn an_item_without_urls_is_one_failure_without_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let item =
        GetItem { urls: Vec::new(), dir: dir.path().into(), out: None, checksums: Vec::new() };
    let (sink, events) = EventSink::channel();
    getter().get(item, &sink, &CancellationToken::new()).await.unwrap_err();
    let [failed] = &failures(events)[..] else { panic!("not one") };
    assert_eq!(failed.path, None);
}

fn request(source: String) -> ImportRequest {
    ImportRequest {
        source,
        torrent_file: None,
        storage: "file".into(),
        select: None,
        layout: bae::catalog::LayoutKind::Chunks,
        torrent: TorrentOptions::default(),
        seed: false,
        seeding: SeedOptions::default(),
        timeout: None,
        streams: None,
        download: DownloadOptions { fetch_limits: limits(), ..DownloadOptions::default() },
    }
}

/// The failures among the events of an import.
fn failures_of_import(import: &ImportHandle) -> Vec<Failed> {
    let mut events = import.all_events();
    let all = std::iter::from_fn(|| events.try_next());
    let failed = all.filter_map(|logged| match &*logged.unwrap().event {
        Event::Failed(failed) => Some(failed.clone()),
        _ => None,
    });
    failed.collect()
}

#[tokio::test]
async fn an_import_that_fails_sends_one_failure_and_a_stop_sends_none() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::from_iter([("HOME", dir.path().to_str().unwrap())]);
    let config = Config::load(Overrides::default(), &env).unwrap();
    let engine = Engine::open(config, EngineOptions::new(Access::Write)).await.unwrap();

    let missing = dir.path().join("no.torrent").display().to_string();
    let import = engine.start_import(request(missing)).await.unwrap();
    import.wait().await.unwrap_err();
    let [failed] = &failures_of_import(&import)[..] else { panic!("not one") };
    assert_eq!((failed.kind, &failed.id), (Kind::NotFound, &None));

    // Each answer breaks off, after the bytes that tell a torrent from another file.
    let server = ScriptedHttp::start(|_, _| {
        Some(Answer::new(200, vec![1; 64 * KIB as usize]).truncated(32 * KIB as usize))
    });
    let url = format!("{}/f.bin", server.url());
    let import = engine.start_import(request(url.clone())).await.unwrap();
    let error = import.wait().await.unwrap_err();
    let id = engine.list().await.unwrap()[0].id.clone();
    let [failed] = &failures_of_import(&import)[..] else { panic!("not one") };
    assert_eq!((failed.kind, failed.id.as_ref()), (Kind::Network, Some(&id)));
    assert_eq!(failed.hint.as_ref(), error.typed_hint());

    let import = engine.start_import(request(url)).await.unwrap();
    import.cancel();
    let error = import.wait().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled);
    assert_eq!(failures_of_import(&import), []);
    engine.close().await.unwrap();
}

/// The failures that the program printed. Each line of its output is an event of the library.
fn printed_failures(output: &CommandOutput) -> Vec<Failed> {
    let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let failed = output.stdout.lines().map(read).filter_map(|event| match event {
        Event::Failed(failed) => Some(failed),
        _ => None,
    });
    failed.collect()
}

#[test]
fn the_program_prints_a_failure_once_and_its_json_is_read_back_as_events() {
    let bae = Bae::new();
    let server = ScriptedHttp::start(|_, _| Some(Answer::new(404, "")));
    let url = format!("{}/f.bin", server.url());
    for (command, code) in [("get", 3), ("import", 3)] {
        let output = bae.run(["--json", command, &url]).expect(code);
        let [failed] = &printed_failures(&output)[..] else { panic!("{}", output.stdout) };
        assert_eq!(failed.kind, Kind::NotFound, "{command}");
        assert_eq!(output.stderr.matches("bae: ").count(), 1, "{}", output.stderr);
    }
}
