//! A logged-in control connection in binary mode, and the commands that are sent on it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use chrono::NaiveDateTime;
use parking_lot::Mutex;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::OnceCell,
};
use url::Url;

use super::{
    address::FtpAddress,
    control::{Connection, Control, start_tls},
    data::{extended_port, passive_port, port_command},
    errors::{Refusal, connection_lost, reply_failure, tls_error},
    login::{LoggedIn, connect_data, log_in},
    reply::Reply,
    rest_check::VerifiedOffsets,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{FetchOptions, RemoteFile, Validator, timeouts::Timeouts, tls},
};

/// A data connection.
pub(super) type Data = Box<dyn Connection>;

/// Configuration that all sessions of the protocol share.
#[derive(Debug)]
pub(super) struct SessionConfig {
    pub(super) options: Arc<FetchOptions>,
    pub(super) timeouts: Timeouts,
    tls: OnceCell<TlsConfig>,
}

type TlsConfig = Arc<rustls::ClientConfig>;

impl SessionConfig {
    pub(super) fn new(options: &Arc<FetchOptions>) -> Self {
        let timeouts = Timeouts::from_options(options);
        Self { options: Arc::clone(options), timeouts, tls: OnceCell::new() }
    }

    /// The TLS configuration for one session and its data connections.
    pub(super) async fn tls(&self) -> Result<TlsConfig> {
        let make = || async { tls::client_config(self.options.cacert.as_deref()) };
        let config = self.tls.get_or_try_init(make).await?;
        Ok(tls::with_session_resumption(config))
    }
}

/// Facts about a server and login, shared by all sessions there.
#[derive(Debug, Default)]
pub(super) struct ServerFacts {
    /// Whether this login has succeeded before.
    pub(super) logged_in: AtomicBool,
    /// Whether the server supports `REST`; `None` until it was tested.
    pub(super) supports_rest: Mutex<Option<bool>>,
    /// The offsets at which `REST` is known to work.
    pub(super) verified_offsets: tokio::sync::Mutex<VerifiedOffsets>,
}

/// The features of a server that matter here.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Features {
    pub(super) mlsd: bool,
}

/// How data connections are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Active,
    ExtendedPassive,
    Passive,
}

/// A logged-in session.
pub(super) struct Session {
    control: Control,
    tls: Option<TlsConfig>,
    config: Arc<SessionConfig>,
    pub(super) address: FtpAddress,
    pub(super) facts: Arc<ServerFacts>,
    /// `None` until they are requested.
    features: Option<Features>,
    mode: Mode,
    /// Whether a data connection has succeeded in this mode.
    data_works: bool,
    /// A transfer was cut off, so replies to it may still arrive.
    pub(super) awaits_stale_reply: bool,
    pub(super) last_used: Instant,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A transfer that has started.
pub(super) struct Transfer {
    pub(super) data: Data,
    /// Length of the transfer in bytes, if the reply declares it.
    pub(super) announced_len: Option<u64>,
    /// The server has already reported the end, so no further reply follows.
    has_ended: bool,
}

/// The server's reply to a command. A broken connection is an error instead.
pub(super) enum CommandOutcome<T> {
    Accepted(T),
    Refused(Refusal),
}

/// The result of a `SIZE` command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SizeReply {
    Len(u64),
    /// The server does not report lengths, or not for this path.
    Unknown,
    /// There is no file of that name.
    NotFound,
}

impl SizeReply {
    pub(super) fn len(self) -> Option<u64> {
        if let Self::Len(len) = self { Some(len) } else { None }
    }
}

impl Session {
    /// Connects and logs in.
    ///
    /// # Errors
    /// As [`Protocol::probe`](crate::protocols::Protocol::probe).
    pub(super) async fn open(
        config: &Arc<SessionConfig>,
        address: &FtpAddress,
        facts: Arc<ServerFacts>,
    ) -> Result<Self> {
        let is_known = facts.logged_in.load(Ordering::Acquire);
        let LoggedIn { control, tls } = log_in(config, address, is_known).await?;
        facts.logged_in.store(true, Ordering::Release);
        let mode = if config.options.ftp_active { Mode::Active } else { Mode::ExtendedPassive };
        Ok(Self {
            control,
            tls,
            config: Arc::clone(config),
            address: address.clone(),
            facts,
            features: None,
            mode,
            data_works: false,
            awaits_stale_reply: false,
            last_used: Instant::now(),
        })
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        self.config.timeouts
    }

