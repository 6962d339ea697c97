//! One file per command: turns the arguments into a request, runs it, and prints the answer.

pub(super) mod adopt;
pub(super) mod attach;
pub(super) mod daemon;
pub(super) mod estimate;
pub(super) mod feeds;
pub(super) mod get;
pub(super) mod import;
pub(super) mod limit;
pub(super) mod login;
pub(super) mod publish;
pub(super) mod queue;
pub(super) mod read;
pub(super) mod remove;
pub(super) mod show;
pub(super) mod storage;
pub(super) mod stream;
pub(super) mod token;
pub(super) mod verify;
