//! A child process that is killed when its value is dropped. Its output is collected line by line.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{WaitId, WaitIdOptions, waitid};

/// The wait for the end of a pipe after the exit of its process: a grandchild may hold the pipe open.
const EOF_LIMIT: Duration = Duration::from_secs(10);
/// The wait for a server that was asked to end. Then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
    /// Set when the pipe has ended and all its lines are in `lines`.
    ended: AtomicBool,
}

impl Output {
    fn collect(self: &Arc<Self>, from: impl Read + Send + 'static) {
        let this = Arc::clone(self);
        thread::spawn(move || {
            let mut reader = BufReader::new(from);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                this.lines.lock().unwrap().push(text);
                this.changed.notify_all();
                line.clear();
            }
            this.ended.store(true, Ordering::Release);
        });
    }

    fn wait_for_eof(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.ended.load(Ordering::Acquire) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A running child process. Dropping it kills and reaps it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Output>,
    stderr: Arc<Output>,
    /// The number of stdout lines that [`Process::wait_for`] has read.
    lines_read: usize,
}

impl Process {
    /// Starts `command`. The kernel kills the child when the test's thread ends without dropping this value.
    pub(crate) fn start(name: &str, command: &Command) -> Self {
        // By their paths, because a test may set another PATH for its child.
        let mut wrapped = Command::new("/usr/bin/setpriv");
        // In-process sessions of libtorrent open sockets that children inherit.
        bae::torrents::close_files_on_exec();
        // Under `nohup` the tests ignore SIGHUP, and child processes inherit that.
        wrapped.args(["--pdeathsig", "KILL", "/usr/bin/env", "--default-signal=HUP"]);
        wrapped.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            wrapped.current_dir(dir);
        }
        let mut child = wrapped
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("start {name}: {e}"));
        let (stdout, stderr) = (Arc::<Output>::default(), Arc::<Output>::default());
        stdout.collect(child.stdout.take().unwrap());
        stderr.collect(child.stderr.take().unwrap());
        let stdin = child.stdin.take();
        Self { name: name.to_owned(), child, stdin, stdout, stderr, lines_read: 0 }
    }

    /// Writes one line to the child's stdin.
    pub(crate) fn send_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("open until dropped");
        writeln!(stdin, "{line}")
            .unwrap_or_else(|e| panic!("write to stdin of {}: {e}", self.name));
    }

    /// Waits for the first new line of stdout for which `wanted` returns a value, and returns that value.
    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + limit;
        loop {
            let ended = matches!(self.child.try_wait(), Ok(Some(_)));
            if let Some(found) = self.next_match(&mut wanted) {
                return found;
            }
            if ended {
                // The reading thread may not have collected the last lines yet.
                self.stdout.wait_for_eof(EOF_LIMIT);
                if let Some(found) = self.next_match(&mut wanted) {
                    return found;
                }
            }
            assert!(!ended, "{} ended while waiting for {what}\n{}", self.name, self.log());
            assert!(
                Instant::now() < deadline,
                "{}: no {what} in {limit:?}\n{}",
                self.name,
                self.log()
            );
            let lines = self.stdout.lines.lock().unwrap();
            if lines.len() == self.lines_read {
                drop(self.stdout.changed.wait_timeout(lines, Duration::from_millis(50)).unwrap());
            }
        }
    }

    fn next_match<T>(&mut self, wanted: &mut impl FnMut(&str) -> Option<T>) -> Option<T> {
        let lines = self.stdout.lines.lock().unwrap();
        while self.lines_read < lines.len() {
            self.lines_read += 1;
            if let Some(found) = wanted(&lines[self.lines_read - 1]) {
                return Some(found);
            }
        }
        None
    }

    /// Waits for the child to exit. After `limit` it kills the child and panics.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // The reading threads end with the pipes, unless a grandchild holds the pipes open.
                self.stdout.wait_for_eof(EOF_LIMIT);
                self.stderr.wait_for_eof(EOF_LIMIT);
                return status;
            }
            if Instant::now() > deadline {
                self.kill();
                panic!("{} did not end within {limit:?}\n{}", self.name, self.log());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends SIGKILL and waits for the exit.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM and waits up to [`STOP_LIMIT`] for the exit. SIGKILL would leave a server's worker processes running.
    pub(crate) fn terminate(&mut self) {
        if self.is_running() {
            self.signal(libc::SIGTERM);
        }
        let until = Instant::now() + STOP_LIMIT;
        while self.is_running() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends SIGKILL to the child and all its descendants: some servers run a process for each connection.
    pub(crate) fn kill_tree(&self) {
        // A stopped server starts no more workers, which would outlive it unseen.
        self.signal(libc::SIGSTOP);
        let pid = rustix::process::Pid::from_child(&self.child);
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), stopped).unwrap();
        let descendant_ids = descendants(self.child.id());
        self.signal(libc::SIGKILL);
        for pid in &descendant_ids {
            // SAFETY: plain system call; the id belonged to a descendant of our child a moment ago.
            #[allow(unsafe_code, reason = "the standard library cannot signal descendants")]
            let _ = unsafe { libc::kill(*pid, libc::SIGKILL) };
        }
        // Waits until all have exited and their ports are free. The child itself is not reaped here:
        // `WaitIdOptions::NOWAIT`.
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        super::wait_until("all killed processes have exited", super::LONG, || {
            !descendant_ids.iter().any(is_alive)
        });
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid fits");
        // SAFETY: plain system call; the child is ours and not reaped yet, so the id is still its own.
        #[allow(unsafe_code, reason = "the standard library sends no signal but SIGKILL")]
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "signal {signal} to {}", self.name);
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.lines.lock().unwrap().join("\n")
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.lines.lock().unwrap().join("\n")
    }

    /// Waits until stderr contains `text`.
    pub(crate) fn wait_for_stderr(&mut self, text: &str) {
        super::wait_until(text, super::LONG, || {
            let is_running = self.is_running();
            let found = self.stderr().contains(text);
            assert!(found || is_running, "{} ended\n{}", self.name, self.log());
            found
        });
    }

    /// The last 30 lines of stdout and of stderr, for the message of a failing test.
    pub(crate) fn log(&self) -> String {
        let tail = |text: String| {
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n")
        };
        format!("stdout:\n{}\nstderr:\n{}", tail(self.stdout()), tail(self.stderr()))
    }
}

/// The peak resident memory of a process, in bytes.
pub(crate) fn peak_memory(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmHWM:")
}

/// The memory that a process has allocated and touched, in bytes: without the pages of the program, which is several
/// times larger without optimisation.
pub(crate) fn allocated_memory(pid: u32) -> Option<u64> {
    status_bytes(pid, "RssAnon:")
}

fn status_bytes(pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// The bytes that the process has written to disk so far.
pub(crate) fn bytes_written(pid: u32) -> Option<u64> {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines().find_map(|l| l.strip_prefix("write_bytes: "))?.parse().ok()
}

/// All descendants of the process `pid`, without `pid` itself.
fn descendants(pid: u32) -> Vec<libc::pid_t> {
    let mut found = vec![libc::pid_t::try_from(pid).expect("a pid fits")];
    let parents: Vec<(libc::pid_t, libc::pid_t)> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, stat(pid)?.1))
        })
        .collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

fn is_alive(pid: &libc::pid_t) -> bool {
    stat(*pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

/// The state letter of a process and the id of its parent; `None` when it does not exist.
fn stat(pid: libc::pid_t) -> Option<(String, libc::pid_t)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The process name, in parentheses, may contain any character.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
