//! The program against real clients, real crashes and bad input: one binary, a fresh data folder for each test.
//!
//! Each module holds one promise or one surface. `support` starts what they need (peers, trackers, torrents, bae
//! itself); a program that is missing fails the test and names what to install, it never passes by skipping.
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
