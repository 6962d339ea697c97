//! Failing file operations of bae: a preloaded library (`faulty_files.c`) counts operations and breaks some of
//! them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;

use super::{require_program, script};

/// What happens at a counted operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileFault<'a> {
    /// The operation fails with this errno.
    Error(i32),
    /// The operation of this name fails with this errno; no other is counted.
    Only(&'a str, i32),
    /// This folder is renamed to `FOLDER.gone`.
    RenameFolder(&'a Path),
    /// The wall clock jumps by this many seconds.
    ClockJump(i64),
}

/// The operations before which [`FileFaults::kill`] may kill a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KillStep<'a> {
    /// Every operation that changes a file or a folder.
    AnyChange,
    /// The operations of this name.
    Each(&'a str),
}

/// Counts the file operations of one program at a time.
#[derive(Debug)]
pub(crate) struct FileFaults {
    dir: TempDir,
    folders: String,
}

impl FileFaults {
    /// Counts operations on files in `folders`.
    pub(crate) fn in_folders(folders: &[&Path]) -> Self {
        let folders: Vec<_> = folders.iter().map(|folder| folder.to_str().unwrap()).collect();
        let faults = Self { dir: tempfile::tempdir().unwrap(), folders: folders.join(":") };
        faults.start_count();
        faults
    }

    fn start_count(&self) {
        fs::write(self.counter(), [0; 8]).unwrap();
    }

    fn preload(&self, command: &mut Command, first: u64, count: u64) {
        command.env("LD_PRELOAD", library()).env("FAULT_FOLDERS", &self.folders);
        command.env("FAULT_COUNT", self.counter());
        command.env("FAULT_AT", first.to_string()).env("FAULT_FOR", count.to_string());
    }

    /// Kills `command`, as `kill -9` does, before step number `at` (from 1; 0 only counts). The count continues from
    /// one command to the next, so that steps in increasing order are spread over all runs of an import together.
    pub(crate) fn kill(&self, command: &mut Command, step: KillStep<'_>, at: u64) {
        // A command that is already past the step is killed at its first one.
        self.preload(command, at, 1 << 40);
        command.env("FAULT_KILL", "1");
        if let KillStep::Each(op) = step {
            command.env("FAULT_OP", op);
        }
    }

    /// Sets `fault` for `many` operations of `command`, starting with number `first` (from 1; 0 is never).
    pub(crate) fn set_fault(
        &self,
        command: &mut Command,
        fault: FileFault<'_>,
        first: u64,
        count: u64,
    ) {
        self.start_count();
        self.preload(command, first, count);
        match fault {
            FileFault::Error(errno) => command.env("FAULT_ERROR", errno.to_string()),
            FileFault::Only(op, errno) => {
                command.env("FAULT_OP", op).env("FAULT_ERROR", errno.to_string())
            }
            FileFault::RenameFolder(folder) => command.env("FAULT_RENAME", folder),
            FileFault::ClockJump(seconds) => command.env("FAULT_CLOCK", seconds.to_string()),
        };
    }

    /// The number of operations so far.
    pub(crate) fn operation_count(&self) -> u64 {
        u64::from_ne_bytes(fs::read(self.counter()).unwrap().try_into().unwrap())
    }

    fn counter(&self) -> PathBuf {
        self.dir.path().join("count")
    }
}

/// The path of the library, which is compiled once per test process.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, library) = LIBRARY.get_or_init(|| {
        require_program("cc", "gcc");
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("faulty_files.so");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .arg(script("faulty_files.c"))
            .arg("-ldl")
            .status()
            .unwrap();
        assert!(status.success(), "faulty_files.c does not compile");
        (dir, library)
    });
    library
}