    /// Sends a command and reads its reply within the idle timeout. `421` is an error: the server closes the
    /// connection.
    async fn command(&mut self, action: &str, name: &str, argument: &[u8]) -> Result<Reply> {
        let action = format!("{action} on {}", self.address);
        let mut command = name.as_bytes().to_vec();
        if !argument.is_empty() {
            command.push(b' ');
            command.extend_from_slice(argument);
        }
        let control = &mut self.control;
        let exchange = async {
            control.send(&command).await.map_err(|e| connection_lost(&action, e))?;
            control.reply().await.map_err(|e| reply_failure(&action, e))
        };
        let reply =
            self.config.timeouts.wait_for_answer(|| format!("{action}: {name}"), exchange).await?;
        tracing::debug!("{}: {name}: {}", self.address, reply.display_text());
        if reply.code == 421 {
            return Err(Refusal::new(action, name, reply).into());
        }
        Ok(reply)
    }

    fn refusal(&self, action: &str, command: &str, reply: Reply) -> Refusal {
        Refusal::new(format!("{action} on {}", self.address), command, reply)
    }

    /// Whether the session still answers, and in sync with the commands. A transfer that was cut off has its own reply,
    /// which may arrive before or after the reply to the next command. It is consumed first.
    pub(super) async fn is_in_sync(&mut self, limit: Duration) -> bool {
        let stale_reply = self.awaits_stale_reply;
        let control = &mut self.control;
        let noop = async {
            if stale_reply {
                control.reply().await.ok()?;
            }
            control.send(b"NOOP").await.ok()?;
            // Some servers report that the transfer was aborted, and then that it is over.
            let max_replies = if stale_reply { 3 } else { 1 };
            for _ in 0..max_replies {
                match control.reply().await.ok()?.code {
                    421 => return None,
                    // Any code is accepted if the reply cannot belong to another command.
                    code if code == 200 || !stale_reply => return Some(()),
                    _ => {}
                }
            }
            None
        };
        let in_sync = matches!(tokio::time::timeout(limit, noop).await, Ok(Some(())));
        self.awaits_stale_reply = !in_sync;
        in_sync
    }

    /// The features of the server. If UTF-8 is one of them, names are UTF-8 from then on.
    pub(super) async fn features(&mut self) -> Result<Features> {
        if let Some(features) = self.features {
            return Ok(features);
        }
        let features = self.request_features().await?;
        Ok(*self.features.insert(features))
    }

    async fn request_features(&mut self) -> Result<Features> {
        let reply = self.command("query the features", "FEAT", b"").await?;
        if !reply.is_success() {
            return Ok(Features::default());
        }
        let text = reply.lower_case_text();
        let has = |name: &str| text.lines().any(|line| line.trim_start().starts_with(name));
        if has("utf8") {
            // Some servers use another encoding for names until they receive this. The reply does not matter.
            self.command("enable UTF-8", "OPTS", b"UTF8 ON").await?;
        }
        Ok(Features { mlsd: has("mlst") || has("mlsd") })
    }

    /// Whether the server accepts `REST`. It is tested once, because the list of features is not reliable.
    pub(super) async fn supports_rest(&mut self) -> Result<bool> {
        if let Some(known) = *self.facts.supports_rest.lock() {
            return Ok(known);
        }
        let supported = self.command("test support for ranges", "REST", b"0").await?.code == 350;
        *self.facts.supports_rest.lock() = Some(supported);
        Ok(supported)
    }

