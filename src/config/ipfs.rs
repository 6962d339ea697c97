//! Settings of IPFS: the servers to ask for blocks, records and names.
//!
//! Gateways come from the first of these that has some: the flag, its variable, the config file, the variable
//! `IPFS_GATEWAY`, and the file `gateway` in the folder of Kubo (`IPFS_PATH`, else `~/.ipfs`). Other programs read the
//! last two as well.

use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
    str::FromStr,
};

use serde::Deserialize;

use super::{
    env::Env,
    network::{HiddenText, OneOrMore},
};
use crate::{
    error::{Error, Kind, Result},
    redact,
};

/// Maximum length of the file with the address of a gateway, in bytes.
const MAX_FILE: u64 = 4 << 10;

/// The servers of IPFS, as URLs that are checked when they are first used.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct IpfsOptions {
    /// Trustless gateways. If there are none, the one of this machine is used.
    pub gateways: Vec<String>,
    /// Delegated routers. Without one, only the gateways are asked.
    pub routers: Vec<String>,
    /// The RPC interface of a Kubo node. It may contain a login.
    pub rpc: Option<String>,
    /// The resolver of DNS names: the URL of DNS over HTTPS, or `system`.
    pub dns: Option<String>,
    pub format: BlockFormat,
}

/// How blocks are requested from gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockFormat {
    /// One by one from gateways of this machine and network, as CARs from others.
    #[default]
    Auto,
    /// One by one.
    Raw,
    /// Many at once, from gateways that support it.
    Car,
}

impl BlockFormat {
    pub const NAMES: [&str; 3] = ["auto", "raw", "car"];
}

impl FromStr for BlockFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "raw" => Ok(Self::Raw),
            "car" => Ok(Self::Car),
            _ => Err(Error::new(Kind::InvalidInput, format!("unknown block format {text:?}"))
                .hint(format!("formats: {}", Self::NAMES.join(", ")))),
        }
    }
}

impl fmt::Debug for IpfsOptions {
    /// Omits logins.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown =
            |urls: &[String]| -> Vec<_> { urls.iter().map(|url| redact::source(url)).collect() };
        f.debug_struct("IpfsOptions")
            .field("gateways", &shown(&self.gateways))
            .field("routers", &shown(&self.routers))
            .field("rpc", &self.rpc.as_deref().map(redact::source))
            .field("dns", &self.dns)
            .field("format", &self.format)
            .finish()
    }
}

/// `[ipfs]` in the config file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct IpfsSection {
    gateway: Option<OneOrMore>,
    router: Option<OneOrMore>,
    rpc: Option<HiddenText>,
    dns: Option<String>,
    format: Option<BlockFormat>,
}

impl IpfsSection {
    pub(super) fn resolve(self, env: &Env) -> IpfsOptions {
        let gateways = self.gateway.map(OneOrMore::into_vec);
        let by_others = || env.get("IPFS_GATEWAY").map(str::to_owned).or_else(|| kubo_gateway(env));
        IpfsOptions {
            gateways: gateways.unwrap_or_else(|| by_others().into_iter().collect()),
            routers: self.router.map(OneOrMore::into_vec).unwrap_or_default(),
            rpc: self.rpc.map(|text| text.0),
            dns: self.dns,
            format: self.format.unwrap_or_default(),
        }
    }
}

/// The address that Kubo writes down for other programs.
fn kubo_gateway(env: &Env) -> Option<String> {
    let folder = env.get("IPFS_PATH").map_or(Path::new("~/.ipfs"), Path::new);
    let file = File::open(env.absolute(&folder.join("gateway")).ok()?).ok()?;
    let mut line = String::new();
    BufReader::new(file.take(MAX_FILE)).read_line(&mut line).ok()?;
    Some(line.trim().to_owned()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateways(toml: &str, env: &[(&str, &str)]) -> Vec<String> {
        let section: IpfsSection = toml::from_str(toml).unwrap();
        section.resolve(&env.iter().copied().collect()).gateways
    }

    #[test]
    fn gateways_come_from_the_file_then_the_variable_then_kubo() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".ipfs")).unwrap();
        std::fs::write(home.path().join(".ipfs/gateway"), "http://127.0.0.1:1\nmore\n").unwrap();
        let env = [("HOME", home.path().to_str().unwrap()), ("IPFS_GATEWAY", "https://b")];
        assert_eq!(gateways("gateway = 'https://a'", &env), ["https://a"]);
        assert_eq!(
            gateways("gateway = ['https://a', 'https://c']", &env),
            ["https://a", "https://c"]
        );
        assert_eq!(gateways("", &env), ["https://b"]);
        assert_eq!(gateways("", &env[..1]), ["http://127.0.0.1:1"]);
        let elsewhere = [env[0], ("IPFS_PATH", "/nonexistent")];
        assert!(gateways("", &elsewhere).is_empty());
    }

    #[test]
    fn debug_output_shows_no_login() {
        let section: IpfsSection = toml::from_str("rpc = 'http://u:hunter2@h:5001'").unwrap();
        assert!(!format!("{section:?}").contains("hunter2"));
        let options = section.resolve(&Env::default());
        assert!(options.rpc.is_some() && !format!("{options:?}").contains("hunter2"));
    }
}
