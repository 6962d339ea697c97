//! The program under test, in a new home directory.

use std::{
    ffi::OsStr,
    net::{SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{LONG, ports, process::Process, torrents::Fixture, wait_until};

/// The exit code and the output of a command.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    /// `None` when a signal ended the command.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl CommandOutput {
    /// Panics unless the exit code is `code`; the message shows stdout and stderr.
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Panics unless stderr contains `text`. Case is ignored.
    pub(crate) fn expect_stderr(self, text: &str) -> Self {
        let stderr = self.stderr.to_lowercase();
        assert!(stderr.contains(&text.to_lowercase()), "{text:?} is not in:\n{}", self.stderr);
        self
    }

    pub(crate) fn json(&self) -> Vec<Value> {
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"))
        };
        self.stdout.lines().map(parse).collect()
    }

    /// The `imported` event, which is the last line.
    pub(crate) fn summary(&self) -> ImportSummary {
        let lines = self.json();
        ImportSummary::from(lines.last().expect("an import prints its summary"))
    }
}

/// The summary of an import.
#[derive(Debug, Clone)]
pub(crate) struct ImportSummary {
    pub(crate) id: String,
    pub(crate) bytes: u64,
    pub(crate) downloaded: u64,
    pub(crate) info_hash: String,
}

impl From<&Value> for ImportSummary {
    fn from(line: &Value) -> Self {
        assert_eq!(line["event"], "imported", "{line}");
        Self {
            id: line["id"].as_str().unwrap().to_owned(),
            bytes: line["bytes"].as_u64().unwrap(),
            downloaded: line["downloaded"].as_u64().unwrap(),
            info_hash: line["info_hash"].as_str().unwrap().to_owned(),
        }
    }
}

/// A home with a data directory and a storage directory, and the address at which bae listens.
#[derive(Debug)]
pub(crate) struct Bae {
    home: TempDir,
    pub(crate) listen: SocketAddrV4,
    /// Parameters of the storage URL, without the `?`.
    storage_options: String,
    storage_dir: PathBuf,
    /// A storage URL that replaces the local directory.
    remote_url: Option<String>,
    env: Vec<(String, String)>,
}

