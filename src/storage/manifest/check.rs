//! Validates a decoded manifest before it is used.

use std::{collections::HashSet, ops::Range};

use super::{Manifest, ManifestObject, OwnKey, bad};
use crate::{
    catalog::{ImportState, Role},
    error::Result,
};

/// The longest import, which is libtorrent's limit.
const MAX_LEN: u64 = 1 << 48;
/// The longest chunk: the configuration allows up to 1 GiB.
const MAX_CHUNK: u64 = 1 << 30;

/// The largest number of chunks: 256 TiB at the usual 16 MiB. An open import holds a range in memory for each.
const MAX_SLOTS: u64 = 1 << 24;

impl Manifest {
    pub(super) fn check(&self) -> Result<()> {
        let catalog = format!("{}/{}/00000000", self.catalog, self.import);
        if OwnKey::parse(&catalog).is_none() {
            return Err(bad("its catalog is none"));
        }
        if !is_plain(&self.name) || self.name.contains('/') {
            return Err(bad("its name is none"));
        }
        if self.len > MAX_LEN || !(1..=MAX_CHUNK).contains(&self.chunk_len) {
            return Err(bad("its lengths are beyond any import"));
        }
        if self.len.div_ceil(self.chunk_len) > MAX_SLOTS {
            return Err(bad("its chunks are too many"));
        }
        if !matches!(self.state, ImportState::Importing | ImportState::Imported) {
            return Err(bad("its state is none"));
        }
        if self.created_at < 0 || self.completed_at.is_some_and(|at| at < 0) {
            return Err(bad("its times are none"));
        }
        self.check_files()?;
        self.check_objects()
    }

    fn check_files(&self) -> Result<()> {
        let end = self.files.last().map_or(0, |file| file.start + file.len);
        if end != self.len || !self.files.iter().all(|file| is_plain(&file.path)) {
            return Err(bad("its files are not those of its bytes"));
        }
        let Some(selected) = &self.selected else { return Ok(()) };
        let inside = selected.iter().all(|index| (*index as usize) < self.files.len());
        if !inside || !selected.is_sorted_by(|a, b| a < b) {
            return Err(bad("it selects what it has not"));
        }
        Ok(())
    }

    fn check_objects(&self) -> Result<()> {
        let mut keys = HashSet::new();
        let mut ranges: Vec<&Range<u64>> = Vec::new();
        for object in &self.objects {
            if !keys.insert(object.key.as_str()) || !object.is_sound() {
                return Err(bad(format!("object {} of it is none", object.key)));
            }
            ranges.extend(object.extents.iter().map(|(range, _)| range));
        }
        ranges.sort_unstable_by_key(|range| range.start);
        let apart = ranges.is_sorted_by(|a, b| a.end <= b.start);
        if !apart || ranges.last().is_some_and(|last| last.end > self.len) {
            return Err(bad("its objects overlap or leave it"));
        }
        Ok(())
    }
}

impl ManifestObject {
    /// A chunk must have a generated key, and a file must not. Each object must hold something, except empty files.
    fn is_sound(&self) -> bool {
        let own = OwnKey::parse(self.key.as_str());
        let fits = match self.role {
            Role::Chunk => own.is_some_and(|key| !key.is_manifest),
            Role::File | Role::Adopted => own.is_none(),
            Role::Manifest => false,
        };
        let holds = !self.extents.is_empty() || self.role == Role::File && self.len == 0;
        let inside = |(range, offset): &(Range<u64>, u64)| {
            let len = range.end.checked_sub(range.start).filter(|len| *len > 0);
            len.and_then(|len| len.checked_add(*offset)).is_some_and(|end| end <= self.len)
        };
        let tagged = self.tag.is_none() || self.role == Role::Adopted;
        fits && holds && tagged && self.extents.iter().all(inside)
    }
}

/// Whether it is a relative path without NUL, and without empty, `.` or `..` parts.
fn is_plain(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    path.split('/').all(plain)
}
