//! `queue feeds` and `queue feed`: the feeds of the config file, and dry runs of any feed.

use chrono::{DateTime, Local};
use serde::Serialize;

use crate::{
    cli::{
        args::queue::{FeedCommand, FeedTestArgs},
        context::Context,
        output::{Align, Failure, sanitize, table},
    },
    config::FeedRules,
    error::{Error, Kind},
    queue::{FeedView, ItemView, Queue},
    units::{ByteSize, pluralize},
};

/// A feed as a line of `--json`.
#[derive(Serialize)]
struct FeedLine<'a> {
    event: &'static str,
    #[serde(flatten)]
    feed: &'a FeedView,
}

/// An item as a line of `--json`.
#[derive(Serialize)]
struct ItemLine<'a> {
    event: &'static str,
    #[serde(flatten)]
    item: &'a ItemView,
}

/// The last line of a dry run.
#[derive(Serialize)]
struct TestedLine<'a> {
    event: &'static str,
    title: &'a str,
    items: usize,
    add: usize,
    damage: Option<&'a str>,
}

/// The last line of a refresh.
#[derive(Serialize)]
struct RefreshedLine<'a> {
    event: &'static str,
    feed: &'a str,
    unchanged: bool,
    added: &'a [String],
}

pub(super) fn list(context: &Context, queue: &Queue) -> Result<(), Failure> {
    let feeds = queue.feeds();
    if context.out.is_json() {
        return feeds
            .iter()
            .try_for_each(|feed| context.out.json(&FeedLine { event: "feed", feed }));
    }
    if feeds.is_empty() {
        context.out.note("no feeds: add a section [feed.NAME] with a url to the config file");
        return Ok(());
    }
    let rows: Vec<_> = feeds.iter().map(row).collect();
    table(&COLUMNS, &rows).iter().try_for_each(|line| context.out.line(line))?;
    if context.host.is_none() {
        context.out.note("feeds are requested while `bae daemon` runs");
    }
    Ok(())
}

const COLUMNS: [(&str, Align); 6] = [
    ("NAME", Align::Left),
    ("LAST", Align::Left),
    ("NEXT", Align::Left),
    ("ITEMS", Align::Right),
    ("ADDED", Align::Right),
    ("STATE", Align::Left),
];

fn row(feed: &FeedView) -> Vec<String> {
    let state = match &feed.error {
        Some(error) => sanitize(&error.message),
        None if feed.fetched_at.is_none() => "not requested yet".to_owned(),
        None => "ok".to_owned(),
    };
    vec![
        feed.name.clone(),
        feed.fetched_at.map_or_else(|| "-".to_owned(), time),
        time(feed.next_at),
        feed.items.to_string(),
        feed.added.to_string(),
        state,
    ]
}

/// A time in the local time zone.
fn time(unix: u64) -> String {
    let utc = i64::try_from(unix).ok().and_then(|unix| DateTime::from_timestamp(unix, 0));
    match utc {
        Some(utc) if unix > 0 => utc.with_timezone(&Local).format("%Y-%m-%d %H:%M").to_string(),
        _ => "-".to_owned(),
    }
}

pub(super) async fn run(
    context: &Context,
    queue: &Queue,
    command: FeedCommand,
) -> Result<(), Failure> {
    match command {
        FeedCommand::Test(args) => test(context, queue, &args).await,
        FeedCommand::Refresh(args) => refresh(context, queue, &args.feed).await,
    }
}

async fn test(context: &Context, queue: &Queue, args: &FeedTestArgs) -> Result<(), Failure> {
    let FeedTestArgs { feed, include, exclude } = args;
    let preview = match feed.contains("://") {
        true => {
            let rules = FeedRules::parse(include, exclude)?;
            context.unless_cancelled(queue.preview_feed_url(feed, rules)).await?
        }
        false if include.is_empty() && exclude.is_empty() => {
            context.unless_cancelled(queue.preview_feed(feed)).await?
        }
        false => {
            let text = "--include and --exclude are for URLs: a feed of the config file has rules";
            return Err(Error::new(Kind::InvalidInput, text).into());
        }
    };
    let add = preview.items.iter().filter(|item| item.add).count();
    if context.out.is_json() {
        for item in &preview.items {
            context.out.json(&ItemLine { event: "item", item })?;
        }
        return context.out.json(&TestedLine {
            event: "tested",
            title: &preview.title,
            items: preview.items.len(),
            add,
            damage: preview.damage.as_deref(),
        });
    }
    preview.items.iter().try_for_each(|item| context.out.line(shown(item)))?;
    if let Some(damage) = &preview.damage {
        let text = format!("the feed is damaged behind its last item: {}", sanitize(damage));
        context.out.note(text);
    }
    let items = pluralize(preview.items.len(), "item");
    context.out.note(format_args!("{add} of {items} would be added"));
    Ok(())
}

fn shown(item: &ItemView) -> String {
    let title = match (item.title.as_str(), &item.link) {
        ("", Some(link)) => sanitize(link),
        ("", None) => "(no title)".to_owned(),
        (title, _) => sanitize(title),
    };
    let size = item.size.map(|bytes| format!(" ({})", ByteSize(bytes))).unwrap_or_default();
    match &item.reason {
        None => format!("add   {title}{size}"),
        Some(reason) => format!("skip  {title}{size}: {}", sanitize(&reason.to_string())),
    }
}

async fn refresh(context: &Context, queue: &Queue, name: &str) -> Result<(), Failure> {
    let refreshed = context.unless_cancelled(queue.refresh_feed(name)).await?;
    let (unchanged, added) = (refreshed.unchanged, &refreshed.added);
    if context.out.is_json() {
        let line = RefreshedLine { event: "refreshed", feed: name, unchanged, added };
        return context.out.json(&line);
    }
    let text = match unchanged {
        true => "nothing new".to_owned(),
        false => format!("added {}", pluralize(added.len(), "download")),
    };
    context.out.result(format_args!("{name}: {text}"))?;
    if let Some(error) = &refreshed.feed.error {
        context.out.note(format_args!("an item was not added: {}", sanitize(&error.message)));
    }
    Ok(())
}
