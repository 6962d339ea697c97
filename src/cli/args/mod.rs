//! Command line arguments. Every flag has an environment variable: `--some-flag` is `BAE_SOME_FLAG`.

pub(super) mod daemon;
pub(super) mod fetch;
pub(super) mod forwarded;
pub(super) mod get;
pub(super) mod goals;
pub(super) mod input_file;
pub(super) mod limit;
pub(super) mod network;
pub(super) mod queue;
pub(super) mod storage;
pub(super) mod streams;
pub(super) mod token;

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, ValueHint,
    builder::{BoolishValueParser, OsStringValueParser, PossibleValuesParser, TypedValueParser},
    error::ErrorKind,
    parser::ValueSource,
};
use clap_complete::Shell;
use url::Url;

use self::{
    daemon::DaemonArgs, fetch::FetchArgs, get::GetArgs, goals::GoalArgs, limit::LimitArgs,
    network::NetworkArgs, queue::QueueCommand, storage::StorageCommand, token::TokenCommand,
};
use super::output::{OutputOptions, wording};
use crate::{
    catalog::LayoutKind,
    cli::telemetry::LogFormat,
    config::{CloudBudget, Proxy, Secret, SeedGoal, check_ratio, parse_rate},
    error::Result,
    protocols::CidProfile,
    units::{ByteSize, parse_duration, parse_range},
};

/// Download torrents and URLs straight into storage you own: no payload on the local disk, a fixed memory budget, no
/// data lost on a crash.
#[derive(Debug, Parser)]
#[command(name = "bae", bin_name = "bae", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub(super) global: GlobalArgs,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    /// As they were typed.
    #[arg(skip)]
    pub(super) typed: Vec<OsString>,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 5 temporary, 6 network, \
7 interrupted, 8 no space, 24 authentication, 32 integrity.";

/// Flags of every command, accepted before or after its name.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct GlobalArgs {
    /// Folder of the catalog and the default storage [default: $XDG_DATA_HOME/bae]
    #[arg(long, env = "BAE_DATA_DIR", global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) data_dir: Option<PathBuf>,
    /// Config file [default: $XDG_CONFIG_HOME/bae/config.toml]
    #[arg(long, env = "BAE_CONFIG", global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) config: Option<PathBuf>,
    /// Maximum payload bytes held in memory [default: 128MiB]
    #[arg(long, env = "BAE_MEMORY", global = true, value_name = "SIZE", value_parser = size)]
    pub(super) memory: Option<ByteSize>,
    /// On-disk read cache for seeding; safe to delete at any time [default: none]
    #[arg(long, env = "BAE_CACHE_DIR", global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) cache_dir: Option<PathBuf>,
    /// Maximum size of the on-disk read cache [default: 10GiB]
    #[arg(long, env = "BAE_CACHE_SIZE", global = true, value_name = "SIZE", value_parser = size)]
    pub(super) cache_size: Option<ByteSize>,
    /// Maximum download rate in bytes per second, such as 5MiB; 0 for no limit
    #[arg(long, env = "BAE_LIMIT_RATE", global = true, value_name = "RATE", value_parser = rate)]
    pub(super) limit_rate: Option<u64>,
    /// Give up after this time without data, such as 30s or 5m; 0 for never
    #[arg(long, env = "BAE_TIMEOUT", global = true, value_name = "TIME", value_parser = time)]
    pub(super) timeout: Option<Duration>,
    /// Access token for Google Drive; prefer the environment variable, which other users cannot read
    #[arg(long, env = "BAE_DRIVE_TOKEN", global = true, value_name = "TOKEN", hide_env_values = true, value_parser = secret)]
    pub(super) drive_token: Option<Secret>,
    /// Folder id for --storage drive when no profile has this type
    #[arg(long, env = "BAE_DRIVE_FOLDER", global = true, value_name = "ID")]
    pub(super) drive_folder: Option<String>,
    /// Print one JSON object per line on standard output
    #[arg(long, env = "BAE_JSON", global = true, value_parser = BoolishValueParser::new())]
    pub(super) json: bool,
    /// Print only errors
    #[arg(short, long, env = "BAE_QUIET", global = true, value_parser = BoolishValueParser::new())]
    pub(super) quiet: bool,
    /// Print more: -v for notices and log lines, -vv for debug lines too; RUST_LOG takes precedence
    #[arg(short, long, env = "BAE_VERBOSE", global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Format of log lines on standard error
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

