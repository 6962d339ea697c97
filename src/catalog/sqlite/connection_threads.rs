//! Threads that own a connection each, and run the work of one queue. SQLite blocks its caller, so nothing of it runs
//! on the threads of the async runtime.
//!
//! Invariants: a connection is used by its own thread only. Work is taken in the order it was sent, by one thread. An
//! answer whose caller is gone is discarded. Dropping the threads runs the work that is still queued, and returns after
//! all connections are closed.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::error::{Error, Kind, Result};

pub(super) struct ConnectionThreads<W> {
    name: &'static str,
    /// `None` only during drop.
    queue: Option<mpsc::Sender<W>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl<W: Send + 'static> ConnectionThreads<W> {
    /// Starts a thread per connection. Each takes up to `most` pieces of queued work at once, and gives them to `run`.
    pub(super) fn spawn(
        name: &'static str,
        connections: Vec<Connection>,
        most: usize,
        run: impl Fn(&Connection, Vec<W>) + Clone + Send + 'static,
    ) -> Result<Self> {
        let (queue, receiver) = mpsc::channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads = Self { name, queue: Some(queue), threads: Vec::new() };
        for connection in connections {
            let (receiver, run) = (Arc::clone(&receiver), run.clone());
            let serve = move || {
                while let Some(group) = next_group(&receiver, most) {
                    run(&connection, group);
                }
            };
            let thread = thread::Builder::new()
                .name(name.into())
                .spawn(serve)
                .map_err(|e| Error::io(format!("cannot start the {name}"), e))?;
            threads.threads.push(thread);
        }
        Ok(threads)
    }

    /// Queues work. When the threads have stopped, it is dropped.
    pub(super) fn send(&self, work: W) {
        if let Some(queue) = &self.queue {
            let _ = queue.send(work);
        }
    }

    /// Queues the work that `make` returns, and waits for its answer. The work is queued before the first wait, and
    /// runs even if the caller stops waiting.
    pub(super) async fn ask<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T>>) -> W,
    ) -> Result<T> {
        let stopped = || Error::new(Kind::Internal, format!("the {} has stopped", self.name));
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.send(make(answer)).map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

impl<W> Drop for ConnectionThreads<W> {
    fn drop(&mut self) {
        drop(self.queue.take());
        for thread in self.threads.drain(..) {
            // The panic hook has already reported a panic of the thread.
            let _ = thread.join();
        }
    }
}

/// Waits for work, and takes up to `most` pieces of it; `None` when the queue is closed and empty. The lock is held
/// while waiting, so idle threads queue up for it, and released before the work runs.
fn next_group<W>(queue: &Mutex<mpsc::Receiver<W>>, most: usize) -> Option<Vec<W>> {
    let queue = queue.lock();
    let mut group = vec![queue.recv().ok()?];
    group.extend(queue.try_iter().take(most - 1));
    Some(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Work = (u32, oneshot::Sender<Result<u32>>);

    #[tokio::test]
    async fn queued_work_is_answered_before_the_threads_end() {
        let connections = vec![Connection::open_in_memory().unwrap()];
        let in_threads = Arc::new(());
        let (alive, gate) = (Arc::clone(&in_threads), Arc::new(Mutex::new(())));
        let entry = Arc::clone(&gate);
        let run = move |_: &Connection, group: Vec<Work>| {
            let _alive = &alive;
            drop(entry.lock());
            let len = u32::try_from(group.len()).unwrap();
            group.into_iter().for_each(|(n, answer)| answer.send(Ok(n * 10 + len)).unwrap());
        };
        let threads = ConnectionThreads::spawn("test", connections, 2, run).unwrap();
        let closed = gate.lock();
        let mut answers: Vec<_> = (0..5)
            .map(|n| {
                let (answer, answered) = oneshot::channel();
                threads.queue.as_ref().unwrap().send((n, answer)).unwrap();
                answered
            })
            .collect();
        assert!(answers.iter_mut().all(|answered| answered.try_recv().is_err()));
        drop(closed);
        drop(threads);
        assert_eq!(Arc::strong_count(&in_threads), 1, "no thread is left");
        for (n, mut answered) in (0..).zip(answers) {
            let answer: u32 = answered.try_recv().unwrap().unwrap();
            assert!(answer / 10 == n && (1..=2).contains(&(answer % 10)), "{n}: {answer}");
        }
    }
}
