//! An FTP server with the oddities that a test sets, for behaviour that is rare with real servers. All other
//! commands get the standard reply.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use super::ports;

/// The oddities of a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Oddities {
    /// Contents by absolute path.
    pub(crate) files: HashMap<String, Vec<u8>>,
    /// Replies by command. `{port}` is replaced by the port of a new data connection, `{high}` and `{low}` by its
    /// two bytes.
    pub(crate) replies: HashMap<&'static str, String>,
    /// What `LIST` sends, with and without `-a`.
    pub(crate) list: Vec<u8>,
    /// What `MLSD` sends; `None`: the server does not know `MLSD`.
    pub(crate) mlsd: Option<Vec<u8>>,
    pub(crate) greeting: Option<&'static str>,
    /// The reply that opens a transfer; `None`: `150 ok`.
    pub(crate) opening: Option<&'static str>,
    /// The reply after a listing, if unusual.
    pub(crate) closing: Option<&'static str>,
    /// The maximum number of sessions, and the reply to `PASS` in a session beyond it.
    pub(crate) session_limit: Option<(usize, &'static str)>,
    /// `REST` is acknowledged and ignored.
    pub(crate) ignores_rest: bool,
    /// The maximum bytes of a transfer. A truncated transfer is reported as successful.
    pub(crate) transfer_limit: Option<usize>,
    /// `SIZE`, `MDTM` and `FEAT` are unknown: only `RETR` shows that a file exists.
    pub(crate) only_retr: bool,
}

impl Oddities {
    /// A server with one file and one odd reply.
    pub(crate) fn reply(path: &str, bytes: &[u8], command: &'static str, reply: &str) -> Self {
        Self::file(path, bytes).with(command, reply)
    }

    pub(crate) fn file(path: &str, bytes: &[u8]) -> Self {
        Self::default().and_file(path, bytes)
    }

    pub(crate) fn and_file(mut self, path: &str, bytes: &[u8]) -> Self {
        self.files.insert(path.to_owned(), bytes.to_vec());
        self
    }

    pub(crate) fn with(mut self, command: &'static str, reply: &str) -> Self {
        self.replies.insert(command, reply.to_owned());
        self
    }

    pub(crate) fn listing(self, list: &[u8]) -> Self {
        Self { list: list.to_vec(), ..self }
    }

    pub(crate) fn start(self) -> ScriptedFtp {
        ScriptedFtp::start(self)
    }
}

/// A running server. Dropping it ends accepting connections.
#[derive(Debug)]
pub(crate) struct ScriptedFtp {
    addr: SocketAddrV4,
    commands: Arc<Mutex<Vec<String>>>,
    stopped: Arc<AtomicBool>,
}

impl ScriptedFtp {
    fn start(oddities: Oddities) -> Self {
        let addr = ports::unused();
        let listener = TcpListener::bind(addr).unwrap();
        let (commands, stopped) = (Arc::<Mutex<Vec<String>>>::default(), Arc::default());
        let (received, is_stopped) = (Arc::clone(&commands), Arc::<AtomicBool>::clone(&stopped));
        let (oddities, sessions) = (Arc::new(oddities), Arc::new(AtomicUsize::new(0)));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if is_stopped.load(Ordering::Acquire) {
                    return;
                }
                let (oddities, received, sessions) =
                    (Arc::clone(&oddities), Arc::clone(&received), Arc::clone(&sessions));
                thread::spawn(move || {
                    let sessions_at_start = sessions.fetch_add(1, Ordering::AcqRel) + 1;
                    let folder = "/".to_owned();
                    let mut session = Session {
                        oddities,
                        received,
                        stream,
                        sessions_at_start,
                        folder,
                        rest: 0,
                        data: None,
                    };
                    // An error means that the client closed the connection.
                    let _ = session.serve();
                    sessions.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
        Self { addr, commands, stopped }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("ftp://{}{path}", self.addr)
    }

    /// All commands so far, of all sessions.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.commands.lock().unwrap().clone()
    }
}

impl Drop for ScriptedFtp {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.addr);
    }
}

struct Session {
    oddities: Arc<Oddities>,
    received: Arc<Mutex<Vec<String>>>,
    stream: TcpStream,
    /// The number of open sessions when this one began, itself included.
    sessions_at_start: usize,
    folder: String,
    rest: usize,
    data: Option<TcpListener>,
}

