//! The program against real clients, real crashes and bad input. One test binary; each test has a fresh data
//! directory.
//!
//! A room is what its tests are about; a module in it tests one promise or one command. `glossary` and `layers` read the
//! source text. `support` starts the other programs of a test (peers, trackers, servers, bae itself) and makes its
//! torrents. A missing program fails the test with the name of the package to install; no test passes by skipping.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test that panics has failed, which is what it is for; its threads may sleep"
)]

mod daemon;
mod engine;
mod glossary;
mod layers;
mod seeding;
mod servers;
mod storage;
mod streaming;
mod support;
mod surface;
mod swarm;
