//! The arguments of `get`.

use std::path::PathBuf;

use clap::{Args, ValueHint, builder::BoolishValueParser};

use super::{fetch::FetchArgs, rate, size};
use crate::units::ByteSize;

#[derive(Debug, Args)]
pub(in crate::cli) struct GetArgs {
    /// URLs of files, or of folders where the protocol has them
    #[arg(value_name = "URL", required_unless_present = "input_file", value_hint = ValueHint::Url)]
    pub(in crate::cli) urls: Vec<String>,
    /// File name, or path below --dir; - is standard output [default: the server's name of the file]
    #[arg(short, long, env = "BAE_OUT", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) out: Option<PathBuf>,
    /// Target folder [default: the current folder]
    #[arg(short, long, env = "BAE_DIR", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(in crate::cli) dir: Option<PathBuf>,
    /// List of more URLs: one file per line, its mirrors separated by tabs; - is standard input
    #[arg(short, long, env = "BAE_INPUT_FILE", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) input_file: Option<PathBuf>,
    /// Maximum files downloaded at once
    #[arg(short, long, env = "BAE_JOBS", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(in crate::cli) jobs: u32,
    /// Download only from this byte on, counted from 0
    #[arg(long, env = "BAE_RANGE_START", value_name = "BYTES", value_parser = size)]
    pub(in crate::cli) range_start: Option<ByteSize>,
    /// Download only up to this byte, which is included
    #[arg(long, env = "BAE_RANGE_END", value_name = "BYTES", value_parser = size)]
    pub(in crate::cli) range_end: Option<ByteSize>,
    /// Only print the files that would be downloaded, and all renditions of a stream
    #[arg(long, env = "BAE_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub(in crate::cli) dry_run: bool,
    /// Replace an existing file of the same name
    #[arg(long, env = "BAE_OVERWRITE", value_parser = BoolishValueParser::new())]
    pub(in crate::cli) overwrite: bool,
    /// Maximum bytes per second for each file; 0 for no limit
    #[arg(long, env = "BAE_LIMIT_EACH", value_name = "RATE", value_parser = rate)]
    pub(in crate::cli) limit_each: Option<u64>,
    /// Proxy: socks5://host:port or http://host:port; with a password only in BAE_PROXY or the config file
    // A string, not a `Proxy`: clap prints a value that does not parse, and this one may contain a password.
    #[arg(long, env = "BAE_PROXY", value_name = "URL", hide_env_values = true)]
    pub(in crate::cli) proxy: Option<String>,
    /// User agent sent to servers
    #[arg(long, env = "BAE_USER_AGENT", value_name = "TEXT")]
    pub(in crate::cli) user_agent: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) fetch: FetchArgs,
}
