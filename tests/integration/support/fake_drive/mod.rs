//! A fake Google Drive v3 server that is stricter than the original.
//!
//! Google offers no Drive server for tests, so this one refuses everything that the documentation forbids and some
//! of what it advises against. Its upload sessions follow the rules of Google's storage-testbench, whose protocol
//! is the same: 308 without `Range` at 0 bytes, the total length bound to the session, multiples of 256 KiB before
//! the end, a status query that answers 200 once the file exists. Unlike the testbench it also refuses bytes out of
//! order.
//!
//! Every answer can be made to fail ([`Fault`]), and every request is counted.

mod files;
mod http;
mod oauth;
mod query;
mod uploads;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use http::Request;

pub(crate) const FOLDER: &str = "application/vnd.google-apps.folder";

/// The limits that the server enforces.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Creates per second, after a burst of 10. Creates above that rate are refused; `None` is no limit.
    pub(crate) creates_per_second: Option<f64>,
    pub(crate) units_per_minute: Option<u64>,
    /// The capacity of the account in bytes.
    pub(crate) quota: Option<u64>,
    /// The number of requests after which an upload session expires.
    pub(crate) session_requests: Option<u32>,
    /// The lifetime of an access token.
    pub(crate) token_life: Duration,
    /// The maximum number of files on a page of a listing.
    pub(crate) page_size: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            creates_per_second: None,
            units_per_minute: None,
            quota: None,
            session_requests: None,
            token_life: Duration::from_secs(3600),
            page_size: 100,
        }
    }
}

/// A fault.
#[derive(Debug, Clone)]
pub(crate) enum FaultKind {
    /// An error answer with this status and reason, and a `Retry-After` in seconds if given.
    Refuse(u16, &'static str, Option<u64>),
    /// The connection is closed after the head of the request.
    Reset,
    /// Only this many bytes of the request's body are read; they count. Then the connection is closed without an
    /// answer.
    CutBody(usize),
    /// The answer is delayed for this long.
    Stall(Duration),
    /// The request is not carried out, and gets no answer until the client closes the connection.
    Hold,
    /// The request is carried out, and gets no answer until the client closes the connection.
    HoldAnswer,
    /// The request is carried out, and the connection is closed without an answer.
    LoseAnswer,
    /// The answer ends after this many bytes of its body.
    CutAnswer(usize),
    /// One bit of the uploaded file is stored wrong.
    Corrupt,
    /// The upload session of the request expires before the request is handled.
    Expire,
    /// All access tokens expire before this request.
    ExpireTokens,
}

/// A [`FaultKind`] for the requests with this method (empty: any method) whose path and query contain `path`.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// The number of matching requests that succeed first.
    pub(crate) skip: u32,
    pub(crate) times: u32,
    pub(crate) kind: FaultKind,
}

/// The `path` of a [`Fault`] for requests to an upload session.
pub(crate) const SESSION: &str = "upload_id=";

#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) mime: String,
    pub(crate) parent: Option<String>,
    pub(crate) properties: BTreeMap<String, String>,
    pub(crate) trashed: bool,
    pub(crate) data: Arc<Vec<u8>>,
    pub(crate) md5: String,
    /// Position in the order of creation.
    pub(crate) created: u64,
    pub(crate) drive: Option<String>,
}

struct Session {
    description: serde_json::Value,
    id: String,
    total: u64,
    data: Vec<u8>,
    fields: Option<String>,
    completed: bool,
    requests: u32,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) requests: BTreeMap<String, u64>,
    pub(crate) units: u64,
    /// Body bytes that upload sessions received.
    pub(crate) received: u64,
    pub(crate) creates: Vec<Instant>,
    /// Requests with a [`Fault`].
    pub(crate) faults: u64,
    /// Requests that were held by [`FaultKind::Hold`] or [`FaultKind::HoldAnswer`].
    pub(crate) held: u64,
    /// Refused requests by reason.
    pub(crate) refused: BTreeMap<String, u64>,
}

struct State {
    rules: Rules,
    files: BTreeMap<String, File>,
    sessions: HashMap<String, Session>,
    issued: HashSet<String>,
    used: HashSet<String>,
    next: u64,
    faults: Vec<Fault>,
    counts: Counts,
    quota_window: (Instant, u64),
    create_tokens: (Instant, f64),
    oauth: oauth::State,
}

