//! One control connection: signed in, set to binary, and the questions asked on it.

use std::{
    io,
    pin::Pin,
    time::{Duration, Instant, SystemTime},
};

use chrono::NaiveDateTime;
use suppaftp::{
    FtpError, FtpResult, Mode, Status,
    tokio::{ImplAsyncFtpStream, TransferStream},
    types::FileType,
};
use tokio::{net::TcpStream, sync::OnceCell};
use url::Url;

use super::{
    address::{Address, Security},
    errors::{failure, is_not_there, is_unknown_command, reply_code},
    flushed::{Connector, TlsStream},
};
use crate::{
    config::Proxy,
    error::{Error, Kind, Result},
    protocols::{FetchOptions, Outgoing, Remote, Validator, dial::dial, patience::Patience, tls},
};

/// The connection that bytes come by.
pub(super) type Data = TransferStream<TlsStream>;

type Ftp = ImplAsyncFtpStream<TlsStream>;

/// What all sessions of a protocol are opened by.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) options: std::sync::Arc<FetchOptions>,
    pub(super) patience: Patience,
    tls: OnceCell<TlsConfig>,
}

type TlsConfig = std::sync::Arc<rustls::ClientConfig>;

impl Setup {
    pub(super) fn new(options: &std::sync::Arc<FetchOptions>) -> Self {
        let patience = Patience::of(options);
        Self { options: options.clone(), patience, tls: OnceCell::new() }
    }

    async fn connector(&self) -> Result<Connector> {
        let make = || async { tls::client_config(self.options.cacert.as_deref()) };
        let config = self.tls.get_or_try_init(make).await?;
        Ok(Connector::new(tls::with_sessions(config)))
    }
}

/// A server's features that matter here.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Features {
    pub(super) mlsd: bool,
    pub(super) rest: bool,
}

/// A session that is signed in.
pub(super) struct Session {
    ftp: Ftp,
    pub(super) address: Address,
    patience: Patience,
    /// Once they were asked for.
    features: Option<Features>,
    /// How data connections are made, unless the server does not know that.
    mode: Mode,
    /// The server has given a data connection in the way that it is asked for one.
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

impl Session {
    /// Connects and signs in.
    ///
    /// # Errors
    /// As [`Protocol::probe`](crate::protocols::Protocol::probe).
    pub(super) async fn open(setup: &Setup, address: &Address) -> Result<Self> {
        let signed_in = async {
            let mut ftp = connect(setup, address).await?;
            let doing = || format!("sign in to {address}");
            ftp.login(&address.user, &address.password).await.map_err(|e| failure(doing(), e))?;
            ftp.transfer_type(FileType::Binary).await.map_err(|e| failure(doing(), e))?;
            Ok(ftp)
        };
        let connecting = || format!("connect to {address}");
        let mut ftp = setup.patience.connecting(connecting, signed_in).await?;
        let (address, patience) = (address.clone(), setup.patience);
        let (features, proven, doubtful) = (None, false, false);
        let used = Instant::now();
        let mode = if setup.options.ftp_active { Mode::Active } else { Mode::ExtendedPassive };
        ftp.set_passive_nat_workaround(true);
        ftp.set_mode(mode);
        Ok(Self { ftp, address, patience, features, mode, proven, doubtful, used })
    }

    /// One command's answer, within the time that a server may be silent.
    async fn ask<T>(
        &mut self,
        doing: impl Fn() -> String,
        command: impl AsyncFnOnce(&mut Ftp) -> FtpResult<T>,
    ) -> Result<Answer<T>> {
        let address = self.address.clone();
        let doing = || format!("{} on {address}", doing());
        let asked = async { Ok(command(&mut self.ftp).await) };
        match self.patience.answer(doing, asked).await? {
            Ok(answer) => Ok(Answer::Is(answer)),
            Err(e) if reply_code(&e).is_some_and(|code| code != 421) => {
                Ok(Answer::Refused(Refusal { doing: doing(), why: e }))
            }
            Err(e) => Err(failure(doing(), e)),
        }
    }

