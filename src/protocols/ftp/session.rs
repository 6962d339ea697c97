//! One control connection: signed in, set to binary, and the questions asked on it.

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

/// The connection that bytes come by.
pub(super) type Data = Box<dyn Connection>;

/// What all sessions of a protocol are opened by.
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

    /// For one session and its data connections.
    pub(super) async fn tls(&self) -> Result<TlsConfig> {
        let make = || async { tls::client_config(self.options.cacert.as_deref()) };
        let config = self.tls.get_or_try_init(make).await?;
        Ok(tls::with_sessions(config))
    }
}

/// What was found out about a server and login; the same for all sessions there.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Somebody got in with this login.
    pub(super) signed_in: AtomicBool,
    /// Whether a transfer can begin in the middle, once that was asked or tried.
    pub(super) rest: Mutex<Option<bool>>,
    /// Which offsets a transfer really began at.
    pub(super) proof: tokio::sync::Mutex<Proof>,
}

/// A server's features that matter here.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Features {
    pub(super) mlsd: bool,
}

/// How data connections are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Active,
    ExtendedPassive,
    Passive,
}

/// A session that is signed in.
pub(super) struct Session {
    control: Control,
    tls: Option<TlsConfig>,
    setup: Arc<Setup>,
    pub(super) address: Address,
    pub(super) known: Arc<Known>,
    /// Once they were asked for.
    features: Option<Features>,
    mode: Mode,
    /// The server has given a data connection in this mode.
    proven: bool,
    /// Hung up on in the middle of a transfer: answers to that may still be on their way.
    pub(super) doubtful: bool,
    pub(super) used: Instant,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A transfer that has begun.
pub(super) struct Transfer {
    pub(super) data: Data,
    /// How many bytes it has, where the reply says so.
    pub(super) announced: Option<u64>,
    /// The server has said already that it is over: no reply follows.
    is_over: bool,
}

/// What a server said to a command: connections that broke are errors.
pub(super) enum Answer<T> {
    Is(T),
    Refused(Refusal),
}

/// What is known of the length of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Is(u64),
    /// The server does not tell lengths, or not of this.
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
    /// Connects and signs in.
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

    /// One command's reply, within the time that a server may be silent. `421` is an error: the server hangs up.
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
        tracing::trace!("{}: {name}: {}", self.address, reply.said());
        if reply.code == 421 {
            return Err(Refusal::new(doing, name, reply).into());
        }
        Ok(reply)
    }

    fn refusal(&self, doing: &str, command: &str, reply: Reply) -> Refusal {
        Refusal::new(format!("{doing} on {}", self.address), command, reply)
    }

    /// Whether it still answers, and only to what it is asked. A transfer that was hung up on has its own reply, which may
    /// come before or after that to another command: it is heard first.
    pub(super) async fn is_in_step(&mut self, limit: Duration) -> bool {
        let doubtful = self.doubtful;
        let control = &mut self.control;
        let noop = async {
            if doubtful {
                control.reply().await.ok()?;
            }
            control.send(b"NOOP").await.ok()?;
            // Some say that it was aborted, and then that it is over.
            let most = if doubtful { 3 } else { 1 };
            for _ in 0..most {
                match control.reply().await.ok()?.code {
                    421 => return None,
                    // Any answer is one, where there is nothing else that it could be to.
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

    /// What the server can do. With it names are UTF-8 from then on.
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
            // Some servers give and take names in another encoding until they are told. No answer matters.
            self.ask("choose UTF-8", "OPTS", b"UTF8 ON").await?;
        }
        Ok(Features { mlsd: has("mlst") || has("mlsd") })
    }

    /// Whether a transfer can begin in the middle. Asked once: what the features say is not always done.
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

    /// When a file was last changed, in the server's words.
    pub(super) async fn modified(&mut self, path: &[u8]) -> Result<Option<String>> {
        let doing = format!("ask for the date of {}", show(path));
        let reply = self.ask(&doing, "MDTM", path).await?;
        let text = String::from_utf8_lossy(reply.last_text()).into_owned();
        Ok(text.split_whitespace().next().filter(|_| reply.is_done()).and_then(stamp))
    }

    /// Goes into a folder.
    pub(super) async fn enter(&mut self, path: &[u8]) -> Result<Answer<()>> {
        let doing = format!("look for {}", show(path));
        let reply = self.ask(&doing, "CWD", path).await?;
        Ok(match reply.is_done() {
            true => Answer::Is(()),
            false => Answer::Refused(self.refusal(&doing, "CWD", reply)),
        })
    }

    /// The folder that it is in.
    pub(super) async fn here(&mut self) -> Result<Vec<u8>> {
        let doing = "ask for the folder";
        let reply = self.ask(doing, "PWD", b"").await?;
        let quoted = if reply.is_done() { quoted(reply.last_text()) } else { None };
        quoted.ok_or_else(|| self.refusal(doing, "PWD", reply).into())
    }

    /// Begins a transfer at `start`. `EPSV` is tried first: servers that do not know it say so, others forbid it, or give
    /// a port that cannot be reached; then `PASV` may do.
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

    /// A data connection, or where the server is to make it.
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
            // The server is there, and where it wants us to come is not.
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

    /// The stream, once the server has connected where it was told to. Nobody else is let in.
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

    /// Hears the end of a transfer that was read to its end; what the server says of it, where it still has to.
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
            // The file was there when the transfer began.
            500.. => Err(Refusal::new(doing, "the server", reply).of_kind(Kind::Unavailable)),
            _ => Err(Refusal::new(doing, "the server", reply).into()),
        }
    }

    /// Whether a file has no bytes, as a transfer of it shows: servers say length 0 also of what they make on request.
    pub(super) async fn is_empty(&mut self, path: &[u8]) -> Result<Answer<bool>> {
        match self.begin("RETR", path, 0).await? {
            Answer::Is(transfer) => Ok(Answer::Is(self.bytes_up_to(transfer, SMALL).await? == 0)),
            Answer::Refused(refusal) => Ok(Answer::Refused(refusal)),
        }
    }

    /// How many bytes come by a transfer, counted up to `most`; then it is hung up on. The session is ready for the next
    /// command afterwards.
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

/// A file of fewer bytes is read to its end rather than hung up on, which takes servers a while to get over.
const SMALL: usize = 16 << 10;
/// For the answer that says a session is still of use.
pub(super) const IN_STEP: Duration = Duration::from_secs(5);

/// A data connection before the transfer begins.
enum Stream {
    Made(TcpStream),
    Awaited(TcpListener),
}

/// A path as errors show it.
pub(super) fn show(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

/// The path in `"/a ""b"" c" is the current directory`.
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

/// The first 14 digits of a date, down to the second: what MLSD and MDTM both give.
pub(super) fn stamp(text: &str) -> Option<String> {
    let digits = text.get(..14)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.to_owned())
}

/// A file of which the server says this much.
pub(super) fn remote(url: Url, len: Option<u64>, modified: Option<String>, ranges: bool) -> Remote {
    let date = modified.as_deref().and_then(date);
    let validator = modified.zip(len).map(|(date, len)| Validator::Modified(date, len));
    Remote { len, ranges, validator, modified: date, ..Remote::at(url) }
}

/// The time that a [`stamp`] is, which is in UTC.
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
