//! Arguments in the form in which they are sent to a daemon: those of the environment written out, paths absolute, and
//! secrets that the environment or a command gives resolved. The daemon parses them without its own environment.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

use clap::{
    Arg, ArgAction, ArgMatches, CommandFactory as _, FromArgMatches as _, ValueHint,
    parser::ValueSource,
};
use url::Url;

use super::Cli;
use crate::{
    cli::secret::parse_secret,
    config::Secret,
    error::{Error, Kind, Result},
};

/// Flags that belong to the process that holds the data folder.
const OF_THE_FOLDER: [&str; 9] = [
    "data_dir",
    "config",
    "memory",
    "cache_dir",
    "cache_size",
    "limit_rate",
    "drive_token",
    "drive_folder",
    "log_format",
];

/// The arguments of a command for the daemon, the name of the program first.
///
/// # Errors
/// `InvalidInput` when a value is not UTF-8; otherwise the error of resolving a secret.
pub(in crate::cli) fn forwarded(typed: &[OsString], cwd: &Path) -> Result<Vec<String>> {
    let mut command = Cli::command();
    command.build();
    let again = |e| Error::new(Kind::Internal, "the arguments were parsed before").because(e);
    let matches = command.try_get_matches_from_mut(typed).map_err(again)?;
    let mut args = vec!["bae".to_owned()];
    let (mut command, mut matches) = (&command, &matches);
    while let Some((name, below)) = matches.subcommand() {
        args.push(name.to_owned());
        matches = below;
        command = command.find_subcommand(name).unwrap_or(command);
    }
    let mut positional = Vec::new();
    for arg in command.get_arguments() {
        add(arg, matches, cwd, &mut args, &mut positional)?;
    }
    if !positional.is_empty() {
        args.push("--".to_owned());
        args.extend(positional);
    }
    Ok(args)
}

fn add(
    arg: &Arg,
    matches: &ArgMatches,
    cwd: &Path,
    flags: &mut Vec<String>,
    positional: &mut Vec<String>,
) -> Result<()> {
    let id = arg.get_id().as_str();
    let source = matches.value_source(id);
    let is_given = matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable));
    if !is_given || OF_THE_FOLDER.contains(&id) {
        return Ok(());
    }
    let long = arg.get_long().unwrap_or_default();
    match arg.get_action() {
        ArgAction::SetTrue => {
            if matches.get_flag(id) {
                flags.push(format!("--{long}"));
            }
        }
        ArgAction::Count => {
            flags.extend((0..matches.get_count(id)).map(|_| format!("--{long}")));
        }
        _ => {
            for value in matches.get_raw(id).into_iter().flatten() {
                let value = forwarded_value(arg, value, cwd)?;
                match arg.is_positional() {
                    true => positional.push(value),
                    false => flags.push(format!("--{long}={value}")),
                }
            }
        }
    }
    Ok(())
}

fn forwarded_value(arg: &Arg, value: &OsStr, cwd: &Path) -> Result<String> {
    let id = arg.get_id().as_str();
    let is_path = matches!(arg.get_value_hint(), ValueHint::FilePath | ValueHint::DirPath);
    if id == "netrc" && value.is_empty() {
        let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".netrc"));
        return text(home.unwrap_or_default().as_os_str());
    }
    if is_path && value != "-" {
        let path = cwd.join(value);
        // A positional path may also be a link or a URL.
        if !arg.is_positional() || path.exists() {
            let url = || Url::from_file_path(&path).ok().map(String::from);
            return match path.to_str() {
                Some(path) => Ok(path.to_owned()),
                None => url().filter(|_| arg.is_positional()).map_or_else(|| text(value), Ok),
            };
        }
    }
    let value = text(value)?;
    match id {
        "user" => resolved(&value, ""),
        "header" => resolved(&value, " "),
        _ => Ok(value),
    }
}

/// `NAME:SECRET` with the secret itself.
fn resolved(value: &str, space: &str) -> Result<String> {
    let Some((name, secret)) = value.split_once(':') else { return Ok(value.to_owned()) };
    match parse_secret(secret.trim()) {
        Secret::Text(_) => Ok(value.to_owned()),
        secret => Ok(format!("{name}:{space}{}", secret.reveal()?)),
    }
}

fn text(value: &OsStr) -> Result<String> {
    value.to_str().map(str::to_owned).ok_or_else(|| {
        let text = format!("{value:?} is not UTF-8, and a daemon holds the data folder");
        Error::new(Kind::InvalidInput, text)
    })
}

impl Cli {
    /// Parses the arguments of a client, without the environment of this process.
    ///
    /// # Errors
    /// As [`Cli::from_args`].
    pub(in crate::cli) fn from_client(args: &[String]) -> Result<Self, clap::Error> {
        let matches = without_env(Self::command()).try_get_matches_from(args)?;
        Self::from_arg_matches(&matches)
    }
}

fn without_env(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| arg.env(None::<&'static str>)).mut_subcommands(without_env)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(args: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.torrent"), "").unwrap();
        let typed: Vec<OsString> = args.iter().map(Into::into).collect();
        let prefix = dir.path().display().to_string();
        let args = forwarded(&typed, dir.path()).unwrap();
        args.into_iter().map(|arg| arg.replace(&prefix, "DIR")).collect()
    }

    #[test]
    fn paths_are_absolute_and_flags_of_the_folder_are_left_out() {
        let sent = forward(&[
            "bae",
            "--data-dir",
            "x",
            "import",
            "a.torrent",
            "magnet:?x",
            "-",
            "--memory=1G",
            "-vv",
            "--json",
            "--no-dht",
            "--peer",
            "h:1,i:2",
            "--cacert",
            "c.pem",
        ]);
        let expected = [
            "bae",
            "import",
            "--peer=h:1",
            "--peer=i:2",
            "--no-dht=true",
            "--cacert=DIR/c.pem",
            "--json",
            "--verbose",
            "--verbose",
            "--",
            "DIR/a.torrent",
            "magnet:?x",
            "-",
        ];
        let sorted = |mut list: Vec<String>| {
            list.sort();
            list
        };
        assert_eq!(sorted(sent.clone()), sorted(expected.map(str::to_owned).into()));
        assert_eq!(sent[sent.len() - 3..], expected[expected.len() - 3..]);
        let parsed = Cli::from_client(&sent).unwrap();
        assert!(parsed.global.json && parsed.global.verbose == 2);
    }

    #[test]
    fn secrets_are_resolved_where_their_environment_is() {
        let sent = forward(&["bae", "import", "http://h/f", "-u", "me:command:echo s3cret"]);
        assert!(sent.contains(&"--user=me:s3cret".to_owned()), "{sent:?}");
        Cli::from_client(&sent).unwrap();
        let sent = forward(&["bae", "queue", "move", "1", "first"]);
        assert_eq!(sent, ["bae", "queue", "move", "--", "1", "first"]);
    }
}
