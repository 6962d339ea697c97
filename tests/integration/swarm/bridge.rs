//! The bridge to libtorrent under stress, through the library: slots that are reused while jobs are late, storage
//! that hangs, a stop with everything in flight.

use std::{net::SocketAddrV4, sync::Arc, time::Duration};

use bae::{
    backends::{Faulty, MemoryBackend, StorageBackend},
    catalog::{Catalog, FileRow, ImportRow, NewImport},
    config::{SessionOptions, TorrentOptions},
    error::Kind,
    events::EventSink,
    memory::{BlockPool, Mark},
    storage::{
        ImportReader, ImportStore, ImportWriter, Pressure, RangeSet, WindowCache, WriterOptions,
    },
    torrents::{
        Content, Download, DownloadGoal, Origin, Start, TorrentEvent, TorrentSession,
        metainfo::Metainfo,
    },
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::{
    KIB, LONG, MIB,
    peers::{LibtorrentPeer, Release},
    ports,
    torrents::{Fixture, Recipe},
    wait_until_async,
};

/// A torrent session over a backend that can be made to fail.
struct Rig {
    _dir: TempDir,
    catalog: Catalog,
    pool: BlockPool,
    pressure: Arc<Pressure>,
    backend: Arc<Faulty<MemoryBackend>>,
    torrents: Arc<TorrentSession>,
    torrent_options: TorrentOptions,
    bytes: Vec<u8>,
}

impl Rig {
    async fn new(torrent: &Fixture, listen: SocketAddrV4, peers: &[SocketAddrV4]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let pool = BlockPool::new(64 << 20);
        let pressure = Pressure::new(pool.clone());
        let options = SessionOptions {
            listen: Some(vec![listen.to_string()]),
            dht: false,
            lsd: false,
            ..SessionOptions::default()
        };
        let peers = peers.iter().map(|p| (*p).into()).collect();
        let torrent_options = TorrentOptions { peers, ..TorrentOptions::default() };
        let torrents =
            TorrentSession::start(&options, Arc::clone(&pressure), pool.clone()).unwrap();
        let bytes = std::fs::read(&torrent.torrent).unwrap();
        let backend = Arc::new(Faulty::new(MemoryBackend::new(), 1));
        Self { _dir: dir, catalog, pool, pressure, backend, torrents, torrent_options, bytes }
    }

    async fn new_import(&self, meta: &Metainfo) -> (ImportRow, Arc<ImportStore>) {
        let files = meta.files.iter().map(|f| FileRow {
            path: f.path.clone(),
            start: f.range.start,
            len: f.range.end - f.range.start,
            pad: f.pad,
        });
        let new = NewImport {
            name: meta.name.clone(),
            len: meta.len,
            chunk_len: MIB,
            storage: "memory".into(),
            files: files.collect(),
            ..NewImport::default()
        };
        let row = self.catalog.create_import(new).await.unwrap();
        let backend: Arc<dyn StorageBackend> = Arc::clone(&self.backend) as _;
        let store = ImportStore::open(&self.catalog, &row, backend).await.unwrap();
        (row, store)
    }

    /// Adds the torrent to the session. It fills a new import.
    async fn add(&self) -> (Download, Arc<ImportWriter>) {
        self.add_torrent(&self.bytes, self.torrent_options.clone()).await
    }

    async fn add_torrent(
        &self,
        bytes: &[u8],
        options: TorrentOptions,
    ) -> (Download, Arc<ImportWriter>) {
        let meta = &Metainfo::parse(bytes).unwrap();
        let (row, store) = self.new_import(meta).await;
        let start = Start { origin: Origin::File(bytes.to_vec()), have: vec![], wanted: vec![] };
        let torrent = self.torrents.add(start, options).await.unwrap();
        let wanted: RangeSet = store.layout().all_unpadded();
        let (sink, events) = torrent.writer_sink();
        let writer = Arc::new(ImportWriter::spawn(
            Arc::clone(&store),
            self.catalog.clone(),
            Arc::clone(&self.pressure),
            &wanted,
            WriterOptions::default(),
            sink,
        ));
        let (cache, content_writer) = (WindowCache::new(8 * MIB), Some(Arc::clone(&writer)));
        torrent.attach(Content::new(meta.clone(), Arc::clone(&store), cache, content_writer));
        let goal = DownloadGoal {
            id: row.id.to_string(),
            wanted,
            missing: (0..meta.pieces()).collect(),
            stored: 0,
            open_bytes: 8 * MIB,
            in_order: false,
        };
        let download =
            Download::new(torrent, meta, store, goal, events, EventSink::none(), Some(LONG));
        (download, writer)
    }

    /// A torrent that is imported and still in the session, which can seed it. Its seeder has ended: no other peer
    /// has it.
    async fn with_import(
        torrent: &Fixture,
        listen: SocketAddrV4,
    ) -> (Self, Download, Arc<ImportWriter>) {
        let seeder = LibtorrentPeer::seed(Release::Debian, torrent);
        let rig = Self::new(torrent, listen, &[seeder.addr()]).await;
        let (mut download, writer) = rig.add().await;
        download.fill(&CancellationToken::new()).await.unwrap();
        (rig, download, writer)
    }

    fn reader(&self, store: &Arc<ImportStore>) -> ImportReader {
        ImportReader::new(Arc::clone(store), WindowCache::new(8 * MIB))
    }

    async fn assert_exact(&self, store: &Arc<ImportStore>, torrent: &Fixture) {
        let got = self.reader(store).read_at(0..store.layout().len()).await.unwrap();
        let expected = std::fs::read(torrent.data()).unwrap();
        assert!(got.buffers().concat() == expected, "the stored bytes differ from the torrent's");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_torrents_can_be_added_and_removed_while_completions_are_late() {
    let torrent = Recipe::single("cycles.bin", 8 * MIB).piece(256 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let rig = Rig::new(&torrent, ports::unused(), &[seeder.addr()]).await;
    for i in 0..1000u64 {
        // Most torrents are removed at once, every 40th when blocks, hashes and one to three puts are in flight.
        let is_late = i % 40 == 0;
        let puts = rig.backend.puts() + 1 + i / 40 % 3;
        if is_late {
            rig.backend.block_puts();
        }
        let (download, writer) = rig.add().await;
        if is_late {
            wait_until_async("puts are in flight", || rig.backend.puts() >= puts).await;
        } else {
            // The puts of the torrent before this one end after its slot was reused.
            rig.backend.unblock_puts();
        }
        drop((download, writer));
    }
    let (mut download, _writer) = rig.add().await;
    let store = Arc::clone(download.store());
    download.fill(&CancellationToken::new()).await.unwrap();
    rig.assert_exact(&store, &torrent).await;
    drop(download);
    rig.torrents.stop(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_stops_in_time_while_storage_hangs() {
    let torrent = Recipe::single("hangs.bin", 96 * MIB).piece(MIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let rig = Rig::new(&torrent, ports::unused(), &[seeder.addr()]).await;
    rig.backend.block_puts();
    let (mut download, writer) = rig.add().await;
    let stop = CancellationToken::new();
    // When this many bytes are held, acks are held back and puts hang. Then the session is stopped.
    let held_back = wait_until_async("16 MiB are held", || rig.pool.held() > 16 << 20);
    tokio::select! {
        result = download.fill(&stop) => panic!("the import ended although no put ended: {result:?}"),
        () = held_back => {}
    }
    assert!(rig.pool.held() <= rig.pool.budget(), "{} bytes held", rig.pool.held());
    assert!(rig.torrents.stop(LONG).await, "the session did not end");
    drop(download);
    let unstored = writer.stop(Duration::from_millis(200)).await;
    assert!(unstored > 0, "the bytes that were never stored are not counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_stops_with_reads_in_flight() {
    let torrent = Recipe::single("reads.bin", 32 * MIB).piece(MIB).make();
    let listen = ports::unused();
    let (rig, download, _writer) = Rig::with_import(&torrent, listen).await;
    // Longer than the wait for the end of the session.
    rig.backend.delay(2 * LONG);
    let leecher = LibtorrentPeer::leech(Release::Debian, &torrent, listen);
    let gets = rig.backend.gets();
    wait_until_async("a get", || rig.backend.gets() > gets).await;
    assert!(rig.torrents.stop(LONG).await, "the session did not end");
    drop((leecher, download));
}

/// Downloads until `ready`, which comes before the end of the download.
async fn fill_until(download: &mut Download, what: &str, ready: impl FnMut() -> bool) {
    let never = CancellationToken::new();
    tokio::select! {
        ended = download.fill(&never) => panic!("it ended before {what}: {ended:?}"),
        () = wait_until_async(what, ready) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_wait_for_memory_resume_whenever_storage_drains() {
    // While puts are blocked, the rate falls to its minimum before acks are held back. Small pieces then hold few bytes
    // that are not sealed, so that peers wait all the same.
    let torrent = Recipe::single("waits.bin", 160 * MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::swarm(&torrent, 4, 64 * MIB);
    let rig = Rig::new(&torrent, ports::unused(), seeder.addrs()).await;
    let wait = rig.pool.mark(Mark::Wait);
    let (mut download, _writer) = rig.add().await;
    // No timer wakes a waiting peer: a wake-up that is lost stalls the import.
    let storage = async {
        wait_until_async("acks are held back", || rig.pressure.sealed() > wait).await;
        // Enough for the peers to resume, and far from all of the torrent.
        rig.backend.block_puts_after(40);
        wait_until_async("storage drained", || rig.backend.puts() > 40).await;
        wait_until_async("acks are held back again", || rig.pressure.sealed() > wait).await;
        rig.backend.unblock_puts();
    };
    rig.backend.block_puts();
    let stop = CancellationToken::new();
    let (filled, ()) = tokio::join!(download.fill(&stop), storage);
    filled.unwrap();
    rig.assert_exact(&Arc::clone(download.store()), &torrent).await;
    drop(download);
    rig.torrents.stop(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_one_torrent_leaves_the_others_alone_and_can_be_lifted() {
    let slow = Recipe::single("limited.bin", 8 * MIB).piece(256 * KIB).make();
    let fast = Recipe::single("unlimited.bin", 16 * MIB).piece(256 * KIB).make();
    let slow_seeder = LibtorrentPeer::seed(Release::Debian, &slow);
    let fast_seeder = LibtorrentPeer::seed(Release::Debian, &fast);
    let rig = Rig::new(&slow, ports::unused(), &[slow_seeder.addr()]).await;
    // Without the limits, either would be complete in a second; with them, in minutes.
    let limited = TorrentOptions { limit_rate: Some(16 * KIB), ..rig.torrent_options.clone() };
    let peers = vec![fast_seeder.addr().into()];
    let bytes = std::fs::read(&fast.torrent).unwrap();
    let (mut fast_download, _fast_writer) =
        rig.add_torrent(&bytes, TorrentOptions { peers, ..limited.clone() }).await;
    let (mut slow_download, _slow_writer) = rig.add_torrent(&rig.bytes, limited).await;
    let fast_control = fast_download.torrent().control();
    fast_control.set_sequential(true).unwrap();
    fast_control.set_limits(None, Some(MIB)).unwrap();
    let stop = CancellationToken::new();
    tokio::select! {
        filled = slow_download.fill(&stop) => panic!("the limited torrent was first: {filled:?}"),
        filled = fast_download.fill(&stop) => filled.unwrap(),
    }
    assert!(slow_download.downloaded() < 4 * MIB, "{}", slow_download.downloaded());
    slow_download.torrent().control().set_limits(None, None).unwrap();
    slow_download.fill(&stop).await.unwrap();
    rig.assert_exact(&Arc::clone(slow_download.store()), &slow).await;
    rig.assert_exact(&Arc::clone(fast_download.store()), &fast).await;
    drop((slow_download, fast_download));
    rig.torrents.stop(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_torrent_resumes_and_completes_exactly() {
    let torrent = Recipe::single("pauses.bin", 48 * MIB).piece(MIB).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, 12 * MIB);
    let rig = Rig::new(&torrent, ports::unused(), &[seeder.addr()]).await;
    let (mut download, writer) = rig.add().await;
    let stop = CancellationToken::new();
    for round in 1..=3 {
        let arrived = || writer.stored_total() + writer.pending_bytes() >= round * 8 * MIB;
        fill_until(&mut download, "more bytes", arrived).await;
        download.torrent().pause().unwrap();
        fill_until(&mut download, "no connection", || seeder.peers() == Some(0)).await;
        let before = download.downloaded();
        let reports = seeder.reports() + 3;
        fill_until(&mut download, "reports of the seeder", || seeder.reports() >= reports).await;
        assert!(download.downloaded() - before <= MIB, "a paused torrent downloaded");
        download.torrent().resume().unwrap();
        download.torrent().connect(&seeder.addr().to_string()).unwrap();
    }
    let store = Arc::clone(download.store());
    download.fill(&stop).await.unwrap();
    rig.assert_exact(&store, &torrent).await;
    drop(download);
    rig.torrents.stop(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_read_does_not_stop_seeding() {
    let torrent = Recipe::single("lost.bin", 8 * MIB).piece(256 * KIB).make();
    let listen = ports::unused();
    let (rig, download, _writer) = Rig::with_import(&torrent, listen).await;
    // The gets of windows fail, then the gets of single pieces in them.
    rig.backend.fail_next_gets(4, Kind::NotFound);
    let leecher = LibtorrentPeer::leech(Release::Debian, &torrent, listen);
    let (mut seeded, _) = download.into_torrent();
    // A few pieces are lost; all others are served.
    wait_until_async("most bytes arrive", || leecher.received() >= 6 * MIB).await;
    while let Some(notice) = seeded.try_next_event().unwrap() {
        assert!(!matches!(notice, TorrentEvent::Failed(_)), "seeding ended: {notice:?}");
    }
    drop(seeded);
    rig.torrents.stop(LONG).await;
}
