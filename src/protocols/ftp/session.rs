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
    address::Address,
    control::{Connection, Control, secure},
    data::{extended_port, passive_port, port_command},
    errors::{Refusal, broken, lost, no_tls},
    login::{SignedIn, dial_data, sign_in},
    reply::Reply,
    rest::Proof,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{FetchOptions, Remote, Validator, patience::Patience, tls},
};

/// A data connection.
pub(super) type Data = Box<dyn Connection>;

/// Configuration that all sessions of the protocol share.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) options: Arc<FetchOptions>,
    pub(super) patience: Patience,
    tls: OnceCell<TlsConfig>,
}

type TlsConfig = Arc<rustls::ClientConfig>;

impl Setup {
    pub(super) fn new(options: &Arc<FetchOptions>) -> Self {
        let patience = Patience::of(options);
        Self { options: Arc::clone(options), patience, tls: OnceCell::new() }
    }

    /// The TLS configuration for one session and its data connections.
    pub(super) async fn tls(&self) -> Result<TlsConfig> {
        let make = || async { tls::client_config(self.options.cacert.as_deref()) };
        let config = self.tls.get_or_try_init(make).await?;
        Ok(tls::with_sessions(config))
    }
}

/// Facts about a server and login, shared by all sessions there.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Whether this login has succeeded before.
    pub(super) signed_in: AtomicBool,
    /// Whether the server supports `REST`; `None` until it was tested.
    pub(super) rest: Mutex<Option<bool>>,
    /// The offsets at which `REST` is known to work.
    pub(super) proof: tokio::sync::Mutex<Proof>,
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
    setup: Arc<Setup>,
    pub(super) address: Address,
    pub(super) known: Arc<Known>,
    /// `None` until they are requested.
    features: Option<Features>,
    mode: Mode,
    /// Whether a data connection has succeeded in this mode.
    proven: bool,
    /// A transfer was cut off, so replies to it may still arrive.
    pub(super) doubtful: bool,
    pub(super) used: Instant,
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
    pub(super) announced: Option<u64>,
    /// The server has already reported the end, so no further reply follows.
    is_over: bool,
}

/// The server's reply to a command. A broken connection is an error instead.
pub(super) enum Answer<T> {
    Is(T),
    Refused(Refusal),
}

/// The result of a `SIZE` command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Is(u64),
    /// The server does not report lengths, or not for this path.
    Unknown,
    /// There is no file of that name.
    NotThere,
}

impl Size {
    pub(super) fn len(self) -> Option<u64> {
        if let Self::Is(len) = self { Some(len) } else { None }
    }
}

impl Session {
    /// Connects and logs in.
    ///
    /// # Errors
    /// As [`Protocol::probe`](crate::protocols::Protocol::probe).
    pub(super) async fn open(
        setup: &Arc<Setup>,
        address: &Address,
        known: Arc<Known>,
    ) -> Result<Self> {
        let is_known = known.signed_in.load(Ordering::Acquire);
        let SignedIn { control, tls } = sign_in(setup, address, is_known).await?;
        known.signed_in.store(true, Ordering::Release);
        let mode = if setup.options.ftp_active { Mode::Active } else { Mode::ExtendedPassive };
        Ok(Self {
            control,
            tls,
            setup: Arc::clone(setup),
            address: address.clone(),
            known,
            features: None,
            mode,
            proven: false,
            doubtful: false,
            used: Instant::now(),
        })
    }

    pub(super) fn patience(&self) -> Patience {
        self.setup.patience
    }

    /// Sends a command and reads its reply within the idle timeout. `421` is an error: the server closes the
    /// connection.
    async fn ask(&mut self, doing: &str, name: &str, argument: &[u8]) -> Result<Reply> {
        let doing = format!("{doing} on {}", self.address);
        let mut command = name.as_bytes().to_vec();
        if !argument.is_empty() {
            command.push(b' ');
            command.extend_from_slice(argument);
        }
        let control = &mut self.control;
        let asked = async {
            control.send(&command).await.map_err(|e| lost(&doing, e))?;
            control.reply().await.map_err(|e| broken(&doing, e))
        };
        let reply = self.setup.patience.answer(|| format!("{doing}: {name}"), asked).await?;
        tracing::debug!("{}: {name}: {}", self.address, reply.said());
        if reply.code == 421 {
            return Err(Refusal::new(doing, name, reply).into());
        }
        Ok(reply)
    }

