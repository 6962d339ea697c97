//! A real session without network: its calls, their errors, and its end.

use std::{sync::atomic::AtomicUsize, thread};

use super::*;
use crate::{error::Kind, torrents::disk::ffi::Setting};

const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const MAGNET: &str = "magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567";

fn options() -> SessionOptions {
    SessionOptions {
        listen: Some(vec!["127.0.0.1:0".into()]),
        dht: false,
        lsd: false,
        ..SessionOptions::default()
    }
}

fn start_session() -> Arc<TorrentSession> {
    let pool = BlockPool::new(16 << 20);
    TorrentSession::start(&options(), Pressure::new(pool.clone()), pool).unwrap()
}

/// A torrent of 64 pieces, which are not read.
fn torrent() -> Vec<u8> {
    let hashes = "a".repeat(20 * 64);
    format!("d4:infod6:lengthi1048576e4:name1:x12:piece lengthi16384e6:pieces1280:{hashes}ee")
        .into_bytes()
}

async fn add(session: &Arc<TorrentSession>, start: Start) -> Result<Torrent> {
    session.add(start, TorrentOptions::default()).await
}

fn file(bytes: Vec<u8>) -> Start {
    Start { origin: Origin::File(bytes), have: Vec::new(), wanted: Vec::new() }
}