impl GlobalArgs {
    pub(super) fn output_options(&self) -> OutputOptions {
        OutputOptions { json: self.json, quiet: self.quiet, verbose: self.verbose > 0 }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Import torrents and URLs into storage
    Import(ImportArgs),
    /// Download URLs to plain files
    Get(GetArgs),
    /// Seed imports to the swarm until stopped
    Seed(SeedArgs),
    /// Set the seed goals of imports, for the current and all later runs
    Limit(LimitArgs),
    /// List imports
    Ls,
    /// Show all details of one import
    Info(InfoArgs),
    /// Write a file to standard output
    Cat(CatArgs),
    /// Serve the files of an import to players by HTTP until stopped
    Stream(StreamArgs),
    /// Export an import as plain files
    Export(ExportArgs),
    /// Store each file of an import as one object under its own name
    Publish(PublishArgs),
    /// Print links to published files
    Url(UrlArgs),
    /// Hash stored data again and compare it with the torrent
    Verify(VerifyArgs),
    /// Add the imports of a storage to the catalog, from their manifests
    Attach(AttachArgs),
    /// Make an import of files that are already in a storage; they are never copied, changed or removed
    Adopt(AdoptArgs),
    /// Remove imports and their objects
    Rm(RmArgs),
    /// Find leftovers in storage (objects without an import, unfinished uploads), and remove them on request
    Gc(GcArgs),
    /// Manage the storages that imports can use
    #[command(subcommand)]
    Storage(StorageCommand),
    /// Manage the queue of downloads, which the daemon works through
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Hold the data folder, and serve its queue of downloads to clients until stopped
    Daemon(DaemonArgs),
    /// Show or replace the tokens of the daemon's API
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print shell completions
    Completions { shell: Shell },
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// .torrent file (- for standard input) or its URL, magnet link, info-hash, or URL of a file or folder
    #[arg(required = true, value_name = "TORRENT|MAGNET|URL", value_hint = ValueHint::FilePath, value_parser = source())]
    pub(super) sources: Vec<String>,
    /// Target storage: a name from `bae storage list`, or a URL such as s3://bucket or file:///dir
    #[arg(long, env = "BAE_STORAGE", value_name = "NAME|URL", default_value = "file")]
    pub(super) storage: String,
    /// Layout of the stored objects
    #[arg(long, env = "BAE_LAYOUT", value_enum, default_value_t = Layout::Chunks)]
    pub(super) layout: Layout,
    /// Import only these files: numbers and ranges (1,3-5), file and folder paths as printed by `bae info`, or a glob
    /// (*.flac)
    #[arg(long, env = "BAE_SELECT", value_name = "1,3-5|GLOB")]
    pub(super) select: Option<String>,
    /// Continue seeding after the import
    #[arg(long, env = "BAE_SEED", value_parser = BoolishValueParser::new())]
    pub(super) seed: bool,
    /// Serve the files to players by HTTP during and after the import, until stopped
    #[arg(long, env = "BAE_STREAM", value_name = "ADDR:PORT", num_args = 0..=1, require_equals = true,
          default_missing_value = STREAM_LISTEN)]
    pub(super) stream: Option<SocketAddr>,
    /// Only estimate objects, requests, bytes, memory and cost; nothing is downloaded (except a magnet link's metadata)
    /// and nothing is written
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
    /// Chunks of the torrent, a few MiB each
    Chunks,
    /// One object per file, under the torrent's file names
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
    /// Id, unique name, or info-hash prefix
    pub(super) import: String,
    /// Publish only these files: paths inside the import, or numbers as shown by `bae info`
    #[arg(value_name = "PATH")]
    pub(super) paths: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct UrlArgs {
    /// Id, unique name, or info-hash prefix
    pub(super) import: String,
    /// Path of the file inside the import; all published files if omitted
    pub(super) path: Option<String>,
    /// Validity of the links, where the storage makes them expire
    #[arg(long, env = "BAE_EXPIRES", value_name = "TIME", default_value = "1h", value_parser = time)]
    pub(super) expires: Duration,
}

#[derive(Debug, Args)]
pub(super) struct SeedArgs {
    /// Ids, unique names, or info-hash prefixes; all imports if omitted
    #[arg(value_name = "IMPORT")]
    pub(super) imports: Vec<String>,
    #[command(flatten)]
    pub(super) goals: GoalArgs,
    #[command(flatten)]
    pub(super) network: NetworkArgs,
}

#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    /// Id, unique name, or info-hash prefix
    pub(super) import: String,
    /// With --cid: only this file, by its path inside the import or its number
    #[arg(requires = "cid")]
    pub(super) path: Option<String>,
    /// Print the IPFS CID of each file and of their folder, computed from the stored bytes
    #[arg(long, env = "BAE_CID", value_parser = BoolishValueParser::new())]
    pub(super) cid: bool,
    /// How the files are split for their CIDs: unixfs-v1-2025, unixfs-v0-2015 (the default of Kubo), or kubo-cid-v1
    #[arg(
        long,
        env = "BAE_CID_PROFILE",
        value_name = "NAME",
        default_value = "unixfs-v1-2025",
        value_parser = PossibleValuesParser::new(CidProfile::ALL.map(CidProfile::name))
            .map(|name| CidProfile::from_name(&name).expect("a name of the list"))
    )]
    pub(super) cid_profile: CidProfile,
}

