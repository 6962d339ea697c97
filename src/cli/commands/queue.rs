//! `queue`: the list of downloads. In a daemon it is the daemon's; without one, the list is changed and nothing starts.

use std::path::Path;

use serde::Serialize;

use crate::{
    cli::{
        args::queue::{QueueAddArgs, QueueCommand, QueueSelection},
        context::Context,
        output::{Align, Failure, sanitize, table},
    },
    daemon::DownloadView,
    engine::Access,
    error::{Error, Result},
    queue::{
        Download, DownloadId, Filter, NewDownload, NewSource, Order, Page, Queue, Seeding,
        Settings, State,
    },
    units::{ByteSize, pluralize},
};

/// A download as a line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    #[serde(flatten)]
    download: DownloadView<'a>,
}

pub(in crate::cli) async fn run(context: Context, command: QueueCommand) -> Result<(), Failure> {
    if let Some(host) = &context.host {
        return run_in(&context, host.api.queue(), command).await;
    }
    context
        .with_engine(Access::Write, async |engine| {
            let queue = Queue::open_idle(engine.clone()).await?;
            run_in(&context, &queue, command).await
        })
        .await
}

async fn run_in(context: &Context, queue: &Queue, command: QueueCommand) -> Result<(), Failure> {
    match command {
        QueueCommand::Add(args) => add(context, queue, args).await,
        QueueCommand::List => list(context, queue),
        QueueCommand::Pause(which) => {
            let ids = selected(queue, &which)?;
            queue.pause(&ids).await?;
            show(context, queue, "paused", &ids)
        }
        QueueCommand::Resume(which) => {
            let ids = selected(queue, &which)?;
            queue.resume(&ids).await?;
            show(context, queue, "resumed", &ids)
        }
        QueueCommand::Retry(which) => {
            let ids = selected(queue, &which)?;
            queue.retry(&ids).await?;
            show(context, queue, "retried", &ids)
        }
        QueueCommand::Move(args) => {
            let ids = [queue.find(&args.download)?.id.clone()];
            queue.move_to(&ids, args.to).await?;
            show(context, queue, "moved", &ids)
        }
        QueueCommand::Remove(args) => {
            let ids = found(queue, &args.downloads)?;
            remove(context, queue, &ids, args.data).await
        }
        QueueCommand::Clear(args) => {
            let ids: Vec<_> = all(queue)
                .iter()
                .filter(|download| is_finished(download, args.failed))
                .map(|download| download.id.clone())
                .collect();
            remove(context, queue, &ids, false).await
        }
        QueueCommand::Feeds => super::feeds::list(context, queue),
        QueueCommand::Feed(command) => super::feeds::run(context, queue, command).await,
    }
}

/// Whether nothing more happens to a download. A torrent that is seeded is not finished.
fn is_finished(download: &Download, or_failed: bool) -> bool {
    match download.state {
        State::Done => !matches!(download.seeding, Seeding::Active | Seeding::Waiting),
        State::Failed { .. } => or_failed,
        _ => false,
    }
}

fn all(queue: &Queue) -> Vec<std::sync::Arc<Download>> {
    queue.list(&Filter::default(), Page { order: Order::Queue, ..Page::default() }).downloads
}

fn found(queue: &Queue, downloads: &[String]) -> Result<Vec<DownloadId>> {
    downloads.iter().map(|text| Ok(queue.find(text)?.id.clone())).collect()
}

fn selected(queue: &Queue, which: &QueueSelection) -> Result<Vec<DownloadId>> {
    match which.all {
        true => Ok(all(queue).iter().map(|download| download.id.clone()).collect()),
        false => found(queue, &which.downloads),
    }
}

async fn add(context: &Context, queue: &Queue, args: QueueAddArgs) -> Result<(), Failure> {
    let mut first_failure = None;
    for text in &args.sources {
        let added = async { queue.add(request(context, &args, text).await?).await };
        match context.unless_cancelled(added).await {
            Ok(added) => {
                let event = if added.is_new { "added" } else { "known" };
                show_one(context, event, &added.download)?;
            }
            Err(error) => {
                let error = super::import::with_source(error, text);
                context.out.error(&error);
                first_failure.get_or_insert(error.kind());
            }
        }
    }
    match first_failure {
        Some(kind) => Err(Failure::Reported(kind)),
        None => Ok(()),
    }
}