    /// The length of a file.
    pub(super) async fn size(&mut self, path: &[u8]) -> Result<SizeReply> {
        let action = format!("query the length of {}", quote_path(path));
        let reply = self.command(&action, "SIZE", path).await?;
        Ok(match (reply.is_success(), reply.first_number(), reply.code) {
            (true, Some(len), _) => SizeReply::Len(len),
            (false, _, 550 | 551) => SizeReply::NotFound,
            _ => SizeReply::Unknown,
        })
    }

    /// The modification date of a file, in the form of the server.
    pub(super) async fn modified(&mut self, path: &[u8]) -> Result<Option<String>> {
        let action = format!("query the date of {}", quote_path(path));
        let reply = self.command(&action, "MDTM", path).await?;
        let text = String::from_utf8_lossy(reply.last_text()).into_owned();
        Ok(text.split_whitespace().next().filter(|_| reply.is_success()).and_then(date_digits))
    }

    /// Changes to a folder.
    pub(super) async fn change_folder(&mut self, path: &[u8]) -> Result<CommandOutcome<()>> {
        let action = format!("open the folder {}", quote_path(path));
        let reply = self.command(&action, "CWD", path).await?;
        Ok(match reply.is_success() {
            true => CommandOutcome::Accepted(()),
            false => CommandOutcome::Refused(self.refusal(&action, "CWD", reply)),
        })
    }

    /// The current folder.
    pub(super) async fn current_folder(&mut self) -> Result<Vec<u8>> {
        let action = "query the current folder";
        let reply = self.command(action, "PWD", b"").await?;
        let quoted = if reply.is_success() { quoted_folder(reply.last_text()) } else { None };
        quoted.ok_or_else(|| self.refusal(action, "PWD", reply).into())
    }

    /// Starts a transfer at offset `start`. `EPSV` is tried first. A server may not know it, forbid it, or name a port
    /// that cannot be reached; then `PASV` is tried.
    pub(super) async fn start_transfer(
        &mut self,
        command: &str,
        path: &[u8],
        start: u64,
    ) -> Result<CommandOutcome<Transfer>> {
        let action = match command {
            "RETR" => format!("get {}", quote_path(path)),
            _ => "list a folder".to_owned(),
        };
        let stream = match self.open_data_connection(&action).await? {
            CommandOutcome::Accepted(stream) => stream,
            CommandOutcome::Refused(refusal) => return Ok(CommandOutcome::Refused(refusal)),
        };
        if start > 0 {
            let reply = self.command(&action, "REST", start.to_string().as_bytes()).await?;
            if reply.code != 350 {
                return Ok(CommandOutcome::Refused(self.refusal(&action, "REST", reply)));
            }
        }
        let reply = self.command(&action, command, path).await?;
        if !reply.is_preliminary() && !reply.is_success() {
            return Ok(CommandOutcome::Refused(self.refusal(&action, command, reply)));
        }
        let stream = self.accept_data_connection(stream, &action).await?;
        self.data_works = true;
        let mut data: Data = Box::new(stream);
        if let Some(tls) = &self.tls {
            let secured = async {
                let action = format!("TLS on the data connection from {}", self.address);
                start_tls(data, tls, &self.address.host).await.map_err(|e| tls_error(action, e))
            };
            data = self.timeouts().run_connect(|| action, secured).await?;
        }
        Ok(CommandOutcome::Accepted(Transfer {
            data,
            announced_len: reply.announced_len(),
            has_ended: reply.is_success(),
        }))
    }

    /// Opens a data connection. In active mode, listens for one and tells the server the address.
    async fn open_data_connection(
        &mut self,
        action: &str,
    ) -> Result<CommandOutcome<PendingDataConnection>> {
        match self.mode {
            Mode::Active => return self.listen_active(action).await,
            Mode::Passive => return self.connect_passive(action, "PASV", passive_port).await,
            Mode::ExtendedPassive => {}
        }
        let first = self.connect_passive(action, "EPSV", extended_port).await;
        let may_be_unsupported = match &first {
            Ok(CommandOutcome::Accepted(_)) => false,
            Ok(CommandOutcome::Refused(_)) => true,
            // The server still answers, but the port that it named cannot be reached.
            Err(e) => e.kind() == Kind::Network && self.is_in_sync(SYNC_TIMEOUT).await,
        };
        if self.data_works || !may_be_unsupported {
            return first;
        }
        let second = match (self.connect_passive(action, "PASV", passive_port).await?, first) {
            (CommandOutcome::Refused(second), Ok(CommandOutcome::Refused(first))) => {
                return Ok(CommandOutcome::Refused(second.after_refusal_of(&first)));
            }
            (CommandOutcome::Refused(_), first) => return first,
            (second, _) => second,
        };
        self.mode = Mode::Passive;
        Ok(second)
    }