struct Shared {
    address: SocketAddr,
    state: Mutex<State>,
}

/// A running server. Its threads end with the test process.
#[derive(Clone)]
pub(crate) struct FakeDrive(Arc<Shared>);

impl std::fmt::Debug for FakeDrive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FakeDrive({})", self.0.address)
    }
}

/// An access token that is valid from the start and has no expiry.
const READY_TOKEN: &str = "ya29.ready-token-S3CR3T";
/// The prefix of the secret in every session URL.
pub(crate) const SESSION_SECRET: &str = "AHmUCY2-S3CR3T";
/// The prefix of every access token that the token server issues.
pub(crate) const TOKEN_SECRET: &str = "ya29.given-S3CR3T";
pub(crate) const REFRESH_TOKEN: &str = "1//refresh-S3CR3T";
pub(crate) const CLIENT_ID: &str = "4242.apps.googleusercontent.com";
pub(crate) const CLIENT_SECRET: &str = "GOCSPX-S3CR3T";

impl FakeDrive {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let now = Instant::now();
        let mut state = State {
            rules: Rules::default(),
            files: BTreeMap::new(),
            sessions: HashMap::new(),
            issued: HashSet::new(),
            used: HashSet::new(),
            next: 0,
            faults: Vec::new(),
            counts: Counts::default(),
            quota_window: (now, 0),
            create_tokens: (now, 10.0),
            oauth: oauth::State::new(READY_TOKEN),
        };
        state.add_folder("root-of-my-drive", "My Drive", None, None);
        let shared =
            Arc::new(Shared { address: listener.local_addr().unwrap(), state: Mutex::new(state) });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&accepting);
                thread::spawn(move || http::serve(&shared, stream));
            }
        });
        Self(shared)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// The base URL, `http://127.0.0.1:PORT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.0.address)
    }

    pub(crate) fn token_uri(&self) -> String {
        format!("{}/token", self.endpoint())
    }

    /// An access token that is valid now.
    pub(crate) fn token(&self) -> &'static str {
        READY_TOKEN
    }

    /// A `[storage.NAME]` section that logs in with a refresh token.
    pub(crate) fn profile(&self, name: &str, folder: Option<&str>) -> String {
        let folder = folder.map(|id| format!("folder = '{id}'\n")).unwrap_or_default();
        format!(
            "[storage.{name}]\ntype = 'drive'\n{folder}endpoint = '{}'\ntoken_uri = '{}'\n\
             client_id = '{CLIENT_ID}'\nclient_secret = '{CLIENT_SECRET}'\n\
             refresh_token = '{REFRESH_TOKEN}'\n",
            self.endpoint(),
            self.token_uri()
        )
    }

    /// Environment variables for `--storage drive` with a valid access token.
    pub(crate) fn env(&self) -> [(&'static str, String); 2] {
        [("BAE_DRIVE_ENDPOINT", self.endpoint()), ("BAE_DRIVE_TOKEN", self.token().into())]
    }

    pub(crate) fn set_rules(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.state().rules);
    }

    fn add_fault(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// After `skip` successful requests, the next `times` matching requests fail.
    pub(crate) fn fail_requests(
        &self,
        method: &'static str,
        path: &'static str,
        skip: u32,
        times: u32,
        kind: FaultKind,
    ) {
        self.add_fault(Fault { method, path, skip, times, kind });
    }

    /// Whether every fault has happened as often as it should.
    pub(crate) fn all_faults_used(&self) -> bool {
        self.state().faults.iter().all(|fault| fault.times == 0)
    }

    /// A folder in My Drive, or the root of a new shared drive.
    pub(crate) fn make_folder(&self, name: &str, shared: bool) -> String {
        let mut state = self.state();
        let id = format!("folder-{}", state.next_number());
        if shared {
            state.add_folder(&id, name, None, Some(&id));
        } else {
            state.add_folder(&id, name, Some("root-of-my-drive"), None);
        }
        id
    }

    /// All files except folders and files in the trash.
    pub(crate) fn files(&self) -> Vec<File> {
        let state = self.state();
        let is_file = |file: &&File| file.mime != FOLDER && !file.trashed;
        state.files.values().filter(is_file).cloned().collect()
    }

    pub(crate) fn folders(&self) -> Vec<File> {
        self.state().files.values().filter(|file| file.mime == FOLDER).cloned().collect()
    }

    /// Changes a file without a request; `None` removes it.
    pub(crate) fn edit_file(&self, id: &str, change: impl FnOnce(File) -> Option<File>) {
        let mut state = self.state();
        let file = state.files.remove(id).unwrap();
        if let Some(file) = change(file) {
            state.files.insert(id.to_owned(), file);
        }
    }

    /// The path of a file: the names of its folders and its own.
    pub(crate) fn path(&self, file: &File) -> String {
        let state = self.state();
        let mut path = file.name.clone();
        let mut parent = file.parent.as_ref();
        while let Some(folder) = parent.and_then(|id| state.files.get(id)) {
            path = format!("{}/{path}", folder.name);
            parent = folder.parent.as_ref();
        }
        path
    }

    pub(crate) fn sessions(&self) -> usize {
        self.state().sessions.values().filter(|session| !session.completed).count()
    }

    /// The number of requests `METHOD PATH`, with `*` for the ids in the path.
    pub(crate) fn request_count(&self, key: &str) -> u64 {
        self.state().counts.requests.get(key).copied().unwrap_or(0)
    }

    pub(crate) fn counts<T>(&self, read: impl FnOnce(&Counts) -> T) -> T {
        read(&self.state().counts)
    }

    /// Makes every access token that was issued so far expire.
    pub(crate) fn expire_tokens(&self) {
        self.state().oauth.expire();
    }

    /// Revokes the refresh token.
    pub(crate) fn revoke(&self) {
        self.state().oauth.revoke();
    }

    /// The answers of the token server to a device login, in this order; `""` grants access.
    pub(crate) fn device_answers(&self, answers: &[&'static str]) {
        self.state().oauth.device_answers = VecDeque::from(answers.to_vec());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn add_folder(&mut self, id: &str, name: &str, parent: Option<&str>, drive: Option<&str>) {
        let created = self.next_number();
        self.used.insert(id.to_owned());
        let folder = File {
            id: id.to_owned(),
            name: name.to_owned(),
            mime: FOLDER.to_owned(),
            parent: parent.map(str::to_owned),
            properties: BTreeMap::new(),
            trashed: false,
            data: Arc::default(),
            md5: String::new(),
            created,
            drive: drive.map(str::to_owned),
        };
        self.files.insert(id.to_owned(), folder);
    }

    /// The fault for a request, taken from the first matching [`Fault`] that is not used up. `None` during its
    /// `skip` requests.
    fn take_fault(&mut self, request: &Request) -> Option<FaultKind> {
        let target = request.target.clone();
        let matches = |f: &&mut Fault| {
            f.times > 0
                && (f.method.is_empty() || f.method == request.method)
                && target.contains(f.path)
        };
        let fault = self.faults.iter_mut().find(matches)?;
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        fault.times -= 1;
        self.counts.faults += 1;
        Some(fault.kind.clone())
    }

    /// Charges the quota units of a request. An error when the units of the current minute are used up.
    fn charge(&mut self, units: u64) -> Result<(), Refusal> {
        if self.quota_window.0.elapsed() > Duration::from_secs(60) {
            self.quota_window = (Instant::now(), 0);
        }
        self.quota_window.1 += units;
        self.counts.units += units;
        match self.rules.units_per_minute {
            Some(limit) if self.quota_window.1 > limit => Err(Refusal(403, "rateLimitExceeded")),
            _ => Ok(()),
        }
    }

    /// Counts a create. An error when creates exceed `creates_per_second`.
    fn count_create(&mut self) -> Result<(), Refusal> {
        let now = Instant::now();
        if let Some(rate) = self.rules.creates_per_second {
            let elapsed = now.duration_since(self.create_tokens.0).as_secs_f64();
            self.create_tokens = (now, (self.create_tokens.1 + elapsed * rate).min(10.0));
            if self.create_tokens.1 < 1.0 {
                return Err(Refusal(403, "userRateLimitExceeded"));
            }
            self.create_tokens.1 -= 1.0;
        }
        self.counts.creates.push(now);
        Ok(())
    }

    fn used_bytes(&self) -> u64 {
        self.files.values().map(|file| file.data.len() as u64).sum()
    }
}

/// An error answer: status and reason.
#[derive(Debug, Clone, Copy)]
struct Refusal(u16, &'static str);
