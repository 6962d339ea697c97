//! The arguments of `storage`.

use clap::{Args, Subcommand, builder::BoolishValueParser};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum StorageCommand {
    /// List storages
    List,
    /// Add a storage to the config file
    Add(AddArgs),
    /// Test every operation that an import needs from a storage, and suggest fixes
    Check(CheckArgs),
    /// Sign in to Google Drive and save the refresh token
    Login(LoginArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AddArgs {
    /// Name of the storage
    pub(in crate::cli) name: String,
    /// URL such as s3://bucket/prefix?endpoint=…, and settings such as chunk=16MiB. A secret comes from a prompt
    /// (KEY=-), from KEY=env:VARIABLE or from KEY=command:COMMAND
    #[arg(value_name = "URL|KEY=VALUE")]
    pub(in crate::cli) settings: Vec<String>,
    /// Storage type; required without a URL
    #[arg(long = "type", env = "BAE_TYPE", value_name = "TYPE", value_parser = ["local", "s3", "drive"])]
    pub(in crate::cli) kind: Option<String>,
    /// Replace an existing storage of this name
    #[arg(long, env = "BAE_FORCE", value_parser = BoolishValueParser::new())]
    pub(in crate::cli) force: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CheckArgs {
    /// Storage name or URL
    #[arg(value_name = "NAME|URL", default_value = "file", env = "BAE_STORAGE")]
    pub(in crate::cli) storage: String,
    /// Also transfer 8 MiB in each direction to measure the speed
    #[arg(long, env = "BAE_SPEED", value_parser = BoolishValueParser::new())]
    pub(in crate::cli) speed: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LoginArgs {
    /// Profile of type drive with client_id and client_secret
    #[arg(value_name = "NAME", default_value = "drive")]
    pub(in crate::cli) name: String,
    /// Sign in on another device with a code, for machines without a browser
    #[arg(long, env = "BAE_DEVICE", value_parser = BoolishValueParser::new())]
    pub(in crate::cli) device: bool,
}
