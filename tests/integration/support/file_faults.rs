//! File operations of bae that fail at a step: a library loaded before all others counts and spoils them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;

use super::{need, script};

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileFault<'a> {
    /// An operation ends with this error.
    Error(i32),
    /// This one does; no other is counted.
    Only(&'a str, i32),
    /// A folder is renamed to `….gone`.
    Gone(&'a Path),
    /// The wall clock jumps by so many seconds.
    Clock(i64),
}

/// Counts the steps of one program at a time.
#[derive(Debug)]
pub(crate) struct FileFaults {
    dir: TempDir,
    under: String,
}

impl FileFaults {
    /// For what is done with files in `folders`.
    pub(crate) fn under(folders: &[&Path]) -> Self {
        let folders: Vec<_> = folders.iter().map(|folder| folder.to_str().unwrap()).collect();
        Self { dir: tempfile::tempdir().unwrap(), under: folders.join(":") }
    }

    /// Lets `command` meet `fault` at the steps from `first` (from 1; 0 is never) on, `many` of them.
    pub(crate) fn spoil(&self, command: &mut Command, fault: FileFault<'_>, first: u64, many: u64) {
        fs::write(self.counter(), [0; 8]).unwrap();
        command.env("LD_PRELOAD", library()).env("FAULT_UNDER", &self.under);
        command.env("FAULT_COUNT", self.counter());
        command.env("FAULT_AT", first.to_string()).env("FAULT_FOR", many.to_string());
        match fault {
            FileFault::Error(errno) => command.env("FAULT_ERROR", errno.to_string()),
            FileFault::Only(op, errno) => {
                command.env("FAULT_OP", op).env("FAULT_ERROR", errno.to_string())
            }
            FileFault::Gone(folder) => command.env("FAULT_GONE", folder),
            FileFault::Clock(seconds) => command.env("FAULT_CLOCK", seconds.to_string()),
        };
    }

    /// The steps of the last program.
    pub(crate) fn steps(&self) -> u64 {
        u64::from_ne_bytes(fs::read(self.counter()).unwrap().try_into().unwrap())
    }

    fn counter(&self) -> PathBuf {
        self.dir.path().join("steps")
    }
}

/// Compiled once a run.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, library) = LIBRARY.get_or_init(|| {
        need("cc", "gcc");
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("faulty_files.so");
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .arg(script("faulty_files.c"))
            .arg("-ldl")
            .status()
            .unwrap();
        assert!(made.success(), "faulty_files.c does not compile");
        (dir, library)
    });
    library
}
