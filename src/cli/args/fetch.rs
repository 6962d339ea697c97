//! Flags for downloads from servers: `get`, and `import` of a URL.

use std::{path::PathBuf, sync::Arc};

use clap::{
    ArgMatches, Args, ValueHint,
    builder::{BoolishValueParser, PossibleValuesParser, TypedValueParser as _},
    parser::ValueSource,
};
use percent_encoding::percent_decode_str;
use url::Url;

use super::{size, streams::StreamArgs, with_hint};
use crate::{
    cli::{
        context::Context,
        output::Failure,
        secret::{parse_secret, prompt_password, read_password},
    },
    config::{BlockFormat, IpfsOptions, Proxy, Secret, SessionOptions},
    downloads::{FetchLimits, ResumePolicy, checksum, range_scheduler::SplitStrategy},
    engine::DownloadOptions,
    error::{Error, Kind, Result},
    protocols::{
        CustomProtocols, Digest, FetchOptions, HostKeyPolicy, Login, OutgoingOptions,
        PasswordPrompt, PasswordSource, display_url, netrc,
    },
    units::{ByteSize, MIB},
};

/// Default connections to one server: enough where a server throttles each connection, few enough where it limits their
/// number.
const DEFAULT_WORKERS: u32 = 4;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Servers")]
#[allow(rustdoc::bare_urls, reason = "the comments are help texts")]
pub(in crate::cli) struct FetchArgs {
    /// Maximum connections to one server [default: that of -s, or 4]
    #[arg(short = 'x', long, env = "BAE_WORKERS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: Option<u32>,
    /// Maximum connections for one file, over all its mirrors [default: as many as -x allows]
    #[arg(short = 's', long, env = "BAE_SPLIT", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    split: Option<u32>,
    /// Minimum size of a part when connections share a file
    #[arg(short = 'k', long, env = "BAE_MIN_SPLIT", value_name = "SIZE", default_value = "1MiB", value_parser = size)]
    min_split: ByteSize,
    /// Consecutive failures before a file is given up
    #[arg(short = 'm', long, env = "BAE_MAX_TRIES", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    max_tries: u32,
    /// Resume without ETag or Last-Modified if the length matches
    #[arg(short = 'c', long = "continue", env = "BAE_CONTINUE", value_parser = BoolishValueParser::new(), conflicts_with = "fresh")]
    resume_by_length: bool,
    /// Download from the start, ignoring partial data
    #[arg(long, env = "BAE_FRESH", value_parser = BoolishValueParser::new())]
    fresh: bool,
    /// Expected checksum, such as sha-256=HEX; also md5, sha-1, sha-512, and ipfs=CID; may be repeated
    #[arg(long, env = "BAE_CHECKSUM", value_name = "NAME=HEX", value_delimiter = ',', value_parser = parse_checksum)]
    pub(in crate::cli) checksum: Vec<Digest>,
    /// Verify against the checksum file next to the file on the server, such as NAME.sha256
    #[arg(long = "checksum-beside", env = "BAE_CHECKSUM_BESIDE", value_parser = BoolishValueParser::new())]
    pub(in crate::cli) sidecar_checksum: bool,
    /// Header of every request, as 'NAME: VALUE'; a secret as 'NAME: env:VARIABLE' or 'NAME: command:COMMAND'
    #[arg(
        long,
        env = "BAE_HEADER",
        value_name = "LINE",
        value_delimiter = '\n',
        hide_env_values = true
    )]
    header: Vec<String>,
    /// Login user, unless the URL names one; password from BAE_PASSWORD, a prompt, NAME:env:VARIABLE or
    /// NAME:command:COMMAND
    #[arg(short = 'u', long, env = "BAE_USER", value_name = "NAME", hide_env_values = true)]
    user: Option<String>,
    /// Read logins from a netrc file [default when given: ~/.netrc]
    #[arg(long, env = "BAE_NETRC", value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "", value_hint = ValueHint::FilePath)]
    netrc: Option<PathBuf>,
    /// PEM certificates to trust in addition to the system's
    #[arg(long, env = "BAE_CACERT", value_name = "FILE", value_hint = ValueHint::FilePath)]
    cacert: Option<PathBuf>,
    /// URL of the page that links to the file, sent as the Referer header
    #[arg(long, env = "BAE_REFERER", value_name = "URL")]
    referer: Option<String>,
    /// Cookie file in Netscape format
    #[arg(long, env = "BAE_LOAD_COOKIES", value_name = "FILE", value_hint = ValueHint::FilePath)]
    load_cookies: Option<PathBuf>,
    /// Use this protocol instead of the URL's scheme
    #[arg(long, env = "BAE_PROTOCOL", value_name = "SCHEME")]
    pub(in crate::cli) protocol: Option<String>,
    /// FTP: use active mode, in which the server connects to us
    #[arg(long, env = "BAE_FTP_ACTIVE", value_parser = BoolishValueParser::new())]
    ftp_active: bool,
    /// SSH: private key; may be repeated
    #[arg(long, env = "BAE_IDENTITY", value_name = "FILE", value_delimiter = ',', value_hint = ValueHint::FilePath)]
    identity: Vec<PathBuf>,
    /// SSH: known hosts file [default: ~/.ssh/known_hosts]
    #[arg(long, env = "BAE_KNOWN_HOSTS", value_name = "FILE", value_hint = ValueHint::FilePath)]
    known_hosts: Option<PathBuf>,
    /// SSH: accept an unknown host with this key fingerprint
    #[arg(long, env = "BAE_ACCEPT_HOST_KEY", value_name = "SHA256:…")]
    accept_host_key: Option<String>,
    /// IPFS: gateway whose blocks are verified; may be repeated [default: IPFS_GATEWAY, the file ~/.ipfs/gateway, or
    /// http://127.0.0.1:8080]
    #[arg(
        long,
        env = "BAE_IPFS_GATEWAY",
        value_name = "URL",
        value_delimiter = ',',
        hide_env_values = true
    )]
    ipfs_gateway: Vec<String>,
    /// IPFS: how blocks are requested: raw (one by one), car (many at once), or auto (raw on this machine and network)
    #[arg(long, env = "BAE_IPFS_FORMAT", value_name = "FORMAT",
          value_parser = PossibleValuesParser::new(BlockFormat::NAMES).try_map(|name| name.parse::<BlockFormat>()))]
    ipfs_format: Option<BlockFormat>,
    /// IPFS: delegated router that names further gateways, such as https://delegated-ipfs.dev; may be repeated
    #[arg(long, env = "BAE_IPFS_ROUTER", value_name = "URL", value_delimiter = ',')]
    ipfs_router: Vec<String>,
    /// IPFS: RPC interface of a Kubo node, also asked for blocks and names
    #[arg(long, env = "BAE_IPFS_RPC", value_name = "URL", hide_env_values = true)]
    ipfs_rpc: Option<String>,
    /// IPFS: resolver of DNS names in ipns:// URLs, by DNS over HTTPS, or `system` [default:
    /// https://cloudflare-dns.com/dns-query]
    #[arg(long, env = "BAE_IPFS_DNS", value_name = "URL")]
    ipfs_dns: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) streams: StreamArgs,
}