    fn refusal(&self, doing: &str, command: &str, reply: Reply) -> Refusal {
        Refusal::new(format!("{doing} on {}", self.address), command, reply)
    }

    /// Whether the session still answers, and in step with the commands. A transfer that was cut off has its own reply,
    /// which may arrive before or after the reply to the next command. It is consumed first.
    pub(super) async fn is_in_step(&mut self, limit: Duration) -> bool {
        let doubtful = self.doubtful;
        let control = &mut self.control;
        let noop = async {
            if doubtful {
                control.reply().await.ok()?;
            }
            control.send(b"NOOP").await.ok()?;
            // Some servers report that the transfer was aborted, and then that it is over.
            let most = if doubtful { 3 } else { 1 };
            for _ in 0..most {
                match control.reply().await.ok()?.code {
                    421 => return None,
                    // Any code is accepted if the reply cannot belong to another command.
                    code if code == 200 || !doubtful => return Some(()),
                    _ => {}
                }
            }
            None
        };
        let sound = matches!(tokio::time::timeout(limit, noop).await, Ok(Some(())));
        self.doubtful = !sound;
        sound
    }

    /// The features of the server. If UTF-8 is one of them, names are UTF-8 from then on.
    pub(super) async fn features(&mut self) -> Result<Features> {
        if let Some(features) = self.features {
            return Ok(features);
        }
        let features = self.ask_features().await?;
        Ok(*self.features.insert(features))
    }

    async fn ask_features(&mut self) -> Result<Features> {
        let reply = self.ask("ask for features", "FEAT", b"").await?;
        if !reply.is_done() {
            return Ok(Features::default());
        }
        let text = reply.words();
        let has = |name: &str| text.lines().any(|line| line.trim_start().starts_with(name));
        if has("utf8") {
            // Some servers use another encoding for names until they receive this. The reply does not matter.
            self.ask("choose UTF-8", "OPTS", b"UTF8 ON").await?;
        }
        Ok(Features { mlsd: has("mlst") || has("mlsd") })
    }

    /// Whether the server accepts `REST`. It is tested once, because the list of features is not reliable.
    pub(super) async fn takes_rest(&mut self) -> Result<bool> {
        if let Some(known) = *self.known.rest.lock() {
            return Ok(known);
        }
        let takes = self.ask("ask for ranges", "REST", b"0").await?.code == 350;
        *self.known.rest.lock() = Some(takes);
        Ok(takes)
    }

    /// The length of a file.
    pub(super) async fn size(&mut self, path: &[u8]) -> Result<Size> {
        let doing = format!("ask for the length of {}", show(path));
        let reply = self.ask(&doing, "SIZE", path).await?;
        Ok(match (reply.is_done(), reply.number(), reply.code) {
            (true, Some(len), _) => Size::Is(len),
            (false, _, 550 | 551) => Size::NotThere,
            _ => Size::Unknown,
        })
    }

    /// The modification date of a file, in the form of the server.
    pub(super) async fn modified(&mut self, path: &[u8]) -> Result<Option<String>> {
        let doing = format!("ask for the date of {}", show(path));
        let reply = self.ask(&doing, "MDTM", path).await?;
        let text = String::from_utf8_lossy(reply.last_text()).into_owned();
        Ok(text.split_whitespace().next().filter(|_| reply.is_done()).and_then(stamp))
    }

    /// Changes to a folder.
    pub(super) async fn enter(&mut self, path: &[u8]) -> Result<Answer<()>> {
        let doing = format!("look for {}", show(path));
        let reply = self.ask(&doing, "CWD", path).await?;
        Ok(match reply.is_done() {
            true => Answer::Is(()),
            false => Answer::Refused(self.refusal(&doing, "CWD", reply)),
        })
    }

    /// The current folder.
    pub(super) async fn here(&mut self) -> Result<Vec<u8>> {
        let doing = "ask for the folder";
        let reply = self.ask(doing, "PWD", b"").await?;
        let quoted = if reply.is_done() { quoted(reply.last_text()) } else { None };
        quoted.ok_or_else(|| self.refusal(doing, "PWD", reply).into())
    }

