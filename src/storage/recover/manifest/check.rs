//! Validates a decoded manifest before it is used.

use std::{collections::HashSet, ops::Range};

use super::{Manifest, ManifestObject, corrupt};
use crate::storage::map::generated_key::GeneratedKey;
use crate::{
    catalog::{ImportState, Role},
    error::Result,
};

/// The longest import, which is libtorrent's limit.
const MAX_LEN: u64 = 1 << 48;
/// The longest chunk: the configuration allows up to 1 GiB.
const MAX_CHUNK: u64 = 1 << 30;

/// The largest number of chunks: 256 TiB at the usual 16 MiB. An open import holds a range in memory for each.
const MAX_CHUNKS: u64 = 1 << 24;

impl Manifest {
    pub(super) fn check(&self) -> Result<()> {
        let catalog = format!("{}/{}/00000000", self.catalog, self.import);
        if GeneratedKey::parse(&catalog).is_none() {
            return Err(corrupt("invalid catalog ID"));
        }
        if !is_valid_path(&self.name) || self.name.contains('/') {
            return Err(corrupt("invalid name"));
        }
        if self.len > MAX_LEN || !(1..=MAX_CHUNK).contains(&self.chunk_len) {
            return Err(corrupt("the length or the chunk length is out of range"));
        }
        if self.len.div_ceil(self.chunk_len) > MAX_CHUNKS {
            return Err(corrupt("too many chunks"));
        }
        if !matches!(self.state, ImportState::Importing | ImportState::Imported) {
            return Err(corrupt("invalid state"));
        }
        if self.created_at < 0 || self.completed_at.is_some_and(|at| at < 0) {
            return Err(corrupt("invalid times"));
        }
        self.check_files()?;
        self.check_objects()
    }

    fn check_files(&self) -> Result<()> {
        let end = self.files.last().map_or(0, |file| file.start + file.len);
        if end != self.len || !self.files.iter().all(|file| is_valid_path(&file.path)) {
            return Err(corrupt("the files do not add up to the length, or a path is invalid"));
        }
        let Some(selected) = &self.selected else { return Ok(()) };
        let inside = selected.iter().all(|index| (*index as usize) < self.files.len());
        if !inside || !selected.is_sorted_by(|a, b| a < b) {
            return Err(corrupt("the selection names files that do not exist"));
        }
        Ok(())
    }

    fn check_objects(&self) -> Result<()> {
        let mut keys = HashSet::new();
        let mut ranges: Vec<&Range<u64>> = Vec::new();
        for object in &self.objects {
            if !keys.insert(object.key.as_str()) || !object.is_valid() {
                return Err(corrupt(format!("object {} is invalid", object.key)));
            }
            ranges.extend(object.extents.iter().map(|(range, _)| range));
        }
        ranges.sort_unstable_by_key(|range| range.start);
        let disjoint = ranges.is_sorted_by(|a, b| a.end <= b.start);
        if !disjoint || ranges.last().is_some_and(|last| last.end > self.len) {
            return Err(corrupt("objects overlap or exceed the length"));
        }
        Ok(())
    }
}

impl ManifestObject {
    /// A chunk must have a generated key, and a file must not. Each object must hold something, except empty files.
    fn is_valid(&self) -> bool {
        let own = GeneratedKey::parse(self.key.as_str());
        let has_fitting_key = match self.role {
            Role::Chunk => own.is_some_and(|key| !key.is_manifest),
            Role::File | Role::Adopted => own.is_none(),
            Role::Manifest => false,
        };
        let is_used = !self.extents.is_empty() || self.role == Role::File && self.len == 0;
        let inside = |(range, offset): &(Range<u64>, u64)| {
            let len = range.end.checked_sub(range.start).filter(|len| *len > 0);
            len.and_then(|len| len.checked_add(*offset)).is_some_and(|end| end <= self.len)
        };
        let may_have_tag = self.tag.is_none() || self.role == Role::Adopted;
        has_fitting_key && is_used && may_have_tag && self.extents.iter().all(inside)
    }
}

/// Whether it is a relative path without NUL, and without empty, `.` or `..` parts.
fn is_valid_path(path: &str) -> bool {
    let is_valid = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    path.split('/').all(is_valid)
}