    async fn connect_passive(
        &mut self,
        action: &str,
        command: &str,
        port: fn(&[u8]) -> Option<u16>,
    ) -> Result<CommandOutcome<PendingDataConnection>> {
        let reply = self.command(action, command, b"").await?;
        let port = if reply.is_success() { port(reply.last_text()) } else { None };
        let Some(port) = port else {
            return Ok(CommandOutcome::Refused(self.refusal(action, command, reply)));
        };
        let mut target = self.control.peer;
        target.set_port(port);
        let stream = connect_data(&self.config, &self.address, target).await?;
        Ok(CommandOutcome::Accepted(PendingDataConnection::Connected(stream)))
    }

    async fn listen_active(
        &mut self,
        action: &str,
    ) -> Result<CommandOutcome<PendingDataConnection>> {
        let failed = |e: io::Error| Error::new(Kind::Network, action).because(e);
        let local = SocketAddr::new(self.control.local.ip(), 0);
        let listener = TcpListener::bind(local).await.map_err(failed)?;
        let command = port_command(listener.local_addr().map_err(failed)?);
        let (name, argument) = command.split_once(' ').unwrap_or_default();
        let reply = self.command(action, name, argument.as_bytes()).await?;
        Ok(match reply.is_success() {
            true => CommandOutcome::Accepted(PendingDataConnection::Listening(listener)),
            false => CommandOutcome::Refused(self.refusal(action, name, reply)),
        })
    }

    /// The data connection; in active mode, waits until the server connects. Connections from other hosts are dropped.
    async fn accept_data_connection(
        &self,
        stream: PendingDataConnection,
        action: &str,
    ) -> Result<TcpStream> {
        let listener = match stream {
            PendingDataConnection::Connected(stream) => return Ok(stream),
            PendingDataConnection::Listening(listener) => listener,
        };
        let server = self.control.peer.ip().to_canonical();
        let context = || format!("{action}: data connection from {}", self.address);
        let accepted = async {
            loop {
                let (stream, from) =
                    listener.accept().await.map_err(|e| connection_lost(context(), e))?;
                if from.ip().to_canonical() == server {
                    return Ok(stream);
                }
            }
        };
        self.timeouts().wait_for_answer(context, accepted).await
    }

    /// Reads the final reply of a transfer that was read to its end; `None` if that reply has arrived before.
    pub(super) async fn finish_transfer(&mut self, transfer: Transfer) -> Result<Option<Reply>> {
        let Transfer { data, has_ended, .. } = transfer;
        drop(data);
        if has_ended {
            return Ok(None);
        }
        let action = format!("end of a transfer from {}", self.address);
        let control = &mut self.control;
        let reply = async { control.reply().await.map_err(|e| reply_failure(&action, e)) };
        let reply = self.config.timeouts.wait_for_answer(|| action.clone(), reply).await?;
        match reply.code {
            200..=299 => Ok(Some(reply)),
            // The file existed when the transfer started, so the failure may be temporary.
            500.. => Err(Refusal::new(action, "the server", reply).into_kind(Kind::Unavailable)),
            _ => Err(Refusal::new(action, "the server", reply).into()),
        }
    }

    /// Tests by a transfer whether a file is empty: servers also report length 0 for files that are generated on
    /// request.
    pub(super) async fn is_empty(&mut self, path: &[u8]) -> Result<CommandOutcome<bool>> {
        match self.start_transfer("RETR", path, 0).await? {
            CommandOutcome::Accepted(transfer) => {
                Ok(CommandOutcome::Accepted(self.count_bytes(transfer, SHORT_FILE_LEN).await? == 0))
            }
            CommandOutcome::Refused(refusal) => Ok(CommandOutcome::Refused(refusal)),
        }
    }

