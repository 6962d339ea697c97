//! Entry point: parses the arguments, runs the command, exits with its code.

use std::{process::ExitCode, time::Duration};

use bae::cli::{self, Cli};

/// Worker threads of the runtime. With two, hashing on one does not delay storage responses on the other. libtorrent
/// has its own threads.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let cli = match Cli::from_args(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return cli::report_usage_error(&error, std::env::args_os()),
    };
    match tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(cli::run(cli));
            // Everything is closed by now, except perhaps a blocking read from a terminal.
            runtime.shutdown_timeout(Duration::from_millis(100));
            code
        }
        Err(error) => cli::report_runtime_error(error),
    }
}
