//! The readers: threads with a read-only connection each.
//!
//! Invariants: the statements of one read see one commit. A read that starts after a write was answered sees that
//! write. A read whose caller is gone before it starts is skipped.

use rusqlite::Connection;

use super::{connection_threads::ConnectionThreads, errors::sql_error};
use crate::{catalog::sql::Sql, error::Result};

/// A long read, such as that of all imports, leaves the other thread to short ones.
pub(super) const READERS: usize = 2;

type Read = Box<dyn FnOnce(&Connection) + Send>;

pub(super) struct Readers(ConnectionThreads<Read>);

impl Readers {
    pub(super) fn spawn(connections: Vec<Connection>) -> Result<Self> {
        let run = |connection: &Connection, reads: Vec<Read>| {
            reads.into_iter().for_each(|read| read(connection));
        };
        Ok(Self(ConnectionThreads::spawn("catalog reader", connections, 1, run)?))
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Sql) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let read = self.0.ask(|answer| {
            Box::new(move |connection| {
                if !answer.is_closed() {
                    // The caller may have stopped waiting meanwhile.
                    let _ = answer.send(in_one_snapshot(connection, work));
                }
            })
        });
        read.await
    }
}

/// Runs `work` in a read transaction, which begins with its first statement and ends when this returns.
fn in_one_snapshot<T>(
    connection: &Connection,
    work: impl FnOnce(&dyn Sql) -> Result<T>,
) -> Result<T> {
    let transaction = connection.unchecked_transaction().map_err(sql_error)?;
    work(&*transaction)
}

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        pin::pin,
        sync::{
            Arc, Barrier,
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
    };

    use futures_util::poll;
    use tokio::{sync::oneshot, task::JoinHandle};

    use super::*;
    use crate::catalog::{
        Catalog, ImportId, ImportState, NewImport,
        sql::{scalar, values},
    };

    async fn catalog() -> (tempfile::TempDir, Catalog) {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        (dir, catalog)
    }

    /// A read that runs until it is released. Returns when it has started.
    async fn slow_read(catalog: &Catalog) -> (mpsc::Sender<()>, JoinHandle<Result<()>>) {
        let ((start, started), (release, released)) = (oneshot::channel(), mpsc::channel());
        let catalog = catalog.clone();
        let read = tokio::spawn(async move {
            let work = move |_: &dyn Sql| {
                start.send(()).unwrap();
                let _ = released.recv();
                Ok(())
            };
            catalog.read(work).await
        });
        started.await.unwrap();
        (release, read)
    }

    /// Checks that each thread still runs reads: as many reads as there are threads wait for each other.
    async fn check_all_threads_read(catalog: &Catalog) {
        let barrier = Arc::new(Barrier::new(READERS));
        let read = || {
            let barrier = Arc::clone(&barrier);
            catalog.read(move |_| Ok(barrier.wait().is_leader()))
        };
        futures_util::future::try_join_all((0..READERS).map(|_| read())).await.unwrap();
    }

    // The runtime of these tests has one thread. A read or write that blocked it would never end.
    #[tokio::test]
    async fn a_slow_read_delays_no_write_no_other_read_and_no_task() {
        let (_dir, catalog) = catalog().await;
        let (release, slow) = slow_read(&catalog).await;
        catalog.create_import(NewImport::default()).await.unwrap();
        assert_eq!(catalog.list().await.unwrap().len(), 1);
        // With all threads busy, reads wait without their callers' thread, and writes do not wait.
        let (release_other, other) = slow_read(&catalog).await;
        let mut waiting = pin!(catalog.list());
        assert!(poll!(&mut waiting).is_pending());
        catalog.create_import(NewImport::default()).await.unwrap();
        tokio::spawn(async {}).await.unwrap();
        assert!(poll!(&mut waiting).is_pending() && !slow.is_finished());
        drop((release, release_other));
        assert_eq!(waiting.await.unwrap().len(), 2);
        slow.await.unwrap().unwrap();
        other.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_read_sees_all_writes_that_were_answered_before() {
        let (_dir, catalog) = catalog().await;
        for n in 0..30 {
            let value = Some(n.to_string());
            catalog.set_backend_value("file", "n", value.clone()).await.unwrap();
            // On each thread.
            let read = || catalog.backend_value("file", "n");
            let found = futures_util::future::try_join(read(), read()).await.unwrap();
            assert_eq!(found, (value.clone(), value));
        }
    }

    #[tokio::test]
    async fn the_statements_of_a_read_see_one_commit() {
        let (_dir, catalog) = catalog().await;
        let ((start, started), (release, released)) = (oneshot::channel(), mpsc::channel::<()>());
        let count = |db: &dyn Sql| {
            scalar::<u32>(db, "SELECT count(*) FROM imports", values![]).map(Option::unwrap)
        };
        let read = catalog.read(move |db| {
            let before = count(db)?;
            start.send(()).unwrap();
            let _ = released.recv();
            Ok((before, count(db)?))
        });
        let write = async {
            started.await.unwrap();
            catalog.create_import(NewImport::default()).await.unwrap();
            drop(release);
        };
        let (counts, ()) = tokio::join!(read, write);
        assert_eq!(counts.unwrap(), (0, 0));
        assert_eq!(catalog.read(count).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn reads_whose_callers_are_gone_are_skipped_and_leave_the_threads_usable() {
        let (_dir, catalog) = catalog().await;
        let (release, running) = slow_read(&catalog).await;
        let (release_other, other) = slow_read(&catalog).await;
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&runs);
        let mut queued =
            Box::pin(catalog.read(move |_| Ok(counted.fetch_add(1, Ordering::Relaxed))));
        assert!(poll!(&mut queued).is_pending());
        drop(queued);
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        drop((release, release_other));
        other.await.unwrap().unwrap();
        check_all_threads_read(&catalog).await;
        assert_eq!(runs.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_failed_read_ends_its_snapshot() {
        let (_dir, catalog) = catalog().await;
        for _ in 0..READERS * 2 {
            let failing = catalog.read(|db| db.execute("DELETE FROM imports", values![]));
            assert!(failing.await.is_err(), "readers cannot write");
        }
        let id = catalog.create_import(NewImport::default()).await.unwrap().id;
        let get = || catalog.get(&id);
        let found = futures_util::future::try_join(get(), get()).await.unwrap();
        assert_eq!(found.0, found.1);
    }

    /// Open descriptors of files under `dir`.
    fn open_files(dir: &Path) -> usize {
        let dir = dir.canonicalize().unwrap();
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = open.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        targets.filter(|target| target.starts_with(&dir)).count()
    }

    #[tokio::test]
    async fn the_threads_end_and_the_file_is_closed_with_the_last_clone() {
        let (dir, catalog) = catalog().await;
        catalog.list().await.unwrap();
        let clone = catalog.clone();
        drop(catalog);
        assert!(open_files(dir.path()) > 0);
        assert_eq!(clone.list().await.unwrap(), []);
        let read_only = Catalog::open_read_only(dir.path()).await.unwrap();
        drop(clone);
        assert_eq!(read_only.list().await.unwrap(), []);
        drop(read_only);
        assert_eq!(open_files(dir.path()), 0);
    }

    #[tokio::test]
    async fn futures_of_the_catalog_can_be_spawned() {
        fn assert_send<F: Send>(_: F) {}
        let ((dir, catalog), id) = (catalog().await, ImportId::random().unwrap());
        assert_send(Catalog::open(dir.path()));
        assert_send(Catalog::open_shared(dir.path()));
        assert_send(catalog.list());
        assert_send(catalog.find("x"));
        assert_send(catalog.find_by_info_hash(None, None));
        assert_send(catalog.contents(&id));
        assert_send(catalog.key_states("file", Vec::new()));
        assert_send(catalog.usage_by_storage(None));
        assert_send(catalog.set_state(&id, ImportState::Kept));
    }
}