impl Bae {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let storage_dir = home.path().join("objects");
        let (storage_options, remote_url, env) = (String::new(), None, Vec::new());
        Self { home, listen: ports::unused(), storage_options, storage_dir, remote_url, env }
    }

    /// Stores objects at `url`. Every command gets the variables of `env`.
    pub(crate) fn with_storage_url(mut self, url: &str, env: Vec<(String, String)>) -> Self {
        self.remote_url = Some(url.to_owned());
        self.env = env;
        self
    }

    /// Sets variables for every command.
    pub(crate) fn with_env(mut self, env: Vec<(String, String)>) -> Self {
        self.env.extend(env);
        self
    }

    /// Stores objects in `dir` instead of a directory in the home.
    pub(crate) fn with_storage_dir(mut self, dir: &Path) -> Self {
        dir.clone_into(&mut self.storage_dir);
        self
    }

    /// Adds parameters to the storage URL, such as `upload_limit=1MiB`.
    pub(crate) fn with_storage_options(mut self, options: &str) -> Self {
        options.clone_into(&mut self.storage_options);
        self
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    pub(crate) fn storage_dir(&self) -> &Path {
        &self.storage_dir
    }

    /// The number of files in the storage directory.
    pub(crate) fn object_count(&self) -> usize {
        let mut open = vec![self.storage_dir.clone()];
        let mut count = 0;
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    count += 1;
                }
            }
        }
        count
    }

    pub(crate) fn storage_url(&self) -> String {
        if let Some(url) = &self.remote_url {
            return url.clone();
        }
        let separator = if self.storage_options.is_empty() { "" } else { "?" };
        format!("file://{}{separator}{}", self.storage_dir.display(), self.storage_options)
    }

    /// `bae ARGS…` in this home, without the variables of the test's own environment that change bae's behaviour.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bae"));
        let affects_bae = |name: &OsStr| {
            let name = name.to_string_lossy();
            name.starts_with("BAE_")
                || name.starts_with("AWS_")
                || name.starts_with("IPFS_")
                || name == "RUST_LOG"
                || name == "SSH_AUTH_SOCK"
                || name.to_lowercase().ends_with("_proxy")
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| affects_bae(name)) {
            command.env_remove(name);
        }
        command.env("HOME", self.home()).env("XDG_CONFIG_HOME", self.home().join("config"));
        command.env("XDG_DATA_HOME", self.home().join("share")).env("NO_COLOR", "1");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.arg("--data-dir").arg(self.data_dir()).args(args);
        command
    }

    pub(crate) fn start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Running {
        Running(Process::start("bae", &self.command(args)))
    }

    /// Runs `bae ARGS…` to its end, for at most [`LONG`] (two minutes).
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> CommandOutput {
        self.start(args).wait(LONG)
    }

    /// Runs `bae ARGS…`, expects success and returns stdout as bytes (for `cat`).
    pub(crate) fn stdout_of<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Vec<u8> {
        let out = self.command(args).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    /// `import SOURCE` from these peers only; `options` come last.
    pub(crate) fn import_args(
        &self,
        source: impl AsRef<OsStr>,
        peers: &[SocketAddrV4],
        options: &[&str],
    ) -> Vec<std::ffi::OsString> {
        let mut args: Vec<std::ffi::OsString> = vec!["--json".into(), "import".into()];
        args.push(source.as_ref().into());
        args.extend(["--storage".into(), self.storage_url().into()]);
        args.extend(self.network_args(peers));
        args.extend(options.iter().map(Into::into));
        args
    }

    fn network_args(&self, peers: &[SocketAddrV4]) -> Vec<std::ffi::OsString> {
        let mut args: Vec<std::ffi::OsString> = Vec::new();
        args.extend(["--listen".into(), self.listen.to_string().into()]);
        args.extend(["--no-dht".into(), "--no-lsd".into(), "--no-utp".into()]);
        for peer in peers {
            args.extend(["--peer".into(), peer.to_string().into()]);
        }
        args
    }

    /// Imports `torrent` and expects success.
    pub(crate) fn import(&self, torrent: &Fixture, peers: &[SocketAddrV4]) -> ImportSummary {
        let summary = self.run(self.import_args(&torrent.torrent, peers, &[])).expect(0).summary();
        assert_eq!(summary.bytes, torrent.bytes);
        assert_eq!(summary.info_hash, torrent.info_hash());
        summary
    }

    /// Starts an import and does not wait for its end.
    pub(crate) fn start_import(&self, torrent: &Fixture, peers: &[SocketAddrV4]) -> Running {
        self.start(self.import_args(&torrent.torrent, peers, &[]))
    }

    /// Starts `seed ID`, which listens at [`Bae::listen`] and dials `peers`.
    pub(crate) fn seed(&self, id: &str, peers: &[SocketAddrV4]) -> Running {
        self.seed_with(id, peers, &[])
    }

    /// Starts `seed` without an import: it seeds all of them.
    pub(crate) fn seed_all(&self) -> Running {
        let mut args: Vec<std::ffi::OsString> = vec!["--json".into(), "seed".into()];
        args.extend(self.network_args(&[]));
        self.start(args)
    }

    /// [`Bae::seed`] with more flags. Returns when bae listens.
    pub(crate) fn seed_with(&self, id: &str, peers: &[SocketAddrV4], more: &[&str]) -> Running {
        let mut args: Vec<std::ffi::OsString> = vec!["--json".into(), "seed".into(), id.into()];
        args.extend(self.network_args(peers));
        args.extend(more.iter().map(Into::into));
        let mut running = self.start(args);
        wait_until("bae listens", LONG, || {
            assert!(running.0.is_running(), "bae seed ended\n{}", running.0.log());
            TcpStream::connect(self.listen).is_ok()
        });
        running
    }

    /// Exports the import and compares it with the original, byte for byte.
    pub(crate) fn assert_exact(&self, id: &str, torrent: &Fixture) {
        let out = tempfile::tempdir_in(self.home()).unwrap();
        self.run([OsStr::new("export"), id.as_ref(), out.path().as_os_str()]).expect(0);
        torrent.assert_same(&out.path().join(&torrent.name));
    }

    /// Panics unless `verify` finds no error.
    pub(crate) fn assert_verified(&self, id: &str) {
        self.run(["verify", id]).expect(0);
    }
}

/// A running bae.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Process);

impl Running {
    /// Waits for the next event of any name.
    pub(crate) fn next_event(&mut self) -> Value {
        self.0.wait_for("an event", LONG, |line| serde_json::from_str(line).ok())
    }

    /// Waits for the next event named `name`.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        self.event_where(name, |_| true)
    }

    /// Waits for an event named `name` that `wanted` accepts.
    pub(crate) fn event_where(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.0.wait_for(name, LONG, |line| {
            let value: Value = serde_json::from_str(line).ok()?;
            (value["event"] == name && wanted(&value)).then_some(value)
        })
    }

    /// Waits until `count` more events named `name` are printed: bae has made so many rounds of its work.
    pub(crate) fn wait_for_events(&mut self, name: &str, count: usize) {
        for _ in 0..count {
            self.event(name);
        }
    }

    /// Waits for the end of a run that is killed, or that ends with success before the kill. Returns whether it was
    /// killed.
    pub(crate) fn wait_until_killed(&mut self) -> bool {
        match self.0.wait(LONG).code() {
            None => true,
            Some(0) => false,
            Some(code) => panic!("it ended with code {code}\n{}", self.0.log()),
        }
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        self.0.signal(libc::SIGINT);
    }

    /// Sends SIGKILL: the process runs no more code of its own.
    pub(crate) fn kill(&mut self) {
        self.0.kill();
    }

    /// Waits at most `limit` for the exit and returns the output.
    pub(crate) fn wait(mut self, limit: Duration) -> CommandOutput {
        let code = self.0.wait(limit).code();
        CommandOutput { code, stdout: self.0.stdout(), stderr: self.0.stderr() }
    }

    /// The events that were printed so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.0.stdout().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}
