//! `import` and `seed`: import sources, and seed imports to the swarm.

use std::{future::Future, net::SocketAddr, pin::pin};

use url::Url;

use super::{estimate, stream};
use crate::{
    cli::{
        args::{ImportArgs, SeedArgs},
        context::{Context, interrupted},
        output::{Failure, progress::follow, sanitize},
    },
    config::{NetworkOptions, SeedOptions, TorrentOptions},
    engine::{Access, Engine, EngineOptions, ImportRequest, Streams, identify_torrent},
    error::{Error, Kind},
    events::Imported,
    redact,
};

/// Most bytes of standard input.
const MAX_INPUT: u64 = 64 << 20;

/// Imports the sources one after the other. One failure does not stop the others; the exit code is that of the first
/// failure.
pub(in crate::cli) async fn import(context: Context, args: ImportArgs) -> Result<(), Failure> {
    if args.dry_run {
        return estimate::dry_run(context, args).await;
    }
    // Check the storage name before anything is opened, so that a wrong name fails at once.
    context.config.storage(&args.storage)?;
    let NetworkOptions { session, torrent } =
        args.network.resolve(context.config.network.clone())?;
    if args.sources.len() > 1 && !args.fetch.checksum.is_empty() {
        return Err(Error::new(
            Kind::InvalidInput,
            "--checksum is for one source, but several are given",
        )
        .into());
    }
    let urls: Vec<_> = args.sources.iter().filter_map(|text| Url::parse(text).ok()).collect();
    args.fetch.warn_about_user_mismatch(urls.iter());
    let download = args.fetch.download_options(&context, &session).await?;
    let request = ImportRequest {
        source: String::new(),
        torrent_file: None,
        storage: args.storage,
        select: args.select,
        layout: args.layout.into(),
        torrent,
        // With several sources, seeding starts after the last import; otherwise the first would never end.
        seed: args.seed && args.sources.len() == 1,
        seeding: args.goals.resolve(context.config.seeding.clone()),
        timeout: context.config.timeout,
        streams: args.stream.map(|_| Streams::default()),
        download,
    };
    let options = EngineOptions::new(Access::Write).session(session);
    let seed_after = args.seed && args.sources.len() > 1;
    let sources = args.sources;
    context
        .with_engine_options(options, async |engine| {
            let work = async {
                let ids = import_each(&context, engine, &sources, &request).await?;
                if seed_after {
                    let seeding = (request.seeding.clone(), request.torrent.clone());
                    seed_all(&context, engine, ids, seeding).await?;
                }
                Ok(())
            };
            match (&request.streams, args.stream) {
                (Some(streams), Some(listen)) => {
                    serve_during(&context, streams, listen, work).await
                }
                _ => work.await,
            }
        })
        .await
}

/// Runs `work` while serving players, and then serves players until stopped.
async fn serve_during(
    context: &Context,
    streams: &Streams,
    listen: SocketAddr,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let server = stream::bind(listen, streams).await?;
    let work = async {
        work.await?;
        context.cancel.cancelled().await;
        Ok(())
    };
    let mut work = pin!(work);
    tokio::select! {
        done = &mut work => done,
        failure = stream::serve(context, &server, streams) => {
            // Standard output is closed: stop as after Ctrl-C. Stored data is kept.
            context.cancel.cancel();
            work.await.and(Err(failure))
        }
    }
}

async fn import_each(
    context: &Context,
    engine: &Engine,
    sources: &[String],
    request: &ImportRequest,
) -> Result<Vec<String>, Failure> {
    let mut ids = Vec::new();
    let mut first_failure = None;
    for source in sources {
        let request = match with_input(context, source, request).await {
            Ok(request) => request,
            Err(error) => {
                context.out.error(&error);
                first_failure.get_or_insert(error.kind());
                continue;
            }
        };
        match import_one(context, engine, request).await {
            Ok(imported) => ids.push(imported.id),
            Err(Failure::Error(error)) => {
                let error = if sources.len() > 1 { with_source(error, source) } else { error };
                if error.kind() == Kind::Cancelled {
                    return Err(error.into());
                }
                context.out.error(&error);
                first_failure.get_or_insert(error.kind());
            }
            Err(failure) => return Err(failure),
        }
    }
    match first_failure {
        Some(kind) => Err(Failure::Reported(kind)),
        None => Ok(ids),
    }
}