impl FetchArgs {
    /// The connection options. Prompts for the password of `-u` if it is not given.
    pub(in crate::cli) async fn fetch_options(
        &self,
        context: &Context,
        proxy: Option<Proxy>,
        user_agent: Option<String>,
    ) -> Result<FetchOptions, Failure> {
        Ok(FetchOptions {
            login: self.login(context).await?,
            netrc: match &self.netrc {
                Some(path) => netrc::read(&netrc_path(path)?)?,
                None => Default::default(),
            },
            passwords: password_source(context)?,
            headers: self.header.iter().map(|line| parse_header(line)).collect::<Result<_>>()?,
            user_agent,
            referer: self.referer.clone(),
            cookies: self.load_cookies.clone(),
            proxy,
            cacert: self.cacert.clone(),
            connect_timeout: context.config.timeout,
            idle_timeout: context.config.timeout,
            ftp_active: self.ftp_active,
            identities: self.identity.clone(),
            host_keys: HostKeyPolicy {
                known_hosts: self.known_hosts.clone(),
                accepted_fingerprint: self
                    .accept_host_key
                    .as_deref()
                    .map(parse_fingerprint)
                    .transpose()?,
            },
            outgoing: OutgoingOptions::default(),
            ipfs: self.ipfs_options(&context.config.ipfs),
            streams: self.streams.options(&self.limits()),
            custom: CustomProtocols::default(),
        })
    }

