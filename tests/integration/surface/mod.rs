//! The program as users and scripts see it: flags, output, exit codes, and errors that say what to do.
//!
//! The other rooms test what happens to bytes. Here a run is short, and its stdout, stderr and code are the result.

mod bad_input;
mod cli;
mod documentation;
mod dry_run;
mod dry_run_url;
mod export;
mod failures;
mod storage_cmd;
