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
mod bad_input;
mod bridge;
mod cli;
mod cloud_faults;
mod corrupting_peers;
mod crash;
mod drive;
mod dry_run;
mod dry_run_url;
mod export;
mod ftp;
mod ftp_oddities;
mod full_storage;
mod get;
mod get_faults;
mod get_logins;
mod get_protocols;
mod get_stdout;
mod get_targets;
mod glossary;
mod http;
mod http_oddities;
mod import_url;
mod invalid_storage_settings;
mod kept_catalogs;
mod layers;
mod libtorrent_versions;
mod local_faults;
mod malformed_torrents;
mod memory;
mod network;
mod no_progress;
mod peers;
mod proxies;
mod repair;
mod round_trips;
mod s3;
mod s3_false_success;
mod s3_faults;
mod s3_source;
mod seed_goals;
mod seeding;
mod seeding_cases;
mod sftp;
mod sftp_keys;
mod sftp_oddities;
mod storage_cmd;
mod storage_errors;
mod stream;
mod stream_import;
mod stream_player;
mod suggestions;
mod support;
mod torrent_sources;
mod usage;
mod valgrind;
mod web_seeds;
mod webdav;
mod whole_files;
