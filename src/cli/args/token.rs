//! Arguments of `token`.

use clap::{Args, Subcommand, builder::BoolishValueParser};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TokenCommand {
    /// Print the token of the daemon
    Show(TokenShowArgs),
    /// Replace both tokens; sessions and open event streams end
    New,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TokenShowArgs {
    /// Print the token that only reads
    #[arg(long, env = "BAE_READ_ONLY", value_parser = BoolishValueParser::new())]
    pub(in crate::cli) read_only: bool,
}
