//! The state file `NAME.bae-part` next to a partial download, with which the same command resumes it.

use std::{
    fs,
    io::Write,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::path_kind::regular_file_exists;
use crate::{
    error::{Error, Kind, Result},
    protocols::Validator,
    storage::RangeSet,
};

/// Version of the file format.
const FORMAT: u64 = 1;
/// Maximum length of a state file in bytes: about a million ranges.
const MAX_LEN: u64 = 64 << 20;

// ANCHOR: resume_state
/// The state of an incomplete file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResumeState {
    bae_part: u64,
    /// Length of the file at its server in bytes, if reported.
    pub(super) len: Option<u64>,
    /// The wanted range, half-open.
    pub(super) range: Option<(u64, u64)>,
    pub(super) validators: Vec<Validator>,
    /// The ranges present, as positions of the file, half-open.
    done: Vec<(u64, u64)>,
}
// ANCHOR_END: resume_state

impl ResumeState {
    pub(super) fn new(
        len: Option<u64>,
        range: Option<Range<u64>>,
        validators: Vec<Validator>,
    ) -> Self {
        let range = range.map(|range| (range.start, range.end));
        Self { bae_part: FORMAT, len, range, validators, done: Vec::new() }
    }

    /// Sets the version of the file that the bytes belong to from now on.
    pub(super) fn set_version(&mut self, len: Option<u64>, validator: Option<&Validator>) {
        self.len = len;
        if !validator.is_some_and(|validator| self.validators.contains(validator)) {
            self.validators = validator.cloned().into_iter().collect();
        }
    }

    pub(super) fn done(&self) -> RangeSet {
        self.done.iter().map(|(start, end)| *start..*end).collect()
    }

    pub(super) fn with_done(&self, done: &RangeSet) -> Self {
        let done = done.iter().map(|range| (range.start, range.end)).collect();
        Self { done, ..self.clone() }
    }

    /// Reads the state at `path`; `None` when there is none, or when it is not a valid state.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        let context = |e| Error::io(format!("cannot read {}", path.display()), e);
        match fs::metadata(path) {
            Ok(found) if found.len() <= MAX_LEN => {}
            Ok(_) => return Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(context(e)),
        }
        let bytes = fs::read(path).map_err(context)?;
        let state: Option<Self> = serde_json::from_slice(&bytes).ok();
        Ok(state.filter(|state| state.bae_part == FORMAT))
    }

    /// Writes the state to `path` by an atomic rename: a reader sees either the old or the new state.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let context = |e| Error::io(format!("cannot write {}", path.display()), e);
        let json = serde_json::to_vec(self).map_err(|e| {
            Error::new(Kind::Internal, "cannot encode the download state as JSON").because(e)
        })?;
        let temp = with_suffix(path, "~");
        if regular_file_exists(&temp)? {
            fs::remove_file(&temp).map_err(context)?;
        }
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temp)
            .and_then(|mut file| file.write_all(&json).and_then(|()| file.sync_data()))
            .and_then(|()| fs::rename(&temp, path));
        written.map_err(context)
    }
}

/// `path` with `suffix` appended to its name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_round_trips_and_an_invalid_file_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.bae-part");
        assert_eq!(ResumeState::read(&path).unwrap(), None);
        let validators =
            vec![Validator::ETag("\"a\"".into()), Validator::Modified("Sat".into(), 7)];
        let state = ResumeState::new(Some(9), Some(2..9), validators);
        let done: RangeSet = [2..4, 5..6].into_iter().collect();
        state.with_done(&done).write(&path).unwrap();
        let read = ResumeState::read(&path).unwrap().unwrap();
        assert_eq!((read.done(), &read.validators), (done, &state.validators));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the temp file is gone");
        for other in ["", "{}", "{\"bae_part\":2}", "[1]"] {
            fs::write(&path, other).unwrap();
            assert_eq!(ResumeState::read(&path).unwrap(), None, "{other}");
        }
    }
}
