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
    /// The reply that opens a transfer; `None`: `150 here`.
    pub(crate) opening: Option<&'static str>,
    /// The reply after a listing, if unusual.
    pub(crate) closing: Option<&'static str>,
    /// The maximum number of sessions, and the reply to `PASS` in a session beyond it.
    pub(crate) most: Option<(usize, &'static str)>,
    /// `REST` is acknowledged and ignored.
    pub(crate) ignores_rest: bool,
    /// The maximum bytes of a transfer. A truncated transfer is reported as successful.
    pub(crate) most_bytes: Option<usize>,
    /// `SIZE`, `MDTM` and `FEAT` are unknown: only `RETR` shows that a file exists.
    pub(crate) knows_only_retr: bool,
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
    over: Arc<AtomicBool>,
}

impl ScriptedFtp {
    fn start(odd: Oddities) -> Self {
        let addr = ports::own();
        let listener = TcpListener::bind(addr).unwrap();
        let (commands, over) = (Arc::<Mutex<Vec<String>>>::default(), Arc::default());
        let (seen, ends) = (Arc::clone(&commands), Arc::<AtomicBool>::clone(&over));
        let (odd, inside) = (Arc::new(odd), Arc::new(AtomicUsize::new(0)));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ends.load(Ordering::Acquire) {
                    return;
                }
                let (odd, seen, inside) =
                    (Arc::clone(&odd), Arc::clone(&seen), Arc::clone(&inside));
                thread::spawn(move || {
                    let number = inside.fetch_add(1, Ordering::AcqRel) + 1;
                    let folder = "/".to_owned();
                    let mut session =
                        Session { odd, seen, stream, number, folder, rest: 0, data: None };
                    // An error means that the client closed the connection.
                    let _ = session.serve();
                    inside.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
        Self { addr, commands, over }
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
        self.over.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.addr);
    }
}

struct Session {
    odd: Arc<Oddities>,
    seen: Arc<Mutex<Vec<String>>>,
    stream: TcpStream,
    /// The number of open sessions when this one began, itself included.
    number: usize,
    folder: String,
    rest: usize,
    data: Option<TcpListener>,
}

impl Session {
    fn serve(&mut self) -> std::io::Result<()> {
        self.say(self.odd.greeting.unwrap_or("220 ready"))?;
        let mut lines = BufReader::new(self.stream.try_clone()?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            self.seen.lock().unwrap().push(text.clone());
            let (command, word) = text.split_once(' ').unwrap_or((&text, ""));
            self.answer(&command.to_uppercase(), word)?;
            line.clear();
        }
        Ok(())
    }

    fn say(&mut self, text: &str) -> std::io::Result<()> {
        self.stream.write_all(format!("{text}\r\n").as_bytes())
    }

    fn answer(&mut self, command: &str, word: &str) -> std::io::Result<()> {
        let odd = Arc::clone(&self.odd);
        if let Some(reply) = odd.replies.get(command) {
            let filled = self.filled(reply);
            return self.say(&filled);
        }
        let path = self.path(word);
        let file = odd.files.get(&path);
        let not_there = "550 no such file";
        let only_retr = odd.knows_only_retr && matches!(command, "SIZE" | "MDTM" | "FEAT");
        match (command, file) {
            _ if only_retr => self.say("500 unknown"),
            ("USER", _) => self.say("331 password"),
            ("PASS", _) => match odd.most {
                Some((most, refusal)) if self.number > most => self.say(refusal),
                _ => self.say("230 in"),
            },
            ("TYPE" | "OPTS" | "NOOP", _) => self.say("200 ok"),
            ("FEAT", _) => self.say("211-Features\r\n SIZE\r\n MDTM\r\n REST STREAM\r\n211 End"),
            ("PWD", _) => self.say(&format!("257 \"{}\"", self.folder.clone())),
            ("CWD", _) => {
                let inside = format!("{}/", path.trim_end_matches('/'));
                if odd.files.keys().any(|file| file.starts_with(&inside)) {
                    self.folder = path;
                    return self.say("250 ok");
                }
                self.say(not_there)
            }
            ("SIZE", Some(file)) => self.say(&format!("213 {}", file.len())),
            ("MDTM", Some(_)) => self.say("213 20200102030405"),
            ("REST", _) => {
                self.rest = if odd.ignores_rest { 0 } else { word.parse().unwrap() };
                self.say("350 ok")
            }
            ("EPSV", _) => {
                let filled = self.filled("229 ok (|||{port}|)");
                self.say(&filled)
            }
            ("PASV", _) => {
                let filled = self.filled("227 ok (127,0,0,1,{high},{low})");
                self.say(&filled)
            }
            ("RETR", Some(file)) => {
                let start = std::mem::take(&mut self.rest).min(file.len());
                let end = odd.most_bytes.map_or(file.len(), |most| file.len().min(start + most));
                self.send(&file[start..end])
            }
            ("LIST", _) => self.send_ending(&odd.list, odd.closing),
            ("MLSD", _) if odd.mlsd.is_some() => {
                self.send_ending(odd.mlsd.as_deref().unwrap(), odd.closing)
            }
            ("SIZE" | "MDTM" | "RETR", None) => self.say(not_there),
            _ => self.say("500 unknown"),
        }
    }

    fn filled(&mut self, reply: &str) -> String {
        if !reply.contains(['{']) {
            return reply.to_owned();
        }
        let here = self.stream.local_addr().unwrap().ip();
        let listener = TcpListener::bind((here, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        self.data = Some(listener);
        reply
            .replace("{port}", &port.to_string())
            .replace("{high}", &(port >> 8).to_string())
            .replace("{low}", &(port & 0xff).to_string())
    }

    fn path(&self, word: &str) -> String {
        if word.starts_with('/') {
            return word.to_owned();
        }
        format!("{}/{word}", self.folder.trim_end_matches('/'))
    }

    fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.send_ending(bytes, None)
    }

    fn send_ending(&mut self, bytes: &[u8], closing: Option<&'static str>) -> std::io::Result<()> {
        let Some(listener) = self.data.take() else { return self.say("425 no data connection") };
        self.say(self.odd.opening.unwrap_or("150 here"))?;
        let (mut data, _) = listener.accept()?;
        let sent = data.write_all(bytes);
        drop(data);
        self.say(if sent.is_ok() { closing.unwrap_or("226 done") } else { "426 aborted" })
    }
}
