//! Joins audio and video with an installed FFmpeg, where bae cannot join them itself: those of MPEG-TS.
//!
//! The bytes of each file go to FFmpeg through a named pipe in a private folder, and the joined file comes back from
//! its standard output. FFmpeg never sees a URL: it would leave out segments that it cannot fetch. If a file fails,
//! FFmpeg is stopped and the stream ends with the error.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use parking_lot::Mutex;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, mknodat},
    io::Errno,
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::SegmentedFile;
use crate::{
    error::{Error, Kind, Result},
    protocols::{ByteStream, RangeRequest, next_bytes},
};

/// Arguments after the inputs: copy all packets.
const COPY: [&str; 4] = ["-c", "copy", "-flush_packets", "0"];
/// The output as MPEG-TS, which holds the packets of MPEG-TS as they are.
const AS_MPEG_TS: &[&str] = &["-f", "mpegts"];
/// The output as fragments of MP4, which need no seeking.
const AS_MP4: &[&str] = &["-f", "mp4", "-movflags", "frag_keyframe+empty_moov+default_base_moof"];
/// Length of a read of the output in bytes.
const READ_LEN: usize = 64 << 10;
/// Parts of a file that may wait for FFmpeg, and of its output that may wait for the reader.
const MAX_WAITING: usize = 16;
/// Interval between two looks at a pipe that FFmpeg has not opened yet, and at a process that has not ended yet.
const OPEN_INTERVAL: Duration = Duration::from_millis(10);
/// Maximum length of the error text of FFmpeg in bytes.
const MAX_ERROR_LEN: usize = 4 << 10;

/// A file that FFmpeg joins while it is read.
#[derive(Debug)]
pub(super) struct Muxed {
    program: PathBuf,
    pub(super) inputs: Vec<Arc<SegmentedFile>>,
    is_mp4: bool,
}

/// The path of FFmpeg, if it is installed.
pub(in crate::protocols) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let is_program = |path: &PathBuf| {
        rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
    };
    std::env::split_paths(&path).map(|dir| dir.join("ffmpeg")).find(is_program)
}

impl Muxed {
    /// The output is MP4 if `is_mp4`, else MPEG-TS.
    pub(super) fn new(program: PathBuf, inputs: Vec<Arc<SegmentedFile>>, is_mp4: bool) -> Self {
        Self { program, inputs, is_mp4 }
    }

    /// The bytes of the joined file.
    pub(super) async fn open(&self) -> Result<ByteStream> {
        let folder = PipeFolder::new(self.inputs.len())?;
        let mut streams = Vec::new();
        for input in &self.inputs {
            streams.push(Box::pin(input.open(RangeRequest::ALL)).await?);
        }
        let mut command = Command::new(&self.program);
        command.args(["-v", "error", "-nostdin"]);
        for pipe in &folder.pipes {
            command.arg("-i").arg(pipe);
        }
        for index in 0..folder.pipes.len() {
            command.args(["-map", &index.to_string()]);
        }
        let format = if self.is_mp4 { AS_MP4 } else { AS_MPEG_TS };
        command.args(COPY).args(format).arg("pipe:1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|e| Error::io("cannot start ffmpeg", e))?;
        let run = Arc::new(Run { child: Mutex::new(child), failure: Mutex::new(None) });
        let pipes = folder.pipes.clone();
        let feeders = streams.into_iter().zip(pipes);
        let feeders = feeders.map(|(stream, pipe)| feed(stream, pipe, &run)).collect();
        let output = read_output(&run)?;
        let state = Output { output, run, _folder: folder, _feeders: feeders };
        Ok(Box::pin(stream::try_unfold(state, |mut state| async move {
            match state.output.recv().await {
                Some(bytes) => Ok(Some((bytes?, state))),
                None => Ok(None),
            }
        })))
    }
}

/// A running FFmpeg.
#[derive(Debug)]
struct Run {
    child: Mutex<Child>,
    /// Why it was stopped.
    failure: Mutex<Option<Error>>,
}

impl Run {
    fn fail(&self, error: Error) {
        self.failure.lock().get_or_insert(error);
        // It may have ended already.
        let _ = self.child.lock().kill();
    }

    /// Waits for the end. Meanwhile it can still be stopped.
    #[allow(clippy::disallowed_methods, reason = "called by the thread that reads the output")]
    fn wait(&self) -> Option<ExitStatus> {
        loop {
            match self.child.lock().try_wait() {
                Ok(None) => {}
                Ok(status) => return status,
                Err(_) => return None,
            }
            thread::sleep(OPEN_INTERVAL);
        }
    }