fn kind_of<T>(result: Result<T>) -> Option<Kind> {
    result.err().map(|e| e.kind())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kind_of_an_error_says_what_libtorrent_refused() {
    let session = start_session();
    // Rust accepts the form; libtorrent refuses a torrent without pieces.
    let refused = add(&session, file(b"d4:infod4:name1:xee".to_vec())).await;
    assert_eq!(kind_of(refused), Some(Kind::InvalidInput));
    let refused = add(&session, Start::magnet("magnet:?dn=x".into())).await;
    assert_eq!(kind_of(refused), Some(Kind::InvalidInput));
    let unknown = Setting { name: "no_such_setting".into(), number: 1, text: String::new() };
    let refused = session.native.call(|s| s.apply(&vec![unknown.clone()]));
    assert_eq!(kind_of(refused), Some(Kind::InvalidInput));

    let magnet = add(&session, Start::magnet(MAGNET.into())).await.unwrap();
    assert_eq!(kind_of(magnet.info_dictionary().await), Some(Kind::Unavailable));
    assert_eq!(kind_of(magnet.torrent_file().await), Some(Kind::Unavailable));
    let again = add(&session, Start::magnet(MAGNET.into())).await;
    assert_eq!(kind_of(again), Some(Kind::AlreadyExists));
    magnet.pause().unwrap();
    magnet.resume().unwrap();
    assert!(session.stop(STOP_TIMEOUT).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_a_setting_it_knows_does_not_start() {
    let pool = BlockPool::new(16 << 20);
    let libtorrent = [("no_such_setting".to_owned(), 1)].into();
    let options = SessionOptions { libtorrent, ..options() };
    let error = TorrentSession::start(&options, Pressure::new(pool.clone()), pool).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput);
    assert!(error.report().contains("no_such_setting"), "{}", error.report());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_on_a_torrent_that_has_left_the_session_finds_none() {
    let session = start_session();
    let torrent = add(&session, file(torrent())).await.unwrap();
    let native = Arc::clone(torrent.native());
    torrent.prioritize(&[1, 2], 7).unwrap();
    assert!(!torrent.torrent_file().await.unwrap().is_empty());
    torrent.remove();
    // A removal is queued behind earlier calls, and the network thread may still hold the torrent after it.
    let mut found = Ok(());
    for _ in 0..10_000 {
        found = native.add_piece(0).await;
        if found.is_err() {
            break;
        }
    }
    assert_eq!(kind_of(found), Some(Kind::NotFound));
    assert_eq!(kind_of(native.remove()), Some(Kind::NotFound));
    assert!(session.disk.registry().all().is_empty() && session.event_senders.lock().is_empty());
    // It can be added again.
    add(&session, file(self::torrent())).await.unwrap();
    assert!(session.stop(STOP_TIMEOUT).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_after_the_end_of_the_session_are_cancelled() {
    let session = start_session();
    let mut torrent = add(&session, file(torrent())).await.unwrap();
    assert!(session.stop(STOP_TIMEOUT).await);
    assert!(session.stop(STOP_TIMEOUT).await);
    let results = [
        torrent.pause(),
        torrent.resume(),
        torrent.control().set_sequential(true),
        torrent.control().set_limits(Some(1), None),
        torrent.connect("127.0.0.1:1"),
        torrent.prioritize(&[0], 7),
        torrent.set_deadlines(&[0]),
        torrent.clear_deadlines(&[0]),
        torrent.native().add_piece(0).await,
        torrent.torrent_file().await.map(drop),
        torrent.info_dictionary().await.map(drop),
        torrent.availability().await.map(drop),
        session.set_limits(None, Some(1)),
        session.set_budget_limit(None),
        add(&session, Start::magnet(MAGNET.into())).await.map(drop),
    ];
    let kinds: Vec<Option<Kind>> = results.into_iter().map(kind_of).collect();
    assert_eq!(kinds, vec![Some(Kind::Cancelled); kinds.len()]);
    while let Ok(Some(_)) = torrent.try_next_event() {}
    assert_eq!(kind_of(torrent.try_next_event()), Some(Kind::Cancelled));
    assert!(torrent.next_event().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_with_a_port_above_65535_is_refused() {
    let session = start_session();
    let torrent = add(&session, file(torrent())).await.unwrap();
    torrent.connect("127.0.0.1:65535").unwrap();
    for bad in ["127.0.0.1:70000", "127.0.0.1:0", "localhost:1"] {
        assert_eq!(kind_of(torrent.connect(bad)), Some(Kind::InvalidInput), "{bad}");
    }
    assert!(session.stop(STOP_TIMEOUT).await);
}

/// Every thread calls until its first `Cancelled`; the session ends after each of them has made some calls.
#[tokio::test(flavor = "multi_thread")]
async fn calls_on_many_threads_are_answered_or_cancelled_when_the_session_ends() {
    const CALLS_BEFORE_END: usize = 50;
    let session = start_session();
    let torrent = Arc::new(add(&session, file(torrent())).await.unwrap());
    let runtime = Handle::current();
    let made: Arc<Vec<AtomicUsize>> = Arc::new((0..6).map(|_| AtomicUsize::new(0)).collect());
    let callers: Vec<_> = (0..made.len())
        .map(|n| {
            let (torrent, made) = (Arc::clone(&torrent), Arc::clone(&made));
            let runtime = runtime.clone();
            thread::spawn(move || {
                loop {
                    let result = match n % 3 {
                        0 => torrent.prioritize(&[1, 2, 3], 7),
                        1 => runtime.block_on(torrent.availability()).map(drop),
                        _ => runtime.block_on(torrent.native().add_piece(1)),
                    };
                    made[n].fetch_add(1, Ordering::Relaxed);
                    if let Err(e) = result {
                        return e.kind();
                    }
                }
            })
        })
        .collect();
    while made.iter().any(|made| made.load(Ordering::Relaxed) < CALLS_BEFORE_END) {
        tokio::task::yield_now().await;
    }
    assert!(session.stop(STOP_TIMEOUT).await);
    let kinds = tokio::task::spawn_blocking(|| {
        callers.into_iter().map(|caller| caller.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(kinds.await.unwrap(), [Kind::Cancelled; 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torrent_whose_addition_is_given_up_leaves_the_session() {
    let session = start_session();
    let owners = Arc::strong_count(&session);
    for _ in 0..20 {
        let mut adding = Box::pin(add(&session, file(torrent())));
        // The work starts at the first poll, and goes on when the future is dropped.
        let polled = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(std::future::Future::poll(adding.as_mut(), cx).is_ready())
        });
        let _ = polled.await;
        drop(adding);
        // The work and the torrent own the session too.
        while Arc::strong_count(&session) > owners {
            tokio::task::yield_now().await;
        }
        assert!(session.event_senders.lock().is_empty());
        assert!(session.disk.registry().all().is_empty());
    }
    add(&session, file(torrent())).await.unwrap();
    assert!(session.stop(STOP_TIMEOUT).await);
}
