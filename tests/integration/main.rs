//! The program against real clients, real crashes and bad input. One test binary; each test has a fresh data
//! directory.
//!
//! Each module tests one promise or one command. `support` starts the other programs of a test (peers, trackers,
//! servers, bae itself) and makes its torrents. A missing program fails the test with the name of the package to
//! install; no test passes by skipping.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test that panics has failed, which is what it is for; its threads may sleep"
)]

mod adopt;
mod attach;
mod books;
mod bridge;
mod cli;
mod cloud_faults;
mod corrupt;
mod crash;
mod drive;
mod dry_run;
mod dry_run_url;
mod ends;
mod export;
mod files;
mod ftp;
mod ftp_oddities;
mod get;
mod get_faults;
mod get_logins;
mod get_protocols;
mod get_stdout;
mod get_targets;
mod guided;
mod http;
mod http_answers;
mod import_url;
mod input;
mod layers;
mod local_faults;
mod memory;
mod network;
mod odd_torrents;
mod paused;
mod peers;
mod proxies;
mod repair;
mod s3;
mod s3_acknowledged;
mod s3_faults;
mod s3_source;
mod seed_cases;
mod seed_goals;
mod seeding;
mod sftp;
mod sftp_keys;
mod sftp_oddities;
mod shapes;
mod storage_cmd;
mod storage_wrong;
mod stream;
mod stream_import;
mod stream_player;
mod support;
mod told;
mod torrent_sources;
mod valgrind;
mod versions;
mod web_seeds;
mod webdav;
