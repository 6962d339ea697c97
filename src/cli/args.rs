//! What was typed. Every flag has an environment variable: `--some-flag` is `BAE_SOME_FLAG`.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, ValueHint,
    builder::{BoolishValueParser, OsStringValueParser, PossibleValuesParser, TypedValueParser},
    error::ErrorKind,
    parser::ValueSource,
};
use clap_complete::Shell;
use url::Url;

use super::{
    fetch::{self, FetchArgs},
    get::GetArgs,
    goals::GoalArgs,
    limit::LimitArgs,
    network::NetworkArgs,
    storage::StorageCommand,
};
use crate::{
    catalog::LayoutKind,
    config::{CloudBudget, Proxy, Secret, SeedGoal, check_ratio, parse_rate},
    error::Result,
    telemetry::LogFormat,
    units::{ByteSize, parse_duration, parse_range},
};

/// Torrents and URLs straight into storage you own: no payload on the local disk, memory under a fixed budget, nothing lost
/// on a crash.
#[derive(Debug, Parser)]
#[command(name = "bae", bin_name = "bae", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub(super) global: GlobalArgs,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 5 temporary, 6 network, \
7 interrupted, 8 no space, 24 authentication, 32 integrity.";

/// Flags of every command, before or after its name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct GlobalArgs {
    /// Folder of the catalog and of the default storage [default: $XDG_DATA_HOME/bae]
    #[arg(long, env = "BAE_DATA_DIR", global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) data_dir: Option<PathBuf>,
    /// Config file [default: $XDG_CONFIG_HOME/bae/config.toml]
    #[arg(long, env = "BAE_CONFIG", global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) config: Option<PathBuf>,
    /// Most payload bytes held in memory at once [default: 128MiB]
    #[arg(long, env = "BAE_MEMORY", global = true, value_name = "SIZE", value_parser = size)]
    pub(super) memory: Option<ByteSize>,
    /// Folder to keep windows in that were fetched for peers; it may be deleted at any time [default: none]
    #[arg(long, env = "BAE_CACHE_DIR", global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) cache_dir: Option<PathBuf>,
    /// Most bytes in the cache folder [default: 10GiB]
    #[arg(long, env = "BAE_CACHE_SIZE", global = true, value_name = "SIZE", value_parser = size)]
    pub(super) cache_size: Option<ByteSize>,
    /// Most bytes a second to fetch, such as 5MiB; 0 for no limit
    #[arg(long, env = "BAE_LIMIT_RATE", global = true, value_name = "RATE", value_parser = rate)]
    pub(super) limit_rate: Option<u64>,
    /// Give up when nothing arrived for so long, such as 30s or 5m; 0 for never
    #[arg(long, env = "BAE_TIMEOUT", global = true, value_name = "TIME", value_parser = time)]
    pub(super) timeout: Option<Duration>,
    /// Ready access token for Google Drive; better given as the variable, which others cannot read
    #[arg(long, env = "BAE_DRIVE_TOKEN", global = true, value_name = "TOKEN", hide_env_values = true, value_parser = secret)]
    pub(super) drive_token: Option<Secret>,
    /// Folder id that --storage drive means when no profile has this type
    #[arg(long, env = "BAE_DRIVE_FOLDER", global = true, value_name = "ID")]
    pub(super) drive_folder: Option<String>,
    /// One JSON object a line on standard output
    #[arg(long, env = "BAE_JSON", global = true, value_parser = BoolishValueParser::new())]
    pub(super) json: bool,
    /// Only errors
    #[arg(short, long, env = "BAE_QUIET", global = true, value_parser = BoolishValueParser::new())]
    pub(super) quiet: bool,
    /// More: -v what happens, -vv why; RUST_LOG wins
    #[arg(short, long, env = "BAE_VERBOSE", global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Form of log lines on standard error
    #[arg(
        long,
        env = "BAE_LOG_FORMAT",
        global = true,
        value_name = "FORMAT",
        default_value = "text",
        value_parser = PossibleValuesParser::new(LogFormat::NAMES).try_map(|name| name.parse::<LogFormat>())
    )]
    pub(super) log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Bring torrents and URLs into storage
    Import(ImportArgs),
    /// Fetch URLs to plain files
    Get(GetArgs),
    /// Serve what was imported to the swarm, until stopped
    Seed(SeedArgs),
    /// Say when imports have been seeded enough, in this run and all later ones
    Limit(LimitArgs),
    /// List imports
    Ls,
    /// Show everything about one import
    Info {
        /// Id, unique name, or the beginning of an info-hash
        import: String,
    },
    /// Write a file's bytes to standard output
    Cat(CatArgs),
    /// Serve the files of an import to players, by HTTP, until stopped
    Stream(StreamArgs),
    /// Write an import as plain files
    Export(ExportArgs),
    /// Make each file of an import one object under its own name
    Publish(PublishArgs),
    /// Print links to files that are objects of their own
    Url(UrlArgs),
    /// Hash what is stored again and compare it with the torrent
    Verify(VerifyArgs),
    /// Take the imports of a storage into the catalog, by the manifests they left there
    Attach(AttachArgs),
    /// Seed and play what is in a storage already: nothing is copied, and nothing of it ever removed
    Adopt(AdoptArgs),
    /// Remove imports and their objects
    Rm(RmArgs),
    /// Count the objects that no import names and uploads left unfinished, and remove them when asked
    Gc(GcArgs),
    /// The places that imports can go to
    #[command(subcommand)]
    Storage(StorageCommand),
    /// Print the completions of a shell
    Completions { shell: Shell },
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// A .torrent file (- for standard input) or its URL, a magnet link or info-hash, or the URL of a file or folder
    #[arg(required = true, value_name = "TORRENT|MAGNET|URL", value_hint = ValueHint::FilePath, value_parser = source())]
    pub(super) sources: Vec<String>,
    /// Where the bytes go: a name from `bae storage list`, or a URL such as s3://bucket or file:///dir
    #[arg(long, env = "BAE_STORAGE", value_name = "NAME|URL", default_value = "file")]
    pub(super) storage: String,
    /// How they are kept there
    #[arg(long, env = "BAE_LAYOUT", value_enum, default_value_t = Layout::Chunks)]
    pub(super) layout: Layout,
    /// Only these files: numbers and ranges (1,3-5), paths of files and folders as `bae info` prints them, or a glob (*.flac)
    #[arg(long, env = "BAE_SELECT", value_name = "1,3-5|GLOB")]
    pub(super) select: Option<String>,
    /// Go on seeding when all is imported
    #[arg(long, env = "BAE_SEED", value_parser = BoolishValueParser::new())]
    pub(super) seed: bool,
    /// Also serve the files to players, by HTTP, while they come and afterwards, until stopped
    #[arg(long, env = "BAE_STREAM", value_name = "ADDR:PORT", num_args = 0..=1, require_equals = true,
          default_missing_value = STREAM_LISTEN)]
    pub(super) stream: Option<SocketAddr>,
    /// Only count what it would take: objects, requests, bytes, memory, money. Nothing is fetched (of a magnet link, only
    /// its metadata) and nothing is written
    #[arg(long, env = "BAE_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) goals: GoalArgs,
    #[command(flatten)]
    pub(super) network: NetworkArgs,
    #[command(flatten)]
    pub(super) fetch: FetchArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Layout {
    /// Runs of the torrent, a few MiB each
    Chunks,
    /// One object a file, under the torrent's own names
    Files,
}