#[derive(Debug, Args)]
pub(super) struct CatArgs {
    /// Id, unique name, or info-hash prefix
    pub(super) import: String,
    /// Path of the file inside the import; optional if it has only one
    pub(super) path: Option<String>,
    /// Byte range A to B, both included; also A- and -N
    #[arg(long, env = "BAE_RANGE", value_name = "A-B", allow_hyphen_values = true, value_parser = range)]
    pub(super) range: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct StreamArgs {
    /// Id, unique name, or info-hash prefix
    pub(super) import: String,
    /// Print only the URL of this file, given by its path inside the import
    pub(super) path: Option<String>,
    /// Listen address for players; port 0 lets the system choose
    // Not BAE_LISTEN, which is the listen address for peers and often means every interface.
    #[arg(long, env = "BAE_STREAM_LISTEN", value_name = "ADDR:PORT", default_value = STREAM_LISTEN)]
    pub(super) listen: SocketAddr,
}

/// Default listen address for players: this machine only, a free port.
const STREAM_LISTEN: &str = "127.0.0.1:0";

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Id, unique name, or info-hash prefix
    pub(super) import: String,
    /// Target folder; the import's name is added below it
    #[arg(value_hint = ValueHint::DirPath)]
    pub(super) dir: PathBuf,
    /// Replace existing files of the same name
    #[arg(long, env = "BAE_OVERWRITE", value_parser = BoolishValueParser::new())]
    pub(super) overwrite: bool,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Ids, unique names, or info-hash prefixes; all imports if omitted
    #[arg(value_name = "IMPORT")]
    pub(super) imports: Vec<String>,
    /// Only check that the objects exist with the right length, without reading them
    #[arg(long, env = "BAE_QUICK", value_parser = BoolishValueParser::new())]
    pub(super) quick: bool,
    /// Fetch bad pieces again from the swarm
    #[arg(long, env = "BAE_REPAIR", value_parser = BoolishValueParser::new())]
    pub(super) repair: bool,
    #[command(flatten)]
    pub(super) network: NetworkArgs,
}

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// Storage: a profile name, or a URL such as s3://bucket/prefix
    #[arg(value_name = "NAME|URL")]
    pub(super) storage: String,
    /// Only show what would be attached
    #[arg(long, env = "BAE_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct AdoptArgs {
    /// .torrent file or its http(s) URL; a magnet link if its torrent was imported before
    #[arg(value_name = "TORRENT", value_hint = ValueHint::FilePath, value_parser = source())]
    pub(super) torrent: String,
    /// Folder with the torrent's files: a storage name, or a URL such as s3://bucket/folder or file:///dir
    #[arg(long, env = "BAE_FROM", value_name = "NAME|URL")]
    pub(super) from: String,
    /// Only match by name and length, without reading or recording anything
    #[arg(long, env = "BAE_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// Ids, unique names, or info-hash prefixes
    #[arg(required = true, value_name = "IMPORT")]
    pub(super) imports: Vec<String>,
    /// Remove the import from the catalog but keep its objects in storage
    #[arg(long, env = "BAE_KEEP_OBJECTS", value_parser = BoolishValueParser::new())]
    pub(super) keep_objects: bool,
    /// Skip the confirmation prompt
    #[arg(short, long, env = "BAE_YES", value_parser = BoolishValueParser::new())]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Remove without a prompt, including leftovers of attached catalogs
    #[arg(short, long, env = "BAE_YES", value_parser = BoolishValueParser::new())]
    pub(super) yes: bool,
}

impl Cli {
    /// Parses the command line.
    ///
    /// # Errors
    /// A clap error, which has its own text and exit code (2; 0 for `--help` and `--version`). Also for a password on
    /// the command line.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let typed: Vec<OsString> = args.into_iter().collect();
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(&typed)?;
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
        if let Some(text) =
            matches.subcommand().and_then(|(_, sub)| fetch::secret_on_command_line(sub))
        {
            return Err(command.error(ErrorKind::ValueValidation, text));
        }
        Ok(Self { typed, ..Self::from_arg_matches(&matches)? })
    }
}

/// The text that `bae` prints without a command.
pub(super) fn help() -> String {
    Cli::command().render_help().to_string()
}

pub(super) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "bae", &mut script);
    script
}

/// Parses a source as text. A path that is not UTF-8 becomes a `file:` URL, which can represent it.
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

/// Parses a seed ratio; 0 is no goal.
pub(super) fn ratio(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|_| format!("{text:?} is not a number"))?;
    if number == 0.0 { Ok(SeedGoal::NO_RATIO) } else { with_hint(check_ratio(number)) }
}

/// Never fails, since clap would print the secret in the error.
#[allow(clippy::unnecessary_wraps, reason = "the form of a value parser")]
fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret::Text(text.to_owned()))
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    with_hint(parse_duration(text))
}

/// Checks the syntax only; the range is checked against the file when it is opened.
fn range(text: &str) -> Result<String, String> {
    with_hint(parse_range(text, u64::MAX)).map(|_| text.to_owned())
}

/// Appends the hint to the text, since clap prints only one text.
fn with_hint<T>(parsed: Result<T>) -> Result<T, String> {
    parsed.map_err(|e| match wording::hint_of(&e) {
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