    /// Starts a transfer at offset `start`. `EPSV` is tried first. A server may not know it, forbid it, or name a port
    /// that cannot be reached; then `PASV` is tried.
    pub(super) async fn begin(
        &mut self,
        command: &str,
        path: &[u8],
        start: u64,
    ) -> Result<Answer<Transfer>> {
        let doing = match command {
            "RETR" => format!("get {}", show(path)),
            _ => "list a folder".to_owned(),
        };
        let stream = match self.data_connection(&doing).await? {
            Answer::Is(stream) => stream,
            Answer::Refused(refusal) => return Ok(Answer::Refused(refusal)),
        };
        if start > 0 {
            let reply = self.ask(&doing, "REST", start.to_string().as_bytes()).await?;
            if reply.code != 350 {
                return Ok(Answer::Refused(self.refusal(&doing, "REST", reply)));
            }
        }
        let reply = self.ask(&doing, command, path).await?;
        if !reply.is_preliminary() && !reply.is_done() {
            return Ok(Answer::Refused(self.refusal(&doing, command, reply)));
        }
        let stream = self.connected(stream, &doing).await?;
        self.proven = true;
        let mut data: Data = Box::new(stream);
        if let Some(tls) = &self.tls {
            let secured = async {
                let doing = format!("TLS on a data connection from {}", self.address);
                secure(data, tls, &self.address.host).await.map_err(|e| no_tls(doing, e))
            };
            data = self.patience().connecting(|| doing, secured).await?;
        }
        Ok(Answer::Is(Transfer { data, announced: reply.bytes(), is_over: reply.is_done() }))
    }

    /// Opens a data connection. In active mode, listens for one and tells the server the address.
    async fn data_connection(&mut self, doing: &str) -> Result<Answer<Stream>> {
        match self.mode {
            Mode::Active => return self.listen(doing).await,
            Mode::Passive => return self.passive(doing, "PASV", passive_port).await,
            Mode::ExtendedPassive => {}
        }
        let first = self.passive(doing, "EPSV", extended_port).await;
        let may_not_do = match &first {
            Ok(Answer::Is(_)) => false,
            Ok(Answer::Refused(_)) => true,
            // The server still answers, but the port that it named cannot be reached.
            Err(e) => e.kind() == Kind::Network && self.is_in_step(IN_STEP).await,
        };
        if self.proven || !may_not_do {
            return first;
        }
        let second = match (self.passive(doing, "PASV", passive_port).await?, first) {
            (Answer::Refused(second), Ok(Answer::Refused(first))) => {
                return Ok(Answer::Refused(second.after(&first)));
            }
            (Answer::Refused(_), first) => return first,
            (second, _) => second,
        };
        self.mode = Mode::Passive;
        Ok(second)
    }

    async fn passive(
        &mut self,
        doing: &str,
        command: &str,
        port: fn(&[u8]) -> Option<u16>,
    ) -> Result<Answer<Stream>> {
        let reply = self.ask(doing, command, b"").await?;
        let port = if reply.is_done() { port(reply.last_text()) } else { None };
        let Some(port) = port else {
            return Ok(Answer::Refused(self.refusal(doing, command, reply)));
        };
        let mut to = self.control.peer;
        to.set_port(port);
        let stream = dial_data(&self.setup, &self.address, to).await?;
        Ok(Answer::Is(Stream::Made(stream)))
    }

    async fn listen(&mut self, doing: &str) -> Result<Answer<Stream>> {
        let failed = |e: io::Error| Error::new(Kind::Network, doing).because(e);
        let here = SocketAddr::new(self.control.local.ip(), 0);
        let listener = TcpListener::bind(here).await.map_err(failed)?;
        let command = port_command(listener.local_addr().map_err(failed)?);
        let (name, argument) = command.split_once(' ').unwrap_or_default();
        let reply = self.ask(doing, name, argument.as_bytes()).await?;
        Ok(match reply.is_done() {
            true => Answer::Is(Stream::Awaited(listener)),
            false => Answer::Refused(self.refusal(doing, name, reply)),
        })
    }

    /// The data connection; in active mode, waits until the server connects. Connections from other hosts are dropped.
    async fn connected(&self, stream: Stream, doing: &str) -> Result<TcpStream> {
        let listener = match stream {
            Stream::Made(stream) => return Ok(stream),
            Stream::Awaited(listener) => listener,
        };
        let server = self.control.peer.ip().to_canonical();
        let what = || format!("{doing}: a data connection from {}", self.address);
        let accepted = async {
            loop {
                let (stream, from) = listener.accept().await.map_err(|e| lost(what(), e))?;
                if from.ip().to_canonical() == server {
                    return Ok(stream);
                }
            }
        };
        self.patience().answer(what, accepted).await
    }