async fn request(context: &Context, args: &QueueAddArgs, text: &str) -> Result<NewDownload> {
    Ok(NewDownload {
        source: source(context, text).await?,
        layout: args.layout.map(Into::into),
        paused: args.paused,
        first: args.first,
        settings: Settings {
            storage: args.storage.clone().unwrap_or_default(),
            category: args.category.clone(),
            tags: args.tag.iter().cloned().collect(),
            priority: args.priority.into(),
            select: args.select.clone(),
            ..Settings::default()
        },
        ..NewDownload::default()
    })
}

/// Most bytes of a torrent file.
const MAX_TORRENT: u64 = 64 << 20;

/// The source that an argument names: a file that exists, or a link.
async fn source(context: &Context, text: &str) -> Result<NewSource> {
    let file_url = url::Url::parse(text).ok().filter(|url| url.scheme() == "file");
    let path = match file_url.map(|url| url.to_file_path()) {
        Some(Ok(path)) => path,
        _ if text == "-" || Path::new(text).is_file() => text.into(),
        _ => return Ok(NewSource::Link(text.to_owned())),
    };
    let streams = context.out.streams().clone();
    let read = tokio::task::spawn_blocking(move || match path.as_os_str() == "-" {
        true => streams.read_to_end(MAX_TORRENT),
        false => {
            use std::io::Read as _;
            let mut bytes = Vec::new();
            std::fs::File::open(path)?.take(MAX_TORRENT).read_to_end(&mut bytes).map(|_| bytes)
        }
    });
    let read = read.await.map_err(std::io::Error::other).flatten();
    read.map(NewSource::Torrent).map_err(|e| Error::io("cannot read the torrent file", e))
}

async fn remove(
    context: &Context,
    queue: &Queue,
    ids: &[DownloadId],
    with_data: bool,
) -> Result<(), Failure> {
    let removed: Vec<_> = ids.iter().map(|id| queue.get(id)).collect::<Result<_>>()?;
    queue.remove(ids, with_data).await?;
    removed.iter().try_for_each(|download| show_one(context, "removed", download))?;
    if removed.is_empty() {
        context.out.note("nothing to remove");
    }
    Ok(())
}

fn show(
    context: &Context,
    queue: &Queue,
    event: &'static str,
    ids: &[DownloadId],
) -> Result<(), Failure> {
    ids.iter().try_for_each(|id| show_one(context, event, &*queue.get(id)?))
}

fn show_one(context: &Context, event: &'static str, download: &Download) -> Result<(), Failure> {
    if context.out.is_json() {
        return context.out.json(&Line { event, download: download.into() });
    }
    let (id, name, state) = (&download.id, sanitize(&download.name), download.state.name());
    let text = if event == "known" { "already in the queue:" } else { event };
    context.out.result(format_args!("{text} {id} {name}: {}", state.as_str()))
}

fn list(context: &Context, queue: &Queue) -> Result<(), Failure> {
    let downloads = all(queue);
    if context.out.is_json() {
        return downloads.iter().try_for_each(|download| {
            context.out.json(&Line { event: "download", download: (&**download).into() })
        });
    }
    if downloads.is_empty() {
        context.out.note("the queue is empty");
        return Ok(());
    }
    let rows: Vec<_> = downloads.iter().map(|download| row(download)).collect();
    table(&COLUMNS, &rows).iter().try_for_each(|line| context.out.line(line))?;
    if context.host.is_none() {
        let waiting = downloads.iter().filter(|download| !is_finished(download, true)).count();
        if waiting > 0 {
            let downloads = pluralize(waiting, "download");
            context.out.note(format_args!("{downloads} wait until `bae daemon` runs"));
        }
    }
    Ok(())
}

const COLUMNS: [(&str, Align); 7] = [
    ("NUMBER", Align::Right),
    ("ID", Align::Left),
    ("STATE", Align::Left),
    ("STORED", Align::Right),
    ("SIZE", Align::Right),
    ("PRIORITY", Align::Left),
    ("NAME", Align::Left),
];

fn row(download: &Download) -> Vec<String> {
    let progress = &download.progress;
    let state = match (&download.state, download.seeding) {
        (State::Done, Seeding::Active) => "seeding",
        (state, _) => state.name().as_str(),
    };
    let size = progress.bytes.map_or_else(String::new, |bytes| ByteSize(bytes).to_string());
    vec![
        download.number.to_string(),
        download.id.to_string(),
        state.to_owned(),
        ByteSize(progress.stored).to_string(),
        size,
        download.settings.priority.as_str().to_owned(),
        sanitize(&download.name),
    ]
}