    /// Whether it still answers, and only to what it is asked. Takes one round trip.
    pub(super) async fn is_in_step(&mut self, limit: Duration) -> bool {
        let sound = matches!(tokio::time::timeout(limit, self.ftp.noop()).await, Ok(Ok(())));
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
        // No answer is the one that is waited for, so that the answer comes whole: read by the library as a list of
        // features, one with an empty line in it (rclone's) is none.
        let feat = async |ftp: &mut Ftp| ftp.custom_command("FEAT", &[Status::Help]).await;
        let answer = self.ask(|| "ask for features".into(), feat).await?;
        let text = match &answer {
            Answer::Refused(refusal) => refusal.text_of(211),
            Answer::Is(_) => None,
        };
        let Some(text) = text else { return Ok(Features::default()) };
        let features: Vec<String> = text.lines().map(|line| line.trim().to_uppercase()).collect();
        if features.iter().any(|name| name == "UTF8") {
            // Some servers give and take names in another encoding until they are told. No answer matters.
            let utf8 = async |ftp: &mut Ftp| ftp.opts("UTF8", Some("ON")).await;
            self.ask(|| "choose UTF-8".into(), utf8).await?;
        }
        let has = |name: &str| features.iter().any(|feature| feature.starts_with(name));
        Ok(Features { mlsd: has("MLST") || has("MLSD"), rest: has("REST") })
    }

    /// Whether a transfer can begin in the middle.
    pub(super) async fn takes_rest(&mut self) -> Result<bool> {
        let rest =
            async |ftp: &mut Ftp| ftp.custom_command("REST 0", &[Status::RequestFilePending]).await;
        Ok(matches!(self.ask(|| "ask for ranges".into(), rest).await?, Answer::Is(_)))
    }

    /// The length of a file; `None` for what is none, or where the server does not tell lengths.
    pub(super) async fn size(&mut self, path: &str) -> Result<Option<u64>> {
        let size = async |ftp: &mut Ftp| ftp.size(path).await;
        match self.ask(|| format!("ask for the length of {path:?}"), size).await? {
            Answer::Is(len) => Ok(Some(len as u64)),
            Answer::Refused(_) => Ok(None),
        }
    }

    /// When a file was last changed, in the server's words.
    pub(super) async fn modified(&mut self, path: &str) -> Result<Option<String>> {
        let line = format!("MDTM {path}");
        let mdtm = async |ftp: &mut Ftp| ftp.custom_command(line, &[Status::File]).await;
        let answer = self.ask(|| format!("ask for the date of {path:?}"), mdtm).await?;
        let Answer::Is(reply) = answer else { return Ok(None) };
        let text = String::from_utf8_lossy(&reply.body);
        Ok(text.split_whitespace().nth(1).and_then(stamp))
    }

    /// Goes into a folder; `None` is where the login began.
    pub(super) async fn enter(&mut self, path: &str) -> Result<Answer<()>> {
        let cwd = async |ftp: &mut Ftp| ftp.cwd(path).await;
        self.ask(|| format!("look for {path:?}"), cwd).await
    }

    /// The folder that it is in.
    pub(super) async fn here(&mut self) -> Result<String> {
        let pwd = async |ftp: &mut Ftp| ftp.pwd().await;
        match self.ask(|| "ask for the folder".into(), pwd).await? {
            Answer::Is(path) => Ok(path),
            Answer::Refused(refusal) => Err(refusal.into()),
        }
    }

    /// Begins a transfer at `start`. Where the server refuses before `EPSV` was ever of use (servers that do not know it
    /// say so, those that were told to forbid it give the answer for files that may not be read), `PASV` is tried.
    pub(super) async fn begin(&mut self, command: &str, start: u64) -> Result<Answer<Data>> {
        let first = self.begin_once(command, start).await?;
        let Answer::Refused(refusal) = first else {
            self.proven = true;
            return Ok(first);
        };
        if self.proven || !(refusal.is_unknown_command() || refusal.is_not_there()) {
            return Ok(Answer::Refused(refusal));
        }
        self.ftp.set_mode(Mode::Passive);
        let second = self.begin_once(command, start).await?;
        if let Answer::Is(_) = second {
            self.proven = true;
            return Ok(second);
        }
        self.ftp.set_mode(self.mode);
        // The second was about the file only if the first was not.
        Ok(if refusal.is_unknown_command() { second } else { Answer::Refused(refusal) })
    }

