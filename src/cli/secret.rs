//! Secrets that somebody types: without an echo on a terminal, else from what is piped in.

use std::io::{self, IsTerminal, Read};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::{Context, output::Failure};
use crate::{
    config::Secret,
    error::{Error, Kind, Result},
};

/// No key or token is longer; a whole key file may be piped in.
const LONGEST: u64 = 64 << 10;

/// A secret as it is given on a command line: `env:VARIABLE` or `command:COMMAND`, else the text itself.
pub(super) fn secret_of(text: &str) -> Secret {
    match text.split_once(':') {
        Some(("env", name)) => Secret::Env(name.to_owned()),
        Some(("command", command)) => Secret::Command(command.to_owned()),
        _ => Secret::Text(text.to_owned()),
    }
}

/// Asks for each of `keys` in turn. Piped input is one secret, or a line for each where there are several.
pub(super) async fn ask_for(
    context: &Context,
    keys: Vec<&'static str>,
) -> Result<Vec<(&'static str, String)>, Failure> {
    let mut answers = Vec::with_capacity(keys.len());
    if keys.is_empty() {
        return Ok(answers);
    }
    if !io::stdin().is_terminal() {
        let piped = context.unless_cancelled(blocking(read_all)).await?;
        return Ok(share_out(&keys, &piped)?);
    }
    for key in keys {
        context.out.stderr().prompt(format_args!("{key} (not shown): "));
        let line = {
            let _silence = Silence::begin()?;
            context.unless_cancelled(blocking(read_line)).await
        };
        // The line end that was typed was not shown either.
        context.out.stderr().line("");
        answers.push((key, not_empty(key, &line?)?));
    }
    Ok(answers)
}

async fn blocking(read: fn() -> io::Result<String>) -> Result<String> {
    let read = tokio::task::spawn_blocking(read).await.map_err(io::Error::other).flatten();
    read.map_err(|e| Error::io("a secret from standard input", e))
}

fn read_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().read_line(&mut line).map(|_| line)
}

fn read_all() -> io::Result<String> {
    let mut text = String::new();
    io::stdin().lock().take(LONGEST).read_to_string(&mut text).map(|_| text)
}

fn share_out(keys: &[&'static str], piped: &str) -> Result<Vec<(&'static str, String)>> {
    if let [key] = keys {
        return Ok(vec![(*key, not_empty(key, piped)?)]);
    }
    let mut lines = piped.lines();
    keys.iter().map(|key| Ok((*key, not_empty(key, lines.next().unwrap_or_default())?))).collect()
}

fn not_empty(key: &str, text: &str) -> Result<String> {
    match text.trim() {
        "" => Err(Error::new(Kind::InvalidInput, format!("no {key} was given")).hint(format!(
            "type it, pipe it in, or give {key}=env:VARIABLE or {key}=command:COMMAND"
        ))),
        text => Ok(text.to_owned()),
    }
}

/// A terminal that does not show what is typed, until dropped: also when the question is interrupted.
struct Silence(Termios);

impl Silence {
    fn begin() -> Result<Self> {
        let failed = |e: rustix::io::Errno| Error::io("the terminal", e.into());
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &silent).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that went away needs no echo.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piped_input_is_one_secret_or_a_line_for_each() {
        let one = share_out(&["service_account"], "{\n \"a\": 1\n}\n").unwrap();
        assert_eq!(one, [("service_account", "{\n \"a\": 1\n}".to_owned())]);
        let two = share_out(&["client_secret", "token"], "c\nt\n").unwrap();
        assert_eq!(two, [("client_secret", "c".to_owned()), ("token", "t".to_owned())]);
        assert_eq!(share_out(&["a", "b"], "only\n").unwrap_err().kind(), Kind::InvalidInput);
        assert!(share_out(&["a"], " \n").is_err());
    }
}