    /// The servers of IPFS: those of the flags, else those of the config.
    fn ipfs_options(&self, config: &IpfsOptions) -> IpfsOptions {
        let list = |flag: &Vec<String>, config: &Vec<String>| {
            if flag.is_empty() { config.clone() } else { flag.clone() }
        };
        IpfsOptions {
            gateways: list(&self.ipfs_gateway, &config.gateways),
            routers: list(&self.ipfs_router, &config.routers),
            rpc: self.ipfs_rpc.clone().or_else(|| config.rpc.clone()),
            dns: self.ipfs_dns.clone().or_else(|| config.dns.clone()),
            format: self.ipfs_format.unwrap_or(config.format),
        }
    }

    async fn login(&self, context: &Context) -> Result<Option<Login>, Failure> {
        let Some(text) = &self.user else { return Ok(None) };
        let (user, password) = match text.split_once(':') {
            Some((user, secret)) => (user, Some(parse_secret(secret))),
            None => (text.as_str(), None),
        };
        let password = match password.or_else(|| context.password.clone()) {
            Some(password) => password,
            None => Secret::Text(read_password(context, user).await?),
        };
        // Reveal the password now, while the user is present. Later it would fail on every connection.
        let revealed = password.reveal()?;
        Ok(Some(Login { user: user.to_owned(), password: Some(Secret::Text(revealed)) }))
    }

    /// Warns when `-u` names another user than a URL does. The URL's user is used for the login.
    pub(in crate::cli) fn warn_about_user_mismatch<'a>(&self, urls: impl Iterator<Item = &'a Url>) {
        let Some(user) = self.user.as_deref().and_then(|text| text.split(':').next()) else {
            return;
        };
        let named = |url: &Url| percent_decode_str(url.username()).decode_utf8_lossy().into_owned();
        for url in urls.filter(|url| !url.username().is_empty() && named(url) != user) {
            tracing::warn!(
                "{}: the URL names user {:?}, so -u {user} is ignored",
                display_url(url),
                named(url)
            );
        }
    }

    /// The download options for the import of a URL.
    pub(in crate::cli) async fn download_options(
        &self,
        context: &Context,
        network: &SessionOptions,
    ) -> Result<DownloadOptions, Failure> {
        let (proxy, user_agent) = (network.proxy.clone(), network.user_agent.clone());
        let mut options = self.fetch_options(context, proxy, user_agent).await?;
        options.outgoing.interface = network.first_interface().map(str::to_owned);
        Ok(DownloadOptions {
            fetch: options,
            protocol: self.protocol.clone(),
            fetch_limits: self.limits(),
            resume: self.resume(),
            checksums: self.checksum.clone(),
            sidecar: self.sidecar_checksum,
        })
    }

    pub(in crate::cli) fn resume(&self) -> ResumePolicy {
        match (self.fresh, self.resume_by_length) {
            (true, _) => ResumePolicy::Never,
            (_, true) => ResumePolicy::IfSameLength,
            _ => ResumePolicy::IfProven,
        }
    }

    pub(in crate::cli) fn limits(&self) -> FetchLimits {
        let per_server = self.workers.or(self.split).unwrap_or(DEFAULT_WORKERS);
        FetchLimits {
            per_server: per_server as usize,
            per_file: self.split.map_or(usize::MAX, |split| split as usize),
            min_split: self.min_split.0.max(MIB / 64),
            max_tries: self.max_tries,
            strategy: SplitStrategy::Even,
        }
    }
}

/// Passwords of users that are named without one, as by a URL.
fn password_source(context: &Context) -> Result<PasswordSource> {
    let given = context.password.as_ref().map(Secret::reveal).transpose()?.map(Secret::Text);
    let (out, cancel) = (context.out.clone(), context.cancel.clone());
    let prompt: Option<PasswordPrompt> = out.can_prompt().then(|| {
        let prompt: PasswordPrompt = Arc::new(move |account| {
            Box::pin(prompt_password(out.clone(), cancel.clone(), account))
        });
        prompt
    });
    Ok(PasswordSource::new(given, prompt))
}