impl From<Layout> for LayoutKind {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Chunks => Self::Chunks,
            Layout::Files => Self::Files,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// Id, unique name, or the beginning of an info-hash
    pub(super) import: String,
    /// Only these files: paths inside the import, or numbers as `bae info` shows them
    #[arg(value_name = "PATH")]
    pub(super) paths: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct UrlArgs {
    /// Id, unique name, or the beginning of an info-hash
    pub(super) import: String,
    /// Path of the file inside the import; all that are published when left out
    pub(super) path: Option<String>,
    /// How long the links are good, where the storage makes them expire
    #[arg(long, env = "BAE_EXPIRES", value_name = "TIME", default_value = "1h", value_parser = time)]
    pub(super) expires: Duration,
}

#[derive(Debug, Args)]
pub(super) struct SeedArgs {
    /// Ids, unique names, or beginnings of info-hashes; none for all
    #[arg(value_name = "IMPORT")]
    pub(super) imports: Vec<String>,
    #[command(flatten)]
    pub(super) goals: GoalArgs,
    #[command(flatten)]
    pub(super) network: NetworkArgs,
}

#[derive(Debug, Args)]
pub(super) struct CatArgs {
    /// Id, unique name, or the beginning of an info-hash
    pub(super) import: String,
    /// Path of the file inside the import; not needed when it has one
    pub(super) path: Option<String>,
    /// Bytes A to B, both included; also A- and -N
    #[arg(long, env = "BAE_RANGE", value_name = "A-B", allow_hyphen_values = true, value_parser = range)]
    pub(super) range: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct StreamArgs {
    /// Id, unique name, or the beginning of an info-hash
    pub(super) import: String,
    /// Print only the address of this file, by its path inside the import
    pub(super) path: Option<String>,
    /// Where players reach us; port 0 lets the system choose
    // Not BAE_LISTEN, which says where peers do: on every interface, often.
    #[arg(long, env = "BAE_STREAM_LISTEN", value_name = "ADDR:PORT", default_value = STREAM_LISTEN)]
    pub(super) listen: SocketAddr,
}

/// Where players reach us unless they are told otherwise: on this machine alone.
const STREAM_LISTEN: &str = "127.0.0.1:0";

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Id, unique name, or the beginning of an info-hash
    pub(super) import: String,
    /// Folder to write to; the import's name is added below it
    #[arg(value_hint = ValueHint::DirPath)]
    pub(super) dir: PathBuf,
    /// Put files in the place of others that are there under their names
    #[arg(long, env = "BAE_OVERWRITE", value_parser = BoolishValueParser::new())]
    pub(super) overwrite: bool,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Ids, unique names, or beginnings of info-hashes; none for all
    #[arg(value_name = "IMPORT")]
    pub(super) imports: Vec<String>,
    /// Only look whether the objects are there with the right length; nothing is read
    #[arg(long, env = "BAE_QUICK", value_parser = BoolishValueParser::new())]
    pub(super) quick: bool,
    /// Fetch what is bad again from the swarm
    #[arg(long, env = "BAE_REPAIR", value_parser = BoolishValueParser::new())]
    pub(super) repair: bool,
    #[command(flatten)]
    pub(super) network: NetworkArgs,
}

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// The storage: a profile's name, or a URL such as s3://bucket/prefix
    #[arg(value_name = "NAME|URL")]
    pub(super) place: String,
    /// Only show what would come
    #[arg(long, env = "BAE_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct AdoptArgs {
    /// A .torrent file or its http(s) URL; a magnet link when its torrent was imported before
    #[arg(value_name = "TORRENT", value_hint = ValueHint::FilePath, value_parser = source())]
    pub(super) torrent: String,
    /// The folder that has the torrent's files: a storage's name, or a URL such as s3://bucket/folder or file:///dir
    #[arg(long, env = "BAE_FROM", value_name = "NAME|URL")]
    pub(super) from: String,
    /// Only match by name and length; nothing is read and nothing recorded
    #[arg(long, env = "BAE_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// Ids, unique names, or beginnings of info-hashes
    #[arg(required = true, value_name = "IMPORT")]
    pub(super) imports: Vec<String>,
    /// Forget the import, leave its objects in storage
    #[arg(long, env = "BAE_KEEP_OBJECTS", value_parser = BoolishValueParser::new())]
    pub(super) keep_objects: bool,
    /// Do not ask
    #[arg(short, long, env = "BAE_YES", value_parser = BoolishValueParser::new())]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Remove them without asking, also what is left of catalogs that were attached
    #[arg(short, long, env = "BAE_YES", value_parser = BoolishValueParser::new())]
    pub(super) yes: bool,
}

