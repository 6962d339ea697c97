//! Arguments of `daemon`.

use std::net::SocketAddr;

use clap::Args;

use super::network::NetworkArgs;
use crate::config::{ApiOptions, DEFAULT_LISTEN};

#[derive(Debug, Args)]
pub(in crate::cli) struct DaemonArgs {
    /// Listen address of the API; may be repeated [default: 127.0.0.1:7373]
    #[arg(long, env = "BAE_API", value_name = "ADDR:PORT", value_delimiter = ',')]
    pub(in crate::cli) api: Vec<SocketAddr>,
    /// Listen port of the API on this machine only; 0 lets the system choose
    #[arg(long, env = "BAE_API_PORT", value_name = "PORT", conflicts_with = "api")]
    pub(in crate::cli) api_port: Option<u16>,
    #[command(flatten)]
    pub(in crate::cli) network: NetworkArgs,
}

impl DaemonArgs {
    /// The addresses of these flags, over those of the config.
    pub(in crate::cli) fn apply_to(&self, options: &mut ApiOptions) {
        match (self.api.is_empty(), self.api_port) {
            (false, _) => options.listen.clone_from(&self.api),
            (true, Some(port)) => options.listen = vec![(DEFAULT_LISTEN.0, port).into()],
            (true, None) => {}
        }
    }
}
