//! The daemon and other processes of the same data folder.

use super::home;
use crate::support::{KIB, MIB, daemon::Daemon, peers::LibtorrentPeer, torrents::Recipe};

#[test]
fn a_folder_that_another_process_writes_to_is_refused() {
    let torrent = Recipe::single("held.bin", 4 * MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, 64 * KIB);
    let bae = home();
    let mut import = bae.start_import(&torrent, &[seeder.addr()]);
    import.event("started");
    let refused = bae.run(["daemon", "--api-port", "0"]).expect(5);
    assert!(refused.stderr.contains("in use by another bae"), "{}", refused.stderr);
    assert!(!bae.data_dir().join("daemon.sock").exists());
    import.kill();
    // The next one has the folder at once, and one daemon is enough.
    let daemon = Daemon::start(&bae, &[]);
    bae.run(["daemon", "--api-port", "0"]).expect(5);
    daemon.call("GET", "/api/v1/version", "").expect(200);
}