/// The request for a source. In a daemon, standard input is that of the client.
async fn with_input(
    context: &Context,
    source: &str,
    request: &ImportRequest,
) -> crate::Result<ImportRequest> {
    let request = ImportRequest { source: source.to_owned(), ..request.clone() };
    if context.host.is_none() || source != "-" {
        return Ok(request);
    }
    let streams = context.out.streams().clone();
    let read = tokio::task::spawn_blocking(move || streams.read_to_end(MAX_INPUT));
    let read = async { read.await.map_err(std::io::Error::other).flatten() };
    let failed = |e| Error::io("cannot read standard input", e);
    let bytes = context.unless_cancelled(async { read.await.map_err(failed) }).await?;
    let identity = identify_torrent(bytes).map_err(|e| e.with_context("standard input"))?;
    Ok(ImportRequest { source: identity.source, torrent_file: identity.torrent_file, ..request })
}

/// Prefixes an error with its source, unless the error already names it.
pub(super) fn with_source(error: Error, source: &str) -> Error {
    let source = match source {
        "-" => "standard input".to_owned(),
        source => sanitize(&redact::source(source.trim())),
    };
    if error.report().contains(&source) { error } else { error.with_context(source) }
}

async fn import_one(
    context: &Context,
    engine: &Engine,
    request: ImportRequest,
) -> Result<Imported, Failure> {
    if context.cancel.is_cancelled() {
        return Err(with_resume_hint(interrupted()).into());
    }
    let events = engine.events().subscribe();
    let import = match context.unless_cancelled(engine.start_import(request)).await {
        Err(error) if error.kind() == Kind::Cancelled => return Err(with_resume_hint(error).into()),
        started => started?,
    };
    // A daemon does other things, too.
    let events = if context.host.is_some() { import.all_events() } else { events };
    let work = context.wait_or_stop(|| import.cancel(), async {
        let imported = import.wait().await?;
        if let Some(seeding) = import.seeding() {
            seeding.wait().await?;
        }
        Ok(imported)
    });
    match follow(&context.out, events, &context.cancel, work).await {
        Err(Failure::Error(error)) if error.kind() == Kind::Cancelled => {
            Err(with_resume_hint(error).into())
        }
        done => done,
    }
}

fn with_resume_hint(error: Error) -> Error {
    match error.typed_hint() {
        Some(_) => error,
        None => {
            error.hint("run the same command again to resume; stored data is not fetched again")
        }
    }
}

/// Returns `Ok` when stopped, and when all goals are reached.
pub(in crate::cli) async fn seed(context: Context, args: SeedArgs) -> Result<(), Failure> {
    let NetworkOptions { session, torrent } =
        args.network.resolve(context.config.network.clone())?;
    let seeding = (args.goals.resolve(context.config.seeding.clone()), torrent);
    let imports = args.imports;
    let options = EngineOptions::new(Access::Write).session(session);
    context
        .with_engine_options(options, async |engine| {
            seed_all(&context, engine, imports, seeding).await
        })
        .await
}

async fn seed_all(
    context: &Context,
    engine: &Engine,
    imports: Vec<String>,
    (options, torrent): (SeedOptions, TorrentOptions),
) -> Result<(), Failure> {
    let events = engine.events().subscribe();
    let seeding = match engine.seed(imports, options, torrent).await {
        Ok(seeding) => seeding,
        // Stopped before the first import was added.
        Err(e) if e.kind() == Kind::Cancelled => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    // A daemon does other things, too.
    let events = match context.host.is_some() {
        true => events.only_handle(seeding.number()),
        false => events,
    };
    let work = context.wait_or_stop(|| seeding.stop(), seeding.wait());
    follow(&context.out, events, &context.cancel, work).await
}