    async fn begin_once(&mut self, command: &str, start: u64) -> Result<Answer<Data>> {
        let start = usize::try_from(start).map_err(|e| {
            Error::new(Kind::InvalidInput, format!("byte {start} of a file")).because(e)
        })?;
        let begin = async |ftp: &mut Ftp| {
            ftp.resume_transfer(start).await?;
            ftp.custom_data_command(command, &[Status::AboutToSend, Status::AlreadyOpen]).await
        };
        Ok(match self.ask(|| format!("get {command:?}"), begin).await? {
            Answer::Is((_, data)) => Answer::Is(data),
            Answer::Refused(refusal) => Answer::Refused(refusal),
        })
    }

    /// Hears the end of a transfer that was read to its end.
    pub(super) async fn end(&mut self, data: Data) -> Result<()> {
        let place = self.address.to_string();
        let doing = || format!("end of a transfer from {place}");
        let end = async { data.finish().await.map_err(|e| failure(doing(), e)) };
        self.patience.answer(doing, end).await
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }
}

/// What a server said to a command: connections that broke are errors.
pub(super) enum Answer<T> {
    Is(T),
    Refused(Refusal),
}

pub(super) struct Refusal {
    doing: String,
    why: FtpError,
}

impl Refusal {
    pub(super) fn is_not_there(&self) -> bool {
        is_not_there(&self.why)
    }

    pub(super) fn is_unknown_command(&self) -> bool {
        is_unknown_command(&self.why)
    }

    /// What the answer says, where it has this code.
    fn text_of(&self, code: u32) -> Option<String> {
        match &self.why {
            FtpError::UnexpectedResponse(reply) if reply_code(&self.why) == Some(code) => {
                Some(String::from_utf8_lossy(&reply.body).into_owned())
            }
            _ => None,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        failure(refusal.doing, refusal.why)
    }
}

async fn connect(setup: &Setup, address: &Address) -> Result<Ftp> {
    let doing = || format!("connect to {address}");
    let at = (address.host.as_str(), address.port);
    if address.security == Security::Implicit {
        if setup.options.proxy.is_some() {
            return Err(Error::new(Kind::Unsupported, "ftps:// does not go through a proxy")
                .hint("ftpes:// does, where the server knows it"));
        }
        let connector = setup.connector().await?;
        let ftp = Ftp::connect_secure_implicit(at, connector, &address.host).await;
        let mut ftp = ftp.map_err(|e| failure(doing(), e))?;
        // The data connections too. Where this is so anyway, the commands may be unknown.
        for command in ["PBSZ 0", "PROT P"] {
            match ftp.custom_command(command, &[Status::CommandOk]).await {
                Err(e) if !is_unknown_command(&e) => return Err(failure(doing(), e)),
                _ => {}
            }
        }
        return Ok(ftp);
    }
    let proxy = setup.options.proxy.clone();
    let outgoing = &setup.options.outgoing;
    let stream = dial(&address.host, address.port, proxy.as_ref(), outgoing).await;
    let ftp = Ftp::connect_with_stream(stream.map_err(|e| e.within(doing()))?).await;
    let mut ftp = ftp.map_err(|e| failure(doing(), e))?;
    if proxy.is_some() || outgoing.interface.is_some() || outgoing.only_public {
        let (host, outgoing) = (address.host.clone(), outgoing.clone());
        ftp = ftp.passive_stream_builder(move |at| {
            data_connection(host.clone(), at.port(), proxy.clone(), outgoing.clone())
        });
    }
    if address.security == Security::Plain {
        return Ok(ftp);
    }
    let secure = ftp.into_secure(setup.connector().await?, &address.host).await;
    let doing = format!("begin TLS with {address}");
    secure.map_err(|e| match e {
        FtpError::UnexpectedResponse(_) => Error::new(Kind::Unsupported, doing.clone())
            .because(failure(doing, e))
            .hint("ftp:// goes without, and shows the password to everybody on the way"),
        e => failure(doing, e),
    })
}

/// A data connection, to the host of the control connection whatever address the server gives. On a task of its own,
/// since the library wants to share what it waits for.
fn data_connection(
    host: String,
    port: u16,
    proxy: Option<Proxy>,
    outgoing: Outgoing,
) -> DataConnecting {
    let dialing = tokio::spawn(async move { dial(&host, port, proxy.as_ref(), &outgoing).await });
    Box::pin(async move {
        let dialed =
            dialing.await.map_err(io::Error::other).and_then(|d| d.map_err(io::Error::other));
        dialed.map_err(FtpError::ConnectionError)
    })
}

type DataConnecting = Pin<Box<dyn Future<Output = FtpResult<TcpStream>> + Send + Sync>>;

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
}