impl Cli {
    /// Takes the command line apart.
    ///
    /// # Errors
    /// clap's own, which knows its text and exit code (2; 0 for `--help` and `--version`); also for a password on the
    /// command line.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(args)?;
        let typed_proxy = matches.subcommand().and_then(|(_, sub)| {
            let known = sub.try_contains_id("proxy").unwrap_or(false);
            let typed = known && sub.value_source("proxy") == Some(ValueSource::CommandLine);
            if typed { sub.get_one::<String>("proxy") } else { None }
        });
        if typed_proxy
            .is_some_and(|text| text.parse().is_ok_and(|proxy: Proxy| proxy.has_password()))
        {
            let text = "--proxy with a password: every user of this machine can read the command line; \
                        set BAE_PROXY or [network] proxy in the config file instead";
            return Err(command.error(ErrorKind::ValueValidation, text));
        }
        if let Some(text) = matches.subcommand().and_then(|(_, sub)| fetch::typed_secret(sub)) {
            return Err(command.error(ErrorKind::ValueValidation, text));
        }
        Self::from_arg_matches(&matches)
    }
}

/// What `bae` alone prints.
pub(super) fn help() -> String {
    Cli::command().render_help().to_string()
}

pub(super) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "bae", &mut script);
    script
}

/// A source as text. The path of a file whose name is not UTF-8 becomes a `file:` URL, which can hold it.
fn source() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(|given| {
        given.into_string().unwrap_or_else(|given| {
            let url = std::path::absolute(&given).ok().and_then(|p| Url::from_file_path(p).ok());
            url.map_or_else(|| given.to_string_lossy().into_owned(), Into::into)
        })
    })
}

pub(super) fn size(text: &str) -> Result<ByteSize, String> {
    with_hint(text.parse())
}