    /// Reads the final reply of a transfer that was read to its end; `None` if that reply has arrived before.
    pub(super) async fn end(&mut self, transfer: Transfer) -> Result<Option<Reply>> {
        let Transfer { data, is_over, .. } = transfer;
        drop(data);
        if is_over {
            return Ok(None);
        }
        let doing = format!("end of a transfer from {}", self.address);
        let control = &mut self.control;
        let reply = async { control.reply().await.map_err(|e| broken(&doing, e)) };
        let reply = self.setup.patience.answer(|| doing.clone(), reply).await?;
        match reply.code {
            200..=299 => Ok(Some(reply)),
            // The file existed when the transfer started, so the failure may be temporary.
            500.. => Err(Refusal::new(doing, "the server", reply).of_kind(Kind::Unavailable)),
            _ => Err(Refusal::new(doing, "the server", reply).into()),
        }
    }

    /// Tests by a transfer whether a file is empty: servers also report length 0 for files that are generated on
    /// request.
    pub(super) async fn is_empty(&mut self, path: &[u8]) -> Result<Answer<bool>> {
        match self.begin("RETR", path, 0).await? {
            Answer::Is(transfer) => Ok(Answer::Is(self.bytes_up_to(transfer, SMALL).await? == 0)),
            Answer::Refused(refusal) => Ok(Answer::Refused(refusal)),
        }
    }

    /// Counts the bytes of a transfer up to `most`, then cuts it off. Afterwards the session is ready for the next
    /// command.
    pub(super) async fn bytes_up_to(
        &mut self,
        mut transfer: Transfer,
        most: usize,
    ) -> Result<usize> {
        let doing = format!("read from {}", self.address);
        let mut buffer = vec![0; most];
        let mut came = 0;
        while came < most {
            let read = async {
                match transfer.data.read(&mut buffer[came..]).await {
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                    read => read.map_err(|e| lost(&doing, e)),
                }
            };
            match self.patience().answer(|| doing.clone(), read).await? {
                0 => {
                    self.end(transfer).await?;
                    return Ok(came);
                }
                len => came += len,
            }
        }
        drop(transfer);
        self.doubtful = true;
        if !self.is_in_step(IN_STEP).await {
            let address = self.address.clone();
            *self = Self::open(&self.setup, &address, Arc::clone(&self.known)).await?;
        }
        Ok(came)
    }
}

/// Files shorter than this many bytes are read to the end instead of cut off. Servers need a while to recover from a
/// cut.
const SMALL: usize = 16 << 10;
/// Timeout of the test whether a session is still usable.
pub(super) const IN_STEP: Duration = Duration::from_secs(5);

/// A data connection before the transfer starts.
enum Stream {
    Made(TcpStream),
    Awaited(TcpListener),
}

/// Formats a path for error messages.
pub(super) fn show(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

/// The quoted path in a reply such as `"/a ""b"" c" is the current directory`.
fn quoted(text: &[u8]) -> Option<Vec<u8>> {
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
pub(super) fn stamp(text: &str) -> Option<String> {
    let digits = text.get(..14)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.to_owned())
}

/// A file with the metadata that the server reports.
pub(super) fn remote(url: Url, len: Option<u64>, modified: Option<String>, ranges: bool) -> Remote {
    let date = modified.as_deref().and_then(date);
    let validator = modified.zip(len).map(|(date, len)| Validator::Modified(date, len));
    Remote { len, ranges, validator, modified: date, ..Remote::at(url) }
}

/// The time of a [`stamp`], which is in UTC.
fn date(stamp: &str) -> Option<SystemTime> {
    let time = NaiveDateTime::parse_from_str(stamp, "%Y%m%d%H%M%S").ok()?;
    let seconds = u64::try_from(time.and_utc().timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_fourteen_digits_in_utc() {
        let of = |text: &str| stamp(text).and_then(|stamp| date(&stamp));
        let seconds = |s| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(of("20261127030405.123"), seconds(1_795_748_645));
        assert_eq!(of("19700101000000"), seconds(0));
        for none in ["", "2026112703040", "20261327030405", "19691231235959", "2026-11-27 030405"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn a_folder_is_what_stands_in_quotes() {
        let of = |text: &str| quoted(text.as_bytes()).map(|path| String::from_utf8(path).unwrap());
        assert_eq!(of("\"/a b\" is current"), Some("/a b".into()));
        assert_eq!(of("\"/a \"\"b\"\"\""), Some("/a \"b\"".into()));
        assert_eq!(of("\"/\""), Some("/".into()));
        assert_eq!(of("/a"), None);
        assert_eq!(of("\"/a"), None);
    }
}