    /// Counts the bytes of a transfer up to `max`, then cuts it off. Afterwards the session is ready for the next
    /// command.
    pub(super) async fn count_bytes(
        &mut self,
        mut transfer: Transfer,
        max: usize,
    ) -> Result<usize> {
        let action = format!("read from {}", self.address);
        let mut buffer = vec![0; max];
        let mut received = 0;
        while received < max {
            let read = async {
                match transfer.data.read(&mut buffer[received..]).await {
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                    read => read.map_err(|e| connection_lost(&action, e)),
                }
            };
            match self.timeouts().wait_for_answer(|| action.clone(), read).await? {
                0 => {
                    self.finish_transfer(transfer).await?;
                    return Ok(received);
                }
                len => received += len,
            }
        }
        drop(transfer);
        self.awaits_stale_reply = true;
        if !self.is_in_sync(SYNC_TIMEOUT).await {
            let address = self.address.clone();
            *self = Self::open(&self.config, &address, Arc::clone(&self.facts)).await?;
        }
        Ok(received)
    }
}

/// Files shorter than this many bytes are read to the end instead of cut off. Servers need a while to recover from a
/// cut.
const SHORT_FILE_LEN: usize = 16 << 10;
/// Timeout of the test whether a session is still usable.
pub(super) const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// A data connection before the transfer starts.
enum PendingDataConnection {
    Connected(TcpStream),
    Listening(TcpListener),
}

/// Formats a path for error messages.
pub(super) fn quote_path(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

/// The quoted path in a reply such as `"/a ""b"" c" is the current directory`.
fn quoted_folder(text: &[u8]) -> Option<Vec<u8>> {
    let start = text.iter().position(|b| *b == b'"')? + 1;
    let mut path = Vec::new();
    let mut rest = text[start..].iter().peekable();
    while let Some(byte) = rest.next() {
        if *byte != b'"' {
            path.push(*byte);
        } else if rest.next_if_eq(&&b'"').is_some() {
            path.push(b'"');
        } else {
            return Some(path);
        }
    }
    None
}

/// The first 14 digits of a date, down to the second. `MLSD` and `MDTM` both use this form.
pub(super) fn date_digits(text: &str) -> Option<String> {
    let digits = text.get(..14)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.to_owned())
}

/// A file with the metadata that the server reports.
pub(super) fn remote_file(
    url: Url,
    len: Option<u64>,
    modified: Option<String>,
    supports_ranges: bool,
) -> RemoteFile {
    let date = modified.as_deref().and_then(parse_date);
    let validator = modified.zip(len).map(|(date, len)| Validator::Modified(date, len));
    RemoteFile { len, supports_ranges, validator, modified: date, ..RemoteFile::from_url(url) }
}

/// The time of [`date_digits`], which is in UTC.
fn parse_date(digits: &str) -> Option<SystemTime> {
    let time = NaiveDateTime::parse_from_str(digits, "%Y%m%d%H%M%S").ok()?;
    let seconds = u64::try_from(time.and_utc().timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_fourteen_digits_in_utc() {
        let of = |text: &str| date_digits(text).and_then(|digits| parse_date(&digits));
        let seconds = |s| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(of("20261127030405.123"), seconds(1_795_748_645));
        assert_eq!(of("19700101000000"), seconds(0));
        for none in ["", "2026112703040", "20261327030405", "19691231235959", "2026-11-27 030405"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn the_current_folder_is_the_quoted_text() {
        let of = |text: &str| {
            quoted_folder(text.as_bytes()).map(|path| String::from_utf8(path).unwrap())
        };
        assert_eq!(of("\"/a b\" is current"), Some("/a b".into()));
        assert_eq!(of("\"/a \"\"b\"\"\""), Some("/a \"b\"".into()));
        assert_eq!(of("\"/\""), Some("/".into()));
        assert_eq!(of("/a"), None);
        assert_eq!(of("\"/a"), None);
    }
}
