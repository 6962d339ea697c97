//! Secrets typed by the user: read without echo from a terminal, or from piped input.

use std::io;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio_util::sync::CancellationToken;

use super::{
    context::{Context, interrupted},
    output::{Failure, Output, sanitize},
    streams::Streams,
};
use crate::{
    config::Secret,
    error::{Error, Kind, Result},
};

/// Maximum length of a secret in bytes. Keys and tokens are shorter; a whole key file may be piped in.
const MAX_LEN: u64 = 64 << 10;

/// Parses a secret from the command line: `env:VARIABLE`, `command:COMMAND`, or the text itself.
pub(super) fn parse_secret(text: &str) -> Secret {
    match text.split_once(':') {
        Some(("env", name)) => Secret::Env(name.to_owned()),
        Some(("command", command)) => Secret::Command(command.to_owned()),
        _ => Secret::Text(text.to_owned()),
    }
}

/// Prompts for each of `keys`. Piped input is the secret of a single key, or one line per key.
pub(super) async fn prompt_for_secrets(
    context: &Context,
    keys: Vec<&'static str>,
) -> Result<Vec<(&'static str, String)>, Failure> {
    let mut secrets = Vec::with_capacity(keys.len());
    if keys.is_empty() {
        return Ok(secrets);
    }
    let streams = context.out.streams();
    if !streams.stdin_is_terminal() {
        let piped = context.unless_cancelled(blocking(streams, read_all)).await?;
        return Ok(split_piped_secrets(&keys, &piped)?);
    }
    for key in keys {
        let line = prompt_hidden(&context.out, &context.cancel, key).await?;
        secrets.push((key, require_text(key, &line)?));
    }
    Ok(secrets)
}

/// Prompts for one secret on the terminal.
async fn prompt_hidden(out: &Output, cancel: &CancellationToken, what: &str) -> Result<String> {
    let line = {
        // Turn the echo off before the prompt, since the user may type at once.
        let _echo_off = EchoOff::start(out.streams())?;
        out.stderr().prompt(format_args!("{what} (not shown): "));
        tokio::select! {
            line = blocking(out.streams(), Streams::read_line) => line,
            () = cancel.cancelled() => Err(interrupted()),
        }
    };
    // The typed line end was not shown either.
    out.stderr().line("");
    line
}

/// Prompts on the terminal for the password of `account` (`bob at files.example`).
///
/// # Errors
/// `InvalidInput` when nothing is typed; `Cancelled`.
pub(super) async fn prompt_password(
    out: Output,
    cancel: CancellationToken,
    account: String,
) -> Result<String> {
    let line = prompt_hidden(&out, &cancel, &format!("password of {}", sanitize(&account))).await?;
    match line.trim_end_matches(['\r', '\n']) {
        "" => Err(no_password_error(&format!("no password typed for {account}"))),
        password => Ok(password.to_owned()),
    }
}

/// The password for `-u`: typed, or the whole piped input.
///
/// # Errors
/// `InvalidInput` when there is none; `Cancelled`.
pub(super) async fn read_password(context: &Context, user: &str) -> Result<String> {
    let user = sanitize(user);
    let streams = context.out.streams();
    if streams.stdin_is_terminal() {
        return prompt_password(context.out.clone(), context.cancel.clone(), user).await;
    }
    let piped = context.unless_cancelled(blocking(streams, read_all)).await?;
    match piped.trim() {
        "" => Err(no_password_error(&format!("no password given for {user}"))),
        password => Ok(password.to_owned()),
    }
}

fn no_password_error(text: &str) -> Error {
    Error::new(Kind::InvalidInput, text).hint(
        "type it, pipe it in, set BAE_PASSWORD, or write -u NAME:env:VARIABLE or -u NAME:command:COMMAND",
    )
}

async fn blocking(streams: &Streams, read: fn(&Streams) -> io::Result<String>) -> Result<String> {
    let streams = streams.clone();
    let read = tokio::task::spawn_blocking(move || read(&streams)).await;
    let read = read.map_err(io::Error::other).flatten();
    read.map_err(|e| Error::io("cannot read a secret from standard input", e))
}

fn read_all(streams: &Streams) -> io::Result<String> {
    String::from_utf8(streams.read_to_end(MAX_LEN)?).map_err(io::Error::other)
}

fn split_piped_secrets(keys: &[&'static str], piped: &str) -> Result<Vec<(&'static str, String)>> {
    if let [key] = keys {
        return Ok(vec![(*key, require_text(key, piped)?)]);
    }
    let mut lines = piped.lines();
    keys.iter()
        .map(|key| Ok((*key, require_text(key, lines.next().unwrap_or_default())?)))
        .collect()
}

fn require_text(key: &str, text: &str) -> Result<String> {
    match text.trim() {
        "" => Err(Error::new(Kind::InvalidInput, format!("{key} is empty")).hint(format!(
            "type it, pipe it in, or write {key}=env:VARIABLE or {key}=command:COMMAND"
        ))),
        text => Ok(text.to_owned()),
    }
}

/// Turns the terminal echo off until dropped, also when the prompt is interrupted.
struct EchoOff(Termios, Streams);

impl EchoOff {
    fn start(streams: &Streams) -> Result<Self> {
        let failed =
            |e: rustix::io::Errno| Error::io("cannot change the terminal settings", e.into());
        let before = streams.with_stdin(|stdin| tcgetattr(stdin)).map_err(failed)?;
        let mut without_echo = before.clone();
        without_echo.local_modes.remove(LocalModes::ECHO);
        streams
            .with_stdin(|stdin| tcsetattr(stdin, OptionalActions::Now, &without_echo))
            .map_err(failed)?;
        Ok(Self(before, streams.clone()))
    }
}

impl Drop for EchoOff {
    fn drop(&mut self) {
        // Ignored: a closed terminal needs no echo.
        let _ = self.1.with_stdin(|stdin| tcsetattr(stdin, OptionalActions::Now, &self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piped_input_is_one_secret_or_a_line_per_secret() {
        let one = split_piped_secrets(&["service_account"], "{\n \"a\": 1\n}\n").unwrap();
        assert_eq!(one, [("service_account", "{\n \"a\": 1\n}".to_owned())]);
        let two = split_piped_secrets(&["client_secret", "token"], "c\nt\n").unwrap();
        assert_eq!(two, [("client_secret", "c".to_owned()), ("token", "t".to_owned())]);
        assert_eq!(
            split_piped_secrets(&["a", "b"], "only\n").unwrap_err().kind(),
            Kind::InvalidInput
        );
        assert!(split_piped_secrets(&["a"], " \n").is_err());
    }
}