/// The normal form of a fingerprint, from the forms that `ssh-keygen -l` prints and people type.
fn parse_fingerprint(text: &str) -> Result<String> {
    let bare = text.strip_prefix("SHA256:").unwrap_or(text).trim_end_matches('=');
    let is_base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/".contains(&b);
    if bare.len() == 43 && bare.bytes().all(is_base64) {
        return Ok(format!("SHA256:{bare}"));
    }
    Err(Error::new(Kind::InvalidInput, format!("{text:?} is not a SHA-256 key fingerprint"))
        .hint("`ssh-keygen -lf KEY.pub` prints it: SHA256: and 43 characters"))
}

fn parse_checksum(text: &str) -> Result<Digest, String> {
    with_hint(checksum::parse(text))
}

fn netrc_path(given: &std::path::Path) -> Result<PathBuf> {
    if !given.as_os_str().is_empty() {
        return Ok(given.to_owned());
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    home.map(|home| home.join(".netrc")).ok_or_else(|| {
        Error::new(Kind::InvalidInput, "no netrc file: HOME is not set")
            .hint("give it with --netrc=FILE")
    })
}

/// Parses `NAME: VALUE`. Errors never contain the value, which may be a secret.
fn parse_header(line: &str) -> Result<(String, Secret)> {
    let Some((name, value)) = line.split_once(':') else {
        let text = "header has no colon";
        return Err(Error::new(Kind::InvalidInput, text).hint("write it 'NAME: VALUE'"));
    };
    Ok((name.trim().to_owned(), parse_secret(value.trim())))
}

/// Headers whose values are secrets.
const SECRET_HEADERS: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];

/// The error text for a secret typed on the command line, which every user of the machine can read. The text does not
/// contain the secret.
pub(super) fn secret_on_command_line(matches: &ArgMatches) -> Option<&'static str> {
    let typed = |id: &str| {
        let known = matches.try_contains_id(id).unwrap_or(false);
        known && matches.value_source(id) == Some(ValueSource::CommandLine)
    };
    let texts = |id: &str| -> Vec<String> {
        let values = if typed(id) { matches.get_many::<String>(id) } else { None };
        values.into_iter().flatten().cloned().collect()
    };
    let is_text = |text: &str| matches!(parse_secret(text), Secret::Text(_));
    let with_password = |text: &String| text.split_once(':').is_some_and(|(_, p)| is_text(p));
    if texts("user").iter().any(with_password) {
        return Some(
            "--user with a password: every user of this machine can read the command line; \
            set BAE_PASSWORD, or write NAME:env:VARIABLE or NAME:command:COMMAND",
        );
    }
    let secret_header = |line: &String| {
        line.split_once(':').is_some_and(|(name, value)| {
            SECRET_HEADERS.contains(&name.trim().to_ascii_lowercase().as_str())
                && is_text(value.trim())
        })
    };
    if texts("header").iter().any(secret_header) {
        return Some(
            "--header with a secret: every user of this machine can read the command line; \
            set BAE_HEADER, or write 'NAME: env:VARIABLE' or 'NAME: command:COMMAND'",
        );
    }
    let has_password = |text: &String| Url::parse(text).is_ok_and(|url| url.password().is_some());
    ["urls", "sources", "ipfs_gateway", "ipfs_rpc"]
        .into_iter()
        .flat_map(texts)
        .any(|text| has_password(&text))
        .then_some(
            "a URL with a password: every user of this machine can read the command line; \
         give the name with -u and set BAE_PASSWORD, or use --netrc or -i",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_usual_forms_of_a_fingerprint_are_accepted_and_md5_is_rejected() {
        let expected = "SHA256:AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwL";
        for form in [expected, &format!("{expected}="), &expected["SHA256:".len()..]] {
            assert_eq!(parse_fingerprint(form).unwrap(), expected, "{form}");
        }
        for bad in ["MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48", "SHA256:short", ""] {
            assert_eq!(parse_fingerprint(bad).unwrap_err().kind(), Kind::InvalidInput, "{bad}");
        }
    }

    #[test]
    fn a_header_is_split_at_its_first_colon_and_may_reference_a_secret() {
        let of = |line: &str| parse_header(line).unwrap();
        assert_eq!(of("X-A: b: c"), ("X-A".into(), Secret::Text("b: c".into())));
        assert_eq!(of("Cookie: env:JAR").1, Secret::Env("JAR".into()));
        assert_eq!(of("Cookie: command:cat jar").1, Secret::Command("cat jar".into()));
        let e = parse_header("hunter2").unwrap_err();
        assert!(!format!("{e:?}").contains("hunter2"));
    }
}