pub(super) fn budget(text: &str) -> Result<CloudBudget, String> {
    with_hint(text.parse())
}

pub(super) fn rate(text: &str) -> Result<u64, String> {
    with_hint(parse_rate(text))
}

/// 0 is no goal.
pub(super) fn ratio(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|_| format!("{text:?} is not a number"))?;
    if number == 0.0 { Ok(SeedGoal::NO_RATIO) } else { with_hint(check_ratio(number)) }
}

/// Never an error, which clap would show with the text.
#[allow(clippy::unnecessary_wraps, reason = "the form of a value parser")]
fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret::Text(text.to_owned()))
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    with_hint(parse_duration(text))
}

/// Only that it is a range; whether the file has it is seen when there is a file.
fn range(text: &str) -> Result<String, String> {
    with_hint(parse_range(text, u64::MAX)).map(|_| text.to_owned())
}

/// clap prints one text, so the hint goes into it.
fn with_hint<T>(parsed: Result<T>) -> Result<T, String> {
    parsed.map_err(|e| match e.hint_text() {
        Some(hint) => format!("{e}; {hint}"),
        None => e.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Command as ClapCommand;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::from_args(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_argument_table_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_the_variable_of_its_name() {
        fn check(command: &ClapCommand) {
            for arg in command.get_arguments() {
                let Some(long) = arg.get_long() else { continue };
                if ["help", "version"].contains(&long) {
                    continue;
                }
                let mut name = long.replace('-', "_").to_ascii_uppercase();
                if (command.get_name(), long) == ("stream", "listen") {
                    name.insert_str(0, "STREAM_");
                }
                if command.get_name() == "limit" && long.starts_with("seed-") {
                    name.insert_str(0, "LIMIT_");
                }
                let expected = format!("BAE_{name}");
                let env = arg.get_env().and_then(|name| name.to_str());
                assert_eq!(env, Some(expected.as_str()), "--{long}");
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn global_flags_work_before_and_after_the_command() {
        for line in [
            "bae --memory 64M --json ls",
            "bae ls --memory 64M --json",
            "bae --memory 64M ls --json",
        ] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.global.memory, Some(ByteSize(64 << 20)), "{line}");
            assert!(cli.global.json, "{line}");
        }
        assert_eq!(parse("bae ls -vv").unwrap().global.verbose, 2);
    }

    #[test]
    fn import_takes_several_sources_and_its_flags() {
        let line = "bae import a.torrent magnet:?xt=x --storage s --select 1,3-5 --peer 127.0.0.2:1 \
                    --peer 127.0.0.3:2 --listen [::]:0 --no-dht --upnp --encryption required --seed";
        let Some(Command::Import(args)) = parse(line).unwrap().command else {
            panic!("not import")
        };
        assert_eq!(args.sources, ["a.torrent", "magnet:?xt=x"]);
        assert_eq!((args.storage.as_str(), args.select.as_deref()), ("s", Some("1,3-5")));
        assert!(args.seed);
        assert_eq!(args.layout, Layout::Chunks);
    }

    #[test]
    fn ranges_may_begin_with_a_dash() {
        let Some(Command::Cat(args)) = parse("bae cat x --range -512").unwrap().command else {
            panic!("not cat")
        };
        assert_eq!(args.range.as_deref(), Some("-512"));
    }

    #[test]
    fn mistakes_exit_with_2_and_help_with_0() {
        for line in [
            "bae import",
            "bae frobnicate",
            "bae ls --memory much",
            "bae rm",
            "bae cat x --range from-to",
            "bae import x --no-dht=perhaps",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert_eq!(parse("bae --help").unwrap_err().exit_code(), 0);
        assert!(parse("bae").unwrap().command.is_none());
    }

    #[test]
    fn a_password_on_the_command_line_is_refused_and_not_repeated() {
        let e = parse("bae import x --proxy socks5://u:hunter2@h:1").unwrap_err();
        assert_eq!(e.exit_code(), 2);
        assert!(!e.to_string().contains("hunter2"));
        assert!(parse("bae import x --proxy socks5://h:1").is_ok());
        for line in [
            "bae get http://x/ -u me:hunter2",
            "bae get http://x/ --header Authorization:hunter2",
            "bae get http://x/ http://me:hunter2@x/",
            "bae import ftp://me:hunter2@x/",
        ] {
            let e = parse(line).unwrap_err();
            assert_eq!(e.exit_code(), 2, "{line}");
            assert!(!e.to_string().contains("hunter2"), "{line}");
        }
        for line in [
            "bae get http://x/ -u me:env:PASSWORD --header Authorization:env:KEY --header X:y",
            "bae get http://me@x/ -u me",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }
}
