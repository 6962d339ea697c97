//! Commands that write to the data folder while a daemon holds it: they run in the daemon, with the standard streams of
//! this process (`daemon/commands.rs`). Output, progress bars, prompts and exit codes are those of a command of its own.
//!
//! Commands that only read the catalog run here, beside the daemon.

use std::{io::Read as _, os::unix::net::UnixStream, sync::Arc};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    args::{Cli, Command, forwarded::forwarded, token::TokenCommand},
    context::{Context, Host},
    output::{Failure, Output},
    streams::Streams,
    telemetry::Stderr,
};
use crate::{
    config::Config,
    daemon::{
        ApiState,
        commands::{self, CommandRequest, CommandRunner, INTERRUPT},
    },
    error::{Error, Kind, Result},
};

/// Whether a command writes to the data folder.
fn writes(command: &Command) -> bool {
    match command {
        Command::Import(args) => !args.dry_run,
        Command::Verify(args) => args.repair,
        Command::Seed(_)
        | Command::Publish(_)
        | Command::Attach(_)
        | Command::Adopt(_)
        | Command::Rm(_)
        | Command::Gc(_)
        | Command::Queue(_)
        | Command::Token(TokenCommand::New) => true,
        _ => false,
    }
}

/// Runs the command in the daemon that holds the data folder, and returns its exit code. `None` when the command runs
/// here.
///
/// # Errors
/// When the daemon does not take the command, or ends before it.
pub(super) async fn run(
    cli: &Cli,
    config: &Config,
    cancel: &CancellationToken,
) -> Result<Option<u8>> {
    if !cli.command.as_ref().is_some_and(writes) {
        return Ok(None);
    }
    let Ok(stream) = commands::connect(&config.data_dir) else { return Ok(None) };
    let cwd = std::env::current_dir().map_err(|e| Error::io("the working folder", e))?;
    let args = forwarded(&cli.typed, &cwd)?;
    let password = password_from_env().map(|secret| secret.reveal()).transpose()?;
    commands::send(&stream, args, cwd, password)?;
    let reader = clone(&stream)?;
    let mut answer = tokio::task::spawn_blocking(move || read_code(&reader));
    let ended = |e| Error::new(Kind::Internal, "waiting for the daemon").because(e);
    let code = tokio::select! {
        code = &mut answer => code,
        () = cancel.cancelled() => {
            let _ = std::io::Write::write_all(&mut &stream, &[INTERRUPT]);
            answer.await
        }
    };
    code.map_err(ended)?.map(Some)
}

fn clone(stream: &UnixStream) -> Result<UnixStream> {
    stream.try_clone().map_err(|e| Error::io("the daemon's socket", e))
}

fn read_code(mut stream: &UnixStream) -> Result<u8> {
    let mut code = [0];
    match stream.read_exact(&mut code) {
        Ok(()) => Ok(code[0]),
        Err(e) => Err(Error::new(Kind::Unavailable, "the daemon ended before the command did")
            .because(e)
            .hint("durable data is kept; run the same command again")),
    }
}

/// The password from `BAE_PASSWORD`, unless that is unset or empty.
pub(super) fn password_from_env() -> Option<crate::config::Secret> {
    let is_set = std::env::var_os("BAE_PASSWORD").is_some_and(|text| !text.is_empty());
    is_set.then(|| crate::config::Secret::Env("BAE_PASSWORD".into()))
}

/// Runs the commands of clients in this daemon.
#[derive(Debug)]
pub(super) struct Runner {
    api: ApiState,
    runtime: Handle,
}

impl Runner {
    pub(super) fn shared(api: ApiState) -> Arc<dyn CommandRunner> {
        Arc::new(Self { api, runtime: Handle::current() })
    }
}

impl CommandRunner for Runner {
    fn run(&self, request: CommandRequest) -> u8 {
        let CommandRequest { args, password, stdin, stdout, stderr, cancel, .. } = request;
        let stderr = Stderr::new(Streams::of_client(stdin, stdout, stderr));
        let cli = match Cli::from_client(&args) {
            Ok(cli) => cli,
            // The client has parsed them: it is of another version.
            Err(error) => {
                stderr.line(error.render());
                return Kind::InvalidInput.exit_code();
            }
        };
        let out = Output::new(cli.global.output_options(), stderr);
        let host = Some(Host { api: self.api.clone() });
        let mut config = self.api.engine().config().clone();
        config.timeout = cli.global.timeout.or(config.timeout);
        let context = Context { config, out: out.clone(), password, host, cancel };
        let work = async {
            match cli.command {
                Some(command) if writes(&command) => super::run_command(context, command).await,
                _ => Err(Error::new(Kind::InvalidInput, "no command for a daemon").into()),
            }
        };
        let done: Result<(), Failure> = self.runtime.block_on(work);
        super::exit_code(done, &out)
    }
}
