//! The command line: parses arguments, runs one command and prints the result.
//!
//! [`args`] defines the arguments. The file of each command turns them into a request to [`Engine`] and prints the
//! response. Data goes to standard output and everything else to standard error; only [`output`] writes there.
//! No import logic lives here: every operation of the CLI is available to other front ends through [`Engine`].
//!
//! [`Engine`]: crate::engine::Engine
//!
//! Secrets on the command line are rejected, since every user of the machine can read it. The one exception is
//! `--drive-token`, a token for scripts that expires within an hour; its environment variable is safer.

mod args;
mod commands;
mod context;
mod interrupt;
mod output;
mod remote;
mod secret;
mod streams;
mod telemetry;
#[cfg(feature = "otel")]
mod traces;

use std::{ffi::OsString, io, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};

pub use self::args::Cli;
use self::{
    args::{Command, GlobalArgs, storage::StorageCommand},
    context::Context,
    output::{Failure, Output},
    telemetry::Stderr,
};
use crate::{
    config::{Config, Env, Overrides},
    error::{Error, Result},
    torrents::configure_heap,
};

/// Runs one command and reports errors. [`Kind::exit_code`](crate::error::Kind::exit_code) has the table of exit codes.
pub async fn run(cli: Cli) -> ExitCode {
    let out = Output::new(cli.global.output_options(), Stderr::default());
    let done = execute(cli, out.clone()).await;
    let code = done.unwrap_or_else(|failure| exit_code(Err(failure), &out));
    #[cfg(feature = "otel")]
    traces::close();
    code.into()
}

/// Reports the error of a command, and returns its exit code.
fn exit_code(done: Result<(), Failure>, out: &Output) -> u8 {
    match done {
        Ok(()) => 0,
        // The reader closed the pipe, as in `bae cat … | head`: not an error.
        Err(Failure::PipeClosed) => 0,
        Err(Failure::Reported(kind)) => kind.exit_code(),
        Err(Failure::Error(error)) => {
            out.error(&error);
            error.kind().exit_code()
        }
    }
}

/// Reports that the runtime could not start, and returns the exit code.
pub fn report_runtime_error(error: std::io::Error) -> ExitCode {
    let error = Error::io("cannot start the runtime", error);
    Stderr::default().line(format_args!("bae: {}", error.report()));
    error.kind().exit_code().into()
}

/// Prints a usage error, or the help or version text. clap chooses the stream and the exit code. With `--json` a usage
/// error is also printed as an event.
pub fn report_usage_error(error: &clap::Error, args: impl Iterator<Item = OsString>) -> ExitCode {
    match error.print() {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return ExitCode::FAILURE,
        _ => {}
    }
    let has_flag = args.take_while(|arg| arg != "--").any(|arg| arg == "--json");
    let falsy = ["", "0", "false", "f", "no", "n", "off"];
    let has_variable =
        std::env::var("BAE_JSON").is_ok_and(|v| !falsy.contains(&&*v.to_ascii_lowercase()));
    if error.use_stderr() && (has_flag || has_variable) {
        output::print_usage_error_json(&error.render().to_string());
    }
    u8::try_from(error.exit_code()).unwrap_or(2).into()
}

async fn execute(mut cli: Cli, out: Output) -> Result<u8, Failure> {
    match &cli.command {
        None => return out.raw(args::help().as_bytes()).map(|()| 0),
        Some(Command::Completions { shell }) => {
            return out.raw(&args::completions(*shell)).map(|()| 0);
        }
        Some(_) => {}
    }
    let GlobalArgs { verbose, quiet, log_format, .. } = cli.global;
    telemetry::init(out.stderr(), verbose, quiet, log_format)?;
    let mut overrides = overrides(&cli.global);
    overrides.creates_config =
        matches!(cli.command, Some(Command::Storage(StorageCommand::Add(_))));
    let config = Config::load(overrides, &Env::process())?;
    let cancel = interrupt::watch(out.stderr().clone())?;
    handle_file_size_limit()?;
    if let Some(code) = remote::run(&cli, &config, &cancel).await? {
        return Ok(code);
    }
    let password = remote::password_from_env();
    let context = Context { config, out, password, host: None, cancel };
    let Some(command) = cli.command.take() else { return Ok(0) };
    if matches!(command, Command::Get(_) | Command::Seed(_) | Command::Daemon(_)) {
        // They allocate and free buffers all the time: 119 MiB resident instead of 155 MiB for seeding. The setting
        // is that of the whole process, so that no call of the library makes it.
        configure_heap();
    }
    run_command(context, command).await.map(|()| 0)
}

async fn run_command(context: Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Import(args) => commands::import::import(context, args).await,
        Command::Get(args) => commands::get::get(context, args).await,
        Command::Seed(args) => commands::import::seed(context, args).await,
        Command::Limit(args) => commands::limit::limit(context, args).await,
        Command::Ls => commands::show::ls(context).await,
        Command::Info(args) => commands::show::info(context, args).await,
        Command::Cat(args) => commands::read::cat(context, args).await,
        Command::Stream(args) => commands::stream::stream(context, args).await,
        Command::Export(args) => commands::read::export(context, args).await,
        Command::Publish(args) => commands::publish::publish(context, args).await,
        Command::Url(args) => commands::publish::url(context, args).await,
        Command::Verify(args) => commands::verify::verify(context, args).await,
        Command::Attach(args) => commands::attach::attach(context, args).await,
        Command::Adopt(args) => commands::adopt::adopt(context, args).await,
        Command::Rm(args) => commands::remove::rm(context, args).await,
        Command::Gc(args) => commands::remove::gc(context, args).await,
        Command::Queue(command) => commands::queue::run(context, command).await,
        Command::Daemon(args) => commands::daemon::daemon(context, args).await,
        Command::Token(command) => commands::token::token(context, command).await,
        Command::Storage(command) => commands::storage::run(context, command).await,
        Command::Completions { .. } => unreachable!("handled before anything is opened"),
    }
}

/// Handles SIGXFSZ, so that exceeding the file size limit (`ulimit -f`) is an I/O error and does not kill the process.
fn handle_file_size_limit() -> Result<()> {
    // SIGXFSZ is 25 on Linux, except on MIPS.
    let limit = SignalKind::from_raw(25);
    signal(limit).map(drop).map_err(|e| Error::io("cannot install a signal handler", e))
}

fn overrides(global: &GlobalArgs) -> Overrides {
    let global = global.clone();
    Overrides {
        data_dir: global.data_dir,
        config: global.config,
        creates_config: false,
        memory: global.memory,
        cache_dir: global.cache_dir,
        cache_size: global.cache_size,
        limit_rate: global.limit_rate,
        timeout: global.timeout,
        drive_token: global.drive_token,
        drive_folder: global.drive_folder,
    }
}
