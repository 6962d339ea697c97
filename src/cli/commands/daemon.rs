//! `daemon`: holds the data folder and serves its queue to clients, until stopped.

use std::time::Duration;

use serde::Serialize;

use crate::{
    cli::{args::daemon::DaemonArgs, context::Context, output::Failure, remote::Runner, telemetry},
    daemon::{self, ApiState},
    engine::{Access, EngineOptions},
    queue::Queue,
};

#[derive(Serialize)]
struct ReadyLine<'a> {
    event: &'static str,
    /// URLs of the API.
    listening: &'a [String],
    socket: &'a str,
    /// The file of the token.
    token_file: &'a str,
}

/// Time for commands of clients to end at a stop: a flush takes at most 5 s, a manifest 2 s.
const COMMANDS_TIMEOUT: Duration = Duration::from_secs(8);

/// Runs until stopped, then returns `Ok`.
pub(in crate::cli) async fn daemon(mut context: Context, args: DaemonArgs) -> Result<(), Failure> {
    args.apply_to(&mut context.config.api);
    context.config.network = args.network.resolve(context.config.network.clone())?;
    let session = context.config.network.session.clone();
    context.config.upload_limit = session.upload_limit;
    let options = EngineOptions::new(Access::Write).session(session);
    context
        .with_engine_options(options, async |engine| {
            let queue = Queue::open(engine.clone()).await?;
            let commands = daemon::commands::bind(&context.config.data_dir)?;
            let state = ApiState::new(queue, telemetry::log_lines())?;
            let runner = Runner::shared(state.clone());
            let serving =
                daemon::commands::serve(commands.listener, runner, context.cancel.clone());
            let serving = tokio::spawn(serving);
            let print =
                |addresses: &[std::net::SocketAddr]| print_ready(&context, &state, addresses);
            let ran = daemon::run(&state, context.cancel.clone(), print).await;
            drop(commands.file);
            // Commands of clients end as after Ctrl-C, and say so.
            let _ = tokio::time::timeout(COMMANDS_TIMEOUT, serving).await;
            Ok(ran?)
        })
        .await
}

/// Prints the addresses, and a new token once. A closed standard output does not stop the daemon.
fn print_ready(context: &Context, state: &ApiState, addresses: &[std::net::SocketAddr]) {
    let base = &state.options().base_path;
    let scheme = if state.options().tls_cert.is_some() { "https" } else { "http" };
    let urls: Vec<String> = addresses.iter().map(|a| format!("{scheme}://{a}{base}/")).collect();
    let data_dir = &context.config.data_dir;
    let token_file = data_dir.join("api-token").display().to_string();
    let socket = data_dir.join(daemon::socket::FILE_NAME).display().to_string();
    if context.out.is_json() {
        let line = ReadyLine {
            event: "ready",
            listening: &urls,
            socket: &socket,
            token_file: &token_file,
        };
        let _ = context.out.json(&line);
    } else {
        for url in &urls {
            let _ = context.out.result(format_args!("listening on {url}"));
        }
    }
    if let Some(token) = state.access().tokens().new_admin_token() {
        context.out.note(format_args!("new token: {token} (also in {token_file})"));
    }
    if addresses.iter().any(|address| !address.ip().is_loopback()) {
        context.out.note("other machines can connect; they need the token");
    }
}
