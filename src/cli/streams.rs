//! The standard streams of a command: those of this process, or those of a client whose command runs in the daemon.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, IsTerminal as _, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use indicatif::{ProgressDrawTarget, TermLike};
use rustix::termios::tcgetwinsize;

/// Standard input, output and error. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) enum Streams {
    /// Of this process.
    #[default]
    Own,
    Client(Arc<ClientStreams>),
}

/// Descriptors that a client sent.
#[derive(Debug)]
pub(super) struct ClientStreams {
    stdin: File,
    stdout: File,
    stderr: File,
}

impl Streams {
    pub(super) fn of_client(stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd) -> Self {
        let (stdin, stdout, stderr) = (stdin.into(), stdout.into(), stderr.into());
        Self::Client(Arc::new(ClientStreams { stdin, stdout, stderr }))
    }

    pub(super) fn stdin_is_terminal(&self) -> bool {
        match self {
            Self::Own => io::stdin().is_terminal(),
            Self::Client(client) => client.stdin.is_terminal(),
        }
    }

    pub(super) fn stderr_is_terminal(&self) -> bool {
        match self {
            Self::Own => io::stderr().is_terminal(),
            Self::Client(client) => client.stderr.is_terminal(),
        }
    }

    pub(super) fn write_stdout(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Own => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::Client(client) => (&client.stdout).write_all(bytes),
        }
    }

    pub(super) fn write_stderr(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Own => {
                let mut stderr = io::stderr().lock();
                stderr.write_all(bytes)?;
                stderr.flush()
            }
            Self::Client(client) => (&client.stderr).write_all(bytes),
        }
    }

    /// Reads a line of standard input. Blocks.
    pub(super) fn read_line(&self) -> io::Result<String> {
        let mut line = String::new();
        match self {
            Self::Own => io::stdin().read_line(&mut line)?,
            // A terminal gives one line at a time, so that nothing is lost in the buffer.
            Self::Client(client) => BufReader::new(&client.stdin).read_line(&mut line)?,
        };
        Ok(line)
    }

    /// Reads standard input to its end, and at most `limit` bytes. Blocks.
    pub(super) fn read_to_end(&self, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self {
            Self::Own => io::stdin().lock().take(limit).read_to_end(&mut bytes)?,
            Self::Client(client) => (&client.stdin).take(limit).read_to_end(&mut bytes)?,
        };
        Ok(bytes)
    }

    /// Calls `work` with the descriptor of standard input.
    pub(super) fn with_stdin<T>(&self, work: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        match self {
            Self::Own => work(io::stdin().as_fd()),
            Self::Client(client) => work(client.stdin.as_fd()),
        }
    }

    /// Where progress bars are drawn.
    pub(super) fn draw_target(&self) -> ProgressDrawTarget {
        match self {
            Self::Own => ProgressDrawTarget::stderr(),
            Self::Client(client) if client.stderr.is_terminal() => {
                ProgressDrawTarget::term_like_with_hz(
                    Box::new(ClientTerminal(Arc::clone(client))),
                    20,
                )
            }
            Self::Client(_) => ProgressDrawTarget::hidden(),
        }
    }
}

/// The terminal of a client.
#[derive(Debug)]
struct ClientTerminal(Arc<ClientStreams>);

impl ClientTerminal {
    fn size(&self) -> Option<(u16, u16)> {
        let size = tcgetwinsize(&self.0.stderr).ok()?;
        (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
    }

    /// Writes `ESC [ count command`.
    fn control(&self, count: usize, command: char) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.write_str(&format!("\x1b[{count}{command}"))
    }
}

impl TermLike for ClientTerminal {
    fn width(&self) -> u16 {
        self.size().map_or(80, |(width, _)| width)
    }

    fn height(&self) -> u16 {
        self.size().map_or(24, |(_, height)| height)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.control(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.control(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.control(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.control(n, 'D')
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        self.write_str(&format!("{s}\n"))
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        (&self.0.stderr).write_all(s.as_bytes())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.write_str("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
