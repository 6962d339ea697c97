//! Parse, run, say how it went.

use std::{process::ExitCode, time::Duration};

use bae::cli::{self, Cli};

/// Two threads: hashing and storage calls on one must not hold up the other's answers. libtorrent has its own.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let cli = match Cli::from_args(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return cli::usage(&error, std::env::args_os()),
    };
    match tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(cli::run(cli));
            // Everything is closed by now, except perhaps a read from a terminal that nobody answers.
            runtime.shutdown_timeout(Duration::from_millis(100));
            code
        }
        Err(error) => cli::failed_to_start(error),
    }
}
