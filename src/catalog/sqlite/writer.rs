//! The one writer: a thread that owns the writing connection and commits commands in groups.
//!
//! Invariants: a command is answered exactly once, after its commit or refusal. A failing command leaves no change in
//! the group. Commands run in the order they were sent. No command is answered as committed when the file was moved
//! or removed.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rusqlite::Connection;

use super::{
    connection_threads::ConnectionThreads,
    errors::{file_moved, sql_error},
};
use crate::{
    catalog::sql::Sql,
    error::{Error, Result},
};

/// The most commands per transaction. Bounds how long the first waits for the last.
const MAX_GROUP: usize = 1024;

/// Runs the work (or receives the reason why it cannot run), and returns how to answer after the commit.
type Command = Box<dyn FnOnce(Result<&Connection>) -> CommandResult + Send>;

struct CommandResult {
    keep: bool,
    answer: Box<dyn FnOnce(Result<()>)>,
}

/// Dropping it commits all queued commands, so that dropping the last clone of the catalog loses none.
pub(super) struct Writer(ConnectionThreads<Command>);

impl Writer {
    /// `connection` must be to the file at `path`.
    pub(super) fn spawn(connection: Connection, path: &Path) -> Result<Self> {
        let file = OpenFile::at(path)?;
        let run = move |connection: &Connection, group: Vec<Command>| {
            commit_group(connection, &file, group);
        };
        Ok(Self(ConnectionThreads::spawn("catalog writer", vec![connection], MAX_GROUP, run)?))
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Sql) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let command = self.0.ask(|tx| -> Command {
            Box::new(move |connection| {
                let done = connection.and_then(|connection| work(connection));
                let keep = done.is_ok();
                let answer = move |committed: Result<()>| {
                    // The caller may be gone; its work is committed all the same.
                    let _ = tx.send(done.and_then(|value| committed.map(|()| value)));
                };
                CommandResult { keep, answer: Box::new(answer) }
            })
        });
        command.await
    }

    /// Queues `work` without waiting for it. A failure is logged.
    pub(super) fn post(&self, work: impl FnOnce(&dyn Sql) -> Result<()> + Send + 'static) {
        self.0.send(Box::new(move |connection| {
            let done = connection.and_then(|connection| work(connection));
            let keep = done.is_ok();
            let answer = move |committed: Result<()>| {
                if let Err(e) = done.and(committed) {
                    tracing::debug!("{}", e.report());
                }
            };
            CommandResult { keep, answer: Box::new(answer) }
        }));
    }
}

/// The identity of the open file. SQLite keeps writing to a file that was removed, and reports success.
#[derive(Clone)]
struct OpenFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl OpenFile {
    fn at(path: &Path) -> Result<Self> {
        let context = || format!("catalog {}", path.display());
        let found = fs::metadata(path).map_err(|e| Error::io(context(), e))?;
        Ok(Self { path: path.to_owned(), id: (found.dev(), found.ino()) })
    }

    /// Checks that the path still names this file.
    ///
    /// # Errors
    /// `NotFound` when the path names another file or none.
    fn check(&self) -> Result<()> {
        let found = fs::metadata(&self.path).map(|found| (found.dev(), found.ino()));
        if found.is_ok_and(|id| id == self.id) { Ok(()) } else { Err(file_moved(&self.path)) }
    }
}

fn commit_group(connection: &Connection, file: &OpenFile, group: Vec<Command>) {
    if let Err(e) = connection.execute_batch("BEGIN IMMEDIATE") {
        let error = sql_error(e);
        for command in group {
            (command(Err(error.clone())).answer)(Ok(()));
        }
        return;
    }
    let results: Vec<CommandResult> =
        group.into_iter().map(|command| in_savepoint(connection, command)).collect();
    let committed = connection.execute_batch("COMMIT").map_err(sql_error);
    let committed = committed.and_then(|()| file.check());
    if committed.is_err() {
        // The transaction may still be open. If it is not, the rollback fails, which is fine.
        let _ = connection.execute_batch("ROLLBACK");
    }
    for result in results {
        (result.answer)(committed.as_ref().copied().map_err(Error::clone));
    }
}

fn in_savepoint(connection: &Connection, command: Command) -> CommandResult {
    let execute = |sql: &str| connection.execute_batch(sql).map_err(sql_error);
    let mut result = match execute("SAVEPOINT command") {
        Ok(()) => command(Ok(connection)),
        Err(e) => return command(Err(e)),
    };
    let end = if result.keep { "RELEASE command" } else { "ROLLBACK TO command; RELEASE command" };
    if let Err(e) = execute(end) {
        // SQLite may have rolled back the whole transaction (on a full disk), so this command must not be answered as
        // done.
        let answer = result.answer;
        result = CommandResult { keep: false, answer: Box::new(move |_| answer(Err(e))) };
    }
    result
}
