//! A compile-time test: the future of every public operation may move between threads, so that a server can spawn it.

use std::{future::Future, path::Path, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Access, AdoptRequest, Engine, EngineOptions, ExportOptions, FileRead, GcOptions, ImportHandle,
    ImportRequest, ProgressFn, ReadStream, RepairRequest, SeedGoalChange, SeedHandle, Streams,
    estimate,
};
use crate::{
    config::{Config, SeedOptions, SessionOptions, TorrentOptions},
    events::{EventLog, EventReader},
};

fn is_send<F: Future + Send>(_: F) {}
fn is_shared<T: Clone + Send + Sync + 'static>() {}

fn ignored() -> ProgressFn {
    Box::new(|_, _| {})
}

/// Never called: it only has to compile.
fn every_operation(
    engine: &Engine,
    config: Config,
    (request, repair, adopt): (ImportRequest, RepairRequest, AdoptRequest),
    (import, seeding, streams): (&ImportHandle, &SeedHandle, &Streams),
    (stream, file, events): (&mut ReadStream, &mut FileRead, &mut EventReader),
) {
    let cancel = CancellationToken::new;
    is_send(estimate(&config, SessionOptions::default(), &request, cancel()));
    is_send(engine.estimate(&request, cancel()));
    is_send(Engine::open(config, EngineOptions::new(Access::Write)));
    is_send(engine.close());
    is_send(engine.start_import(request.clone()));
    is_send(engine.start_repair("", Vec::new(), repair));
    is_send(engine.seed(Vec::new(), SeedOptions::default(), TorrentOptions::default()));
    is_send(engine.list());
    is_send(engine.info(""));
    is_send(engine.remove("", false));
    is_send(engine.gc(GcOptions { remove: false, attached: false }));
    is_send(engine.verify("", ignored(), cancel()));
    is_send(engine.verify_quick(""));
    is_send(engine.adopt(adopt, ignored(), cancel()));
    is_send(engine.attach("", true));
    is_send(engine.publish("", &[], ignored(), cancel()));
    is_send(engine.change_seed_goal("", SeedGoalChange::default()));
    is_send(engine.urls("", None, Duration::ZERO));
    is_send(engine.open_read("", None, None));
    is_send(engine.export("", Path::new(""), ExportOptions::default(), ignored(), cancel()));
    is_send(engine.stream("", streams));
    is_send(streams.wait_opened(0));
    is_send(stream.next());
    is_send(file.next());
    is_send(import.wait());
    is_send(import.wait_started());
    is_send(seeding.wait());
    is_send(events.next());
}

#[test]
fn engines_handles_and_the_futures_of_all_operations_move_between_threads() {
    is_shared::<Engine>();
    is_shared::<ImportHandle>();
    is_shared::<SeedHandle>();
    is_shared::<Streams>();
    is_shared::<EventLog>();
    is_shared::<EventReader>();
    let _ = every_operation;
}
