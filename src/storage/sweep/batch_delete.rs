//! Deletes many objects, a few at a time, and continues after failures.

use std::{fmt, sync::Arc};

use tokio::task::JoinSet;

use super::ObjectTally;
use crate::{
    backends::{Key, StorageBackend},
    catalog::ObjectNum,
    error::{Error, Kind, Result},
    hints::{Operation, hint},
};

/// The number of deletes in flight.
const MAX_IN_FLIGHT: usize = 8;
/// The number of failures that are kept; further ones are only counted.
const MAX_REPORTED: usize = 50;

/// The objects that could not be removed, and why.
#[derive(Debug, Default)]
pub struct Failures {
    count: usize,
    first: Vec<Error>,
}

impl Failures {
    pub fn add(&mut self, error: Error) {
        self.count += 1;
        if self.first.len() < MAX_REPORTED {
            self.first.push(error);
        }
    }

    pub fn append(&mut self, other: Self) {
        self.count += other.count;
        self.first.extend(other.first);
        self.first.truncate(MAX_REPORTED);
    }

    /// The number of failures.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The first failures.
    #[must_use]
    pub fn errors(&self) -> &[Error] {
        &self.first
    }

    /// Merges all failures into one error: how many of `total` objects failed, and the first reason.
    pub(super) fn into_result(self, total: usize, description: impl fmt::Display) -> Result<()> {
        let count = self.count;
        let Some(first) = self.first.into_iter().next() else { return Ok(()) };
        let kind = first.kind();
        let text =
            format!("{count} of {total} {description} could not be removed; the first: {}", first);
        Err(Error::new(kind, text).because(first).hint(hint![
            "run ",
            Operation::RemoveLeftovers,
            " to try again",
        ]))
    }
}

/// The deleted objects.
#[derive(Debug, Default)]
pub(super) struct Deleted {
    pub(super) tally: ObjectTally,
    /// The catalog rows of the deleted objects that have one.
    pub(super) nums: Vec<ObjectNum>,
}

type Done = (Option<u64>, Option<ObjectNum>, Result<()>);

/// The deletes in flight, and their results.
#[derive(Debug)]
pub(super) struct BatchDelete<'a> {
    backend: &'a Arc<dyn StorageBackend>,
    running: JoinSet<Done>,
    pub(super) deleted: Deleted,
    pub(super) failures: Failures,
}

impl<'a> BatchDelete<'a> {
    pub(super) fn new(backend: &'a Arc<dyn StorageBackend>) -> Self {
        let (deleted, failures) = (Deleted::default(), Failures::default());
        Self { backend, running: JoinSet::new(), deleted, failures }
    }

    /// Starts a delete as soon as one of the permits is free. Only an object with a length is counted in the tally.
    pub(super) async fn start(&mut self, key: Key, len: Option<u64>, num: Option<ObjectNum>) {
        while self.running.len() >= MAX_IN_FLIGHT {
            self.next().await;
        }
        let backend = Arc::clone(self.backend);
        self.running.spawn(async move { (len, num, backend.delete(&key).await) });
    }

    /// Waits for all deletes that were started.
    pub(super) async fn wait(&mut self) {
        while !self.running.is_empty() {
            self.next().await;
        }
    }

    async fn next(&mut self) {
        match self.running.join_next().await {
            None => {}
            Some(Ok((len, num, Ok(())))) => {
                len.into_iter().for_each(|len| self.deleted.tally.add(len));
                self.deleted.nums.extend(num);
            }
            Some(Ok((_, _, Err(e)))) => self.failures.add(e),
            Some(Err(e)) => {
                let text = "a delete task panicked";
                self.failures.add(Error::new(Kind::Internal, text).because(e));
            }
        }
    }
}