impl Session {
    fn serve(&mut self) -> std::io::Result<()> {
        self.reply(self.oddities.greeting.unwrap_or("220 ready"))?;
        let mut lines = BufReader::new(self.stream.try_clone()?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            self.received.lock().unwrap().push(text.clone());
            let (command, argument) = text.split_once(' ').unwrap_or((&text, ""));
            self.answer(&command.to_uppercase(), argument)?;
            line.clear();
        }
        Ok(())
    }

    fn reply(&mut self, text: &str) -> std::io::Result<()> {
        self.stream.write_all(format!("{text}\r\n").as_bytes())
    }

    fn answer(&mut self, command: &str, argument: &str) -> std::io::Result<()> {
        let oddities = Arc::clone(&self.oddities);
        if let Some(reply) = oddities.replies.get(command) {
            let reply_with_port = self.with_data_port(reply);
            return self.reply(&reply_with_port);
        }
        let path = self.path(argument);
        let file = oddities.files.get(&path);
        let not_found = "550 no such file";
        let only_retr = oddities.only_retr && matches!(command, "SIZE" | "MDTM" | "FEAT");
        match (command, file) {
            _ if only_retr => self.reply("500 unknown"),
            ("USER", _) => self.reply("331 password"),
            ("PASS", _) => match oddities.session_limit {
                Some((limit, refusal)) if self.sessions_at_start > limit => self.reply(refusal),
                _ => self.reply("230 logged in"),
            },
            ("TYPE" | "OPTS" | "NOOP", _) => self.reply("200 ok"),
            ("FEAT", _) => self.reply("211-Features\r\n SIZE\r\n MDTM\r\n REST STREAM\r\n211 End"),
            ("PWD", _) => self.reply(&format!("257 \"{}\"", self.folder.clone())),
            ("CWD", _) => {
                let prefix = format!("{}/", path.trim_end_matches('/'));
                if oddities.files.keys().any(|file| file.starts_with(&prefix)) {
                    self.folder = path;
                    return self.reply("250 ok");
                }
                self.reply(not_found)
            }
            ("SIZE", Some(file)) => self.reply(&format!("213 {}", file.len())),
            ("MDTM", Some(_)) => self.reply("213 20200102030405"),
            ("REST", _) => {
                self.rest = if oddities.ignores_rest { 0 } else { argument.parse().unwrap() };
                self.reply("350 ok")
            }
            ("EPSV", _) => {
                let reply_with_port = self.with_data_port("229 ok (|||{port}|)");
                self.reply(&reply_with_port)
            }
            ("PASV", _) => {
                let reply_with_port = self.with_data_port("227 ok (127,0,0,1,{high},{low})");
                self.reply(&reply_with_port)
            }
            ("RETR", Some(file)) => {
                let start = std::mem::take(&mut self.rest).min(file.len());
                let end = oddities
                    .transfer_limit
                    .map_or(file.len(), |limit| file.len().min(start + limit));
                self.send(&file[start..end])
            }
            ("LIST", _) => self.send_ending(&oddities.list, oddities.closing),
            ("MLSD", _) if oddities.mlsd.is_some() => {
                self.send_ending(oddities.mlsd.as_deref().unwrap(), oddities.closing)
            }
            ("SIZE" | "MDTM" | "RETR", None) => self.reply(not_found),
            _ => self.reply("500 unknown"),
        }
    }

    fn with_data_port(&mut self, reply: &str) -> String {
        if !reply.contains(['{']) {
            return reply.to_owned();
        }
        let ip = self.stream.local_addr().unwrap().ip();
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        self.data = Some(listener);
        reply
            .replace("{port}", &port.to_string())
            .replace("{high}", &(port >> 8).to_string())
            .replace("{low}", &(port & 0xff).to_string())
    }

    fn path(&self, argument: &str) -> String {
        if argument.starts_with('/') {
            return argument.to_owned();
        }
        format!("{}/{argument}", self.folder.trim_end_matches('/'))
    }

    fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.send_ending(bytes, None)
    }

    fn send_ending(&mut self, bytes: &[u8], closing: Option<&'static str>) -> std::io::Result<()> {
        let Some(listener) = self.data.take() else { return self.reply("425 no data connection") };
        self.reply(self.oddities.opening.unwrap_or("150 ok"))?;
        let (mut data, _) = listener.accept()?;
        let sent = data.write_all(bytes);
        drop(data);
        self.reply(if sent.is_ok() { closing.unwrap_or("226 done") } else { "426 aborted" })
    }
}