    fn is_running(&self) -> bool {
        self.child.lock().try_wait().is_ok_and(|status| status.is_none())
    }
}

struct Output {
    output: mpsc::Receiver<Result<Bytes>>,
    run: Arc<Run>,
    _folder: PipeFolder,
    _feeders: Vec<AbortOnDropHandle<()>>,
}

impl Drop for Output {
    fn drop(&mut self) {
        // It may have ended already. The thread that reads its output waits for it.
        let _ = self.run.child.lock().kill();
    }
}

/// A folder of named pipes that only this user can open. It is removed when dropped.
#[derive(Debug)]
struct PipeFolder {
    path: PathBuf,
    pipes: Vec<PathBuf>,
}

impl PipeFolder {
    fn new(count: usize) -> Result<Self> {
        let mut name = [0; 8];
        getrandom::fill(&mut name)
            .map_err(|e| Error::new(Kind::Internal, format!("no random numbers: {e}")))?;
        let name = format!("bae-{}", crate::catalog::hex(&name));
        let path = std::env::temp_dir().join(name);
        let context = |e| Error::io(format!("cannot create {}", path.display()), e);
        DirBuilder::new().mode(0o700).create(&path).map_err(context)?;
        let pipes = (0..count).map(|number| path.join(number.to_string())).collect();
        let folder = Self { path: path.clone(), pipes };
        for pipe in &folder.pipes {
            let made = mknodat(CWD, pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0);
            made.map_err(|e| context(e.into()))?;
        }
        Ok(folder)
    }
}

impl Drop for PipeFolder {
    fn drop(&mut self) {
        // Ignored: the system empties its folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Writes `stream` to a pipe.
fn feed(mut stream: ByteStream, pipe: PathBuf, run: &Arc<Run>) -> AbortOnDropHandle<()> {
    let (sender, receiver) = mpsc::channel::<Bytes>(MAX_WAITING);
    let (for_thread, run) = (Arc::clone(run), Arc::clone(run));
    thread::spawn(move || write_pipe(&pipe, receiver, &for_thread));
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            match next_bytes(&mut stream).await {
                Some(Ok(bytes)) => {
                    // FFmpeg has ended, and its status says why.
                    if sender.send(bytes).await.is_err() {
                        return;
                    }
                }
                Some(Err(error)) => return run.fail(error),
                None => return,
            }
        }
    }))
}

fn write_pipe(path: &Path, mut parts: mpsc::Receiver<Bytes>, run: &Run) {
    let Some(mut pipe) = open_pipe(path, run) else { return };
    while let Some(bytes) = parts.blocking_recv() {
        // FFmpeg has ended, and its status says why.
        if pipe.write_all(&bytes).is_err() {
            return;
        }
    }
}

/// Opens a pipe when FFmpeg reads it. `None` if FFmpeg has ended.
#[allow(clippy::disallowed_methods, reason = "called by the thread that writes to the pipe")]
fn open_pipe(path: &Path, run: &Run) -> Option<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    loop {
        match OpenOptions::new().write(true).custom_flags(flags).open(path) {
            Ok(pipe) => {
                let blocking = fcntl_getfl(&pipe).ok()?.difference(OFlags::NONBLOCK);
                fcntl_setfl(&pipe, blocking).ok()?;
                return Some(pipe);
            }
            // It has no reader yet.
            Err(e) if e.raw_os_error() == Some(Errno::NXIO.raw_os_error()) && run.is_running() => {
                thread::sleep(OPEN_INTERVAL);
            }
            Err(_) => return None,
        }
    }
}

/// Reads the output of FFmpeg on a thread of its own. The last item is an error if FFmpeg failed.
fn read_output(run: &Arc<Run>) -> Result<mpsc::Receiver<Result<Bytes>>> {
    let no_pipe = || Error::new(Kind::Internal, "ffmpeg has no output");
    let (stdout, stderr) = {
        let mut child = run.child.lock();
        (child.stdout.take().ok_or_else(no_pipe)?, child.stderr.take().ok_or_else(no_pipe)?)
    };
    let errors = thread::spawn(move || {
        let mut text = Vec::new();
        let mut stderr = stderr.take(1 << 20);
        // What was read before an error is enough.
        let _ = stderr.read_to_end(&mut text);
        text.truncate(MAX_ERROR_LEN);
        String::from_utf8_lossy(&text).into_owned()
    });
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    let run = Arc::clone(run);
    thread::spawn(move || {
        let mut stdout = stdout;
        loop {
            let mut part = vec![0; READ_LEN];
            match stdout.read(&mut part) {
                Ok(0) | Err(_) => break,
                Ok(len) => {
                    part.truncate(len);
                    if sender.blocking_send(Ok(part.into())).is_err() {
                        break;
                    }
                }
            }
        }
        drop(stdout);
        let text = errors.join().unwrap_or_default();
        if let Some(error) = end_error(&run, &text) {
            // The reader may be gone.
            let _ = sender.blocking_send(Err(error));
        }
    });
    Ok(receiver)
}

/// Waits for the end of FFmpeg. `Some` unless it succeeded with all bytes of its inputs.
fn end_error(run: &Run, text: &str) -> Option<Error> {
    let status = run.wait();
    if let Some(error) = run.failure.lock().take() {
        return Some(error);
    }
    let reason = text.lines().last().unwrap_or("it was stopped").to_owned();
    match status {
        Some(status) if status.success() => None,
        _ => Some(
            Error::new(Kind::Unsupported, "ffmpeg cannot join audio and video").because(reason),
        ),
    }
}
