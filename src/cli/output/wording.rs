//! The command line's words for the settings and operations in hints.

use crate::{
    error::Error,
    hints::{Hint, HintPart, Operation, Setting},
};

/// The hint of an error in the words of the command line.
pub(in crate::cli) fn hint_of(error: &Error) -> Option<String> {
    error.typed_hint().map(hint_text)
}

/// A hint in the words of the command line.
pub(in crate::cli) fn hint_text(hint: &Hint) -> String {
    hint.parts().iter().map(part_text).collect()
}

fn part_text(part: &HintPart) -> String {
    match part {
        HintPart::Text(text) => text.clone(),
        HintPart::Setting { setting, value: None } => flag(*setting).to_owned(),
        HintPart::Setting { setting, value: Some(value) } => {
            format!("{} {}", flag(*setting), quoted(value))
        }
        HintPart::Operation { operation: Operation::Same, .. } => "the same command".to_owned(),
        HintPart::Operation { operation: Operation::AnswerPrompt, .. } => {
            "run bae in a terminal to get a prompt".to_owned()
        }
        HintPart::Operation { operation, target: None } => format!("`{}`", command(*operation)),
        HintPart::Operation { operation, target: Some(target) } => {
            format!("`{} {target}`", command(*operation))
        }
    }
}

fn flag(setting: Setting) -> &'static str {
    match setting {
        Setting::AcceptHostKey => "--accept-host-key",
        Setting::AuthorizationHeader => "--header 'Authorization: env:VARIABLE'",
        Setting::CaCertificates => "--cacert",
        Setting::ConfigFile => "--config",
        Setting::ContinueByLength => "-c",
        Setting::DataDir => "--data-dir or BAE_DATA_DIR",
        Setting::DriveFolder => "--drive-folder",
        Setting::DriveToken => "--drive-token",
        Setting::DryRun => "--dry-run",
        Setting::Fresh => "--fresh",
        Setting::FtpActive => "--ftp-active",
        Setting::Identity => "--identity",
        Setting::IpfsGateway => "--ipfs-gateway",
        Setting::IpfsRouter => "--ipfs-router",
        Setting::ItemName => "-o, or with out= in the input file of -i",
        Setting::Memory => "--memory",
        Setting::MirrorStream => "--mirror",
        Setting::Netrc => "--netrc",
        Setting::OutFolder => "-d",
        Setting::OutName => "-o",
        Setting::Overwrite => "--overwrite",
        // Secrets have no flag: every user of the machine can read the command line.
        Setting::Password => "BAE_PASSWORD",
        Setting::Peer => "--peer",
        Setting::Proxy => "--proxy",
        Setting::ProxyLogin => "BAE_PROXY",
        Setting::RangeEnd => "--range-end",
        Setting::ReplaceStorage => "--force",
        Setting::Seed => "--seed",
        Setting::Select => "--select",
        Setting::Storage => "--storage",
        Setting::Subtitles => "--subtitles",
        Setting::Timeout => "--timeout",
        Setting::User => "-u",
        Setting::VerboseLog => "-vv",
        Setting::Workers => "-x",
    }
}

fn command(operation: Operation) -> &'static str {
    match operation {
        Operation::AddStorage => "bae storage add",
        Operation::AttachStorage => "bae attach",
        Operation::CheckStorage => "bae storage check",
        Operation::FindLeftovers => "bae gc",
        Operation::Get => "bae get",
        Operation::Import => "bae import",
        Operation::ImportAndStream => "bae import --stream",
        Operation::ImportInfo => "bae info",
        Operation::ListImports => "bae ls",
        Operation::Publish => "bae publish",
        Operation::RemoveImport => "bae rm",
        Operation::RemoveLeftovers => "bae gc --yes",
        Operation::Repair => "bae verify --repair",
        Operation::StorageLogin => "bae storage login",
        // Their words are no commands: see `part_text`.
        Operation::AnswerPrompt | Operation::Same => "bae",
    }
}

/// The value as one word of the shell.
fn quoted(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:+=,@%".contains(c);
    if !value.is_empty() && value.chars().all(is_plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    use super::*;
    use crate::{cli::Cli, hints::hint};

    #[test]
    fn settings_are_flags_and_operations_are_commands() {
        let raise = hint!["raise it with ", Setting::Memory.with("256MiB")];
        assert_eq!(hint_text(&raise), "raise it with --memory 256MiB");
        let all = hint!["use ", Setting::Select.with("*"), " for all"];
        assert_eq!(hint_text(&all), "use --select '*' for all");
        let accept = hint!["pass ", Setting::AcceptHostKey.with("SHA256:a+b/c")];
        assert_eq!(hint_text(&accept), "pass --accept-host-key SHA256:a+b/c");
        let info = hint![Operation::ImportInfo.on("9c4e"), " lists them"];
        assert_eq!(hint_text(&info), "`bae info 9c4e` lists them");
        let again = hint!["run ", Operation::Same, " again to resume"];
        assert_eq!(hint_text(&again), "run the same command again to resume");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    fn has_flag(command: &Command, word: &str) -> bool {
        let is_it = |arg: &clap::Arg| match word.strip_prefix("--") {
            Some(long) => arg.get_long() == Some(long),
            None => {
                let mut letters = word.trim_start_matches('-').chars();
                arg.get_short().is_some() && arg.get_short() == letters.next()
            }
        };
        let is_variable = |arg: &clap::Arg| arg.get_env().is_some_and(|name| name == word);
        command.get_arguments().any(|arg| is_it(arg) || is_variable(arg))
            || command.get_subcommands().any(|command| has_flag(command, word))
    }

    #[test]
    fn each_setting_is_a_flag_or_a_variable_that_exists() {
        let cli = Cli::command();
        for setting in Setting::ALL {
            let words = flag(*setting);
            let words = words.split([' ', ',']).filter(|word| {
                word.starts_with('-') || word.starts_with("BAE_") && *word != "BAE_PASSWORD"
            });
            for word in words {
                assert!(has_flag(&cli, word), "{setting:?}: {word}");
            }
        }
    }

    #[test]
    fn each_operation_is_a_command_that_exists() {
        let cli = Cli::command();
        for operation in Operation::ALL {
            let mut found = &cli;
            for word in command(*operation).split(' ').skip(1) {
                match word.starts_with('-') {
                    true => assert!(has_flag(found, word), "{operation:?}: {word}"),
                    false => found = found.find_subcommand(word).unwrap(),
                }
            }
        }
    }
}
