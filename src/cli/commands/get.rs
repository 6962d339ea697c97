//! `get`: downloads URLs to plain files.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::estimate::rendition_lines;
use crate::{
    cli::{
        args::{
            get::GetArgs,
            input_file::{self, ListEntry},
        },
        context::{Context, interrupted},
        output::{Failure, Output, progress::follow, sanitize},
    },
    config::Proxy,
    downloads::is_stdout,
    engine::{GetItem, GetOptions, GetPreview, Getter},
    error::{Error, Kind, Result},
    events::{Event, EventSink},
    protocols::{Rendition, url_error_reason},
    units::ByteSize,
};

/// Downloads all items. One failure does not stop the others; the exit code is that of the first item that failed.
pub(in crate::cli) async fn get(context: Context, args: GetArgs) -> Result<(), Failure> {
    let items = items(&context, &args).await?;
    args.fetch.warn_about_user_mismatch(items.iter().flatten().flat_map(|item| &item.urls));
    let getter = Getter::new(get_options(&context, &args).await?);
    if args.dry_run {
        return preview_all(context, getter, items).await;
    }
    let to_stdout = |out: &Path| {
        out == STDOUT || is_stdout(&args.dir.as_deref().unwrap_or(Path::new("")).join(out))
    };
    if args.out.as_deref().is_some_and(to_stdout) {
        return download_to_stdout(context, getter, items).await;
    }
    let (sink, events) = EventSink::channel();
    let (cancel, out) = (context.cancel.clone(), context.out.clone());
    let work = download_all(getter, items, sink, cancel, out);
    match follow(&context.out, events, &context.cancel, work).await? {
        None => Ok(()),
        Some(Kind::Cancelled) => Err(interrupted()
            .hint("run the same command again to resume; data on disk is not downloaded again")
            .into()),
        Some(kind) => Err(Failure::Reported(kind)),
    }
}

#[derive(Serialize)]
struct RenditionLine<'a> {
    event: &'static str,
    #[serde(flatten)]
    rendition: &'a Rendition,
}

/// Prints what would be downloaded. The exit code is that of the first item that cannot be.
async fn preview_all(
    context: Context,
    getter: Getter,
    items: Vec<Result<GetItem>>,
) -> Result<(), Failure> {
    let mut first_failure = None;
    for item in items {
        let preview = async { getter.preview(&item?, &EventSink::none(), &context.cancel).await };
        match preview.await {
            Ok(preview) => show_preview(&context.out, preview)?,
            Err(error) if error.kind() == Kind::Cancelled => return Err(interrupted().into()),
            Err(error) => {
                context.out.error(&error);
                first_failure.get_or_insert(error.kind());
            }
        }
    }
    first_failure.map_or(Ok(()), |kind| Err(Failure::Reported(kind)))
}

fn show_preview(out: &Output, preview: GetPreview) -> Result<(), Failure> {
    let GetPreview { files, renditions } = preview;
    if out.is_json() {
        files.into_iter().try_for_each(|file| out.json(&Event::Found(file)))?;
        let line = |rendition| RenditionLine { event: "rendition", rendition };
        return renditions.iter().try_for_each(|rendition| out.json(&line(rendition)));
    }
    for file in &files {
        let size = file.bytes.map_or("of unknown length".into(), |len| ByteSize(len).to_string());
        out.line(format_args!("{}: {size}", sanitize(&file.path)))?;
    }
    rendition_lines(&renditions).iter().try_for_each(|line| out.line(line))
}

/// The value of `-o` for standard output.
const STDOUT: &str = "-";

/// Downloads one file to standard output. A closed pipe ends it without an error, as for `cat`.
async fn download_to_stdout(
    context: Context,
    getter: Getter,
    items: Vec<Result<GetItem>>,
) -> Result<(), Failure> {
    if context.out.is_json() {
        let text = "-o - and --json both use standard output";
        return Err(Error::new(Kind::InvalidInput, text).hint("omit one of them").into());
    }
    let (out, closed) = (context.out.with_results_on_stderr(), Arc::new(AtomicBool::new(false)));
    let sink = {
        let (out, closed) = (out.clone(), Arc::clone(&closed));
        Box::new(move |bytes: &[u8]| {
            let written = out.raw_io(bytes);
            let is_closed = written.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
            closed.fetch_or(is_closed, Ordering::Relaxed);
            written
        })
    };
    let (event_sink, events) = EventSink::channel();
    let work = async {
        let item =
            items.into_iter().next().expect("-o is rejected unless there is exactly one item");
        getter.get_to(item?, sink, &event_sink, &context.cancel).await
    };
    match follow(&out, events, &context.cancel, work).await {
        Err(_) if closed.load(Ordering::Relaxed) => Err(Failure::PipeClosed),
        Err(Failure::Error(e)) if e.kind() == Kind::Cancelled => Err(interrupted().into()),
        done => done.map(drop),
    }
}

/// Returns the kind of the first failure in the order of the items. Each error is printed when it occurs.
async fn download_all(
    getter: Getter,
    items: Vec<Result<GetItem>>,
    events: EventSink,
    cancel: CancellationToken,
    out: Output,
) -> Result<Option<Kind>> {
    let mut running = JoinSet::new();
    for (number, item) in items.into_iter().enumerate() {
        let (getter, events, cancel) = (getter.clone(), events.clone(), cancel.clone());
        running.spawn(async move {
            match item {
                Ok(item) => (number, getter.get(item, &events, &cancel).await),
                Err(error) => (number, Err(error)),
            }
        });
    }
    let mut first: Option<(usize, Kind)> = None;
    while let Some(ended) = running.join_next().await {
        let (number, ended) = ended.unwrap_or_else(|e| {
            (usize::MAX, Err(Error::new(Kind::Internal, "a download panicked").because(e)))
        });
        let Err(error) = ended else { continue };
        if error.kind() != Kind::Cancelled {
            out.error(&error);
        }
        if first.is_none_or(|(before, _)| number < before) {
            first = Some((number, error.kind()));
        }
    }
    Ok(first.map(|(_, kind)| kind))
}

async fn get_options(context: &Context, args: &GetArgs) -> Result<GetOptions, Failure> {
    let network = &context.config.network.session;
    let given = args.proxy.as_ref().filter(|text| !text.trim().is_empty());
    let proxy = given.map(|text| text.parse::<Proxy>()).transpose()?;
    let proxy = proxy.or_else(|| network.proxy.clone());
    let user_agent = args.user_agent.clone().or_else(|| network.user_agent.clone());
    let range = match (args.range_start, args.range_end) {
        (None, None) => None,
        (start, end) => {
            if let (Some(first), Some(last)) = (start, end)
                && last < first
            {
                let text = format!("--range-end {} is before --range-start {}", last.0, first.0);
                return Err(Error::new(Kind::InvalidInput, text).into());
            }
            let end = end.map(|end| end.0.saturating_add(1));
            Some((start.unwrap_or_default().0, end))
        }
    };
    let mut fetch = args.fetch.fetch_options(context, proxy, user_agent).await?;
    // With several URLs, --mirror is about one file on several servers.
    fetch.streams.mirror &= args.urls.len() <= 1;
    Ok(GetOptions {
        fetch,
        protocol: args.fetch.protocol.clone(),
        fetch_limits: args.fetch.limits(),
        jobs: args.jobs as usize,
        limit: context.config.limit_rate,
        limit_each: args.limit_each,
        resume: args.fetch.resume(),
        sidecar: args.fetch.sidecar_checksum,
        overwrite: args.overwrite,
        memory: context.config.memory,
        range,
    })
}

/// The items to download; `Err` for an item that is not valid.
async fn items(context: &Context, args: &GetArgs) -> Result<Vec<Result<GetItem>>, Failure> {
    let dir = args.dir.clone().unwrap_or_default();
    let mut lines: Vec<ListEntry> = match args.fetch.streams.mirror() {
        true if !args.urls.is_empty() => vec![ListEntry::mirrors(args.urls.clone())],
        _ => args.urls.iter().map(|url| ListEntry::mirrors(vec![url.clone()])).collect(),
    };
    if let Some(path) = &args.input_file {
        lines.extend(context.unless_cancelled(input_file::read(path.clone())).await?);
    }
    let bad = |text: &str, hint: &str| Err(Error::new(Kind::InvalidInput, text).hint(hint).into());
    if lines.is_empty() {
        return bad("nothing to download", "give a URL, or a list of URLs with -i FILE");
    }
    if lines.len() > 1 && args.out.is_some() {
        return bad(
            "-o names one file, but several are downloaded",
            "omit -o, or add --mirror if all URLs are the same file",
        );
    }
    if lines.len() > 1 && !args.fetch.checksum.is_empty() {
        return bad(
            "--checksum is for one file, but several are downloaded",
            "write the checksums in the list for -i",
        );
    }
    let item = |line: ListEntry| {
        let checksums = args.fetch.checksum.iter().chain(&line.checksums).cloned().collect();
        Ok(GetItem {
            urls: line.urls.iter().map(|url| parse_url(url)).collect::<Result<_>>()?,
            dir: line.dir.map_or_else(|| dir.clone(), |below| dir.join(below)),
            out: args.out.clone().or(line.out),
            checksums,
        })
    };
    let mut items: Vec<Result<GetItem>> = lines.into_iter().map(item).collect();
    match items.pop_if(|item| item.is_err()) {
        // The only item is not valid: fail before any password prompt.
        Some(Err(error)) if items.is_empty() => return Err(error.into()),
        last => items.extend(last),
    }
    Ok(items)
}

/// Parses a URL as typed. Without a scheme it is `http`, as for curl and wget. Errors never contain a password in the
/// text.
pub(super) fn parse_url(text: &str) -> Result<Url> {
    let parsed = match text.contains("://") {
        true => Url::parse(text),
        false => {
            if let Some(scheme) = scheme_without_host(text) {
                let error = Error::new(
                    Kind::InvalidInput,
                    format!("a {scheme}: link is not the URL of a file on a server"),
                );
                return Err(match scheme.as_str() {
                    "magnet" => error.hint("use `bae import` for magnet links"),
                    _ => error.hint("write it as SCHEME://HOST/PATH"),
                });
            }
            Url::parse(&format!("http://{text}"))
        }
    };
    parsed.map_err(|e| {
        let shown = text.split(['?', '@']).next().unwrap_or_default();
        let shown = if text.contains('@') { "a URL" } else { shown };
        Error::new(Kind::InvalidInput, format!("{shown:?} is not a URL"))
            .because(url_error_reason(text, e))
    })
}

/// The scheme of a link without a host, such as `magnet:?xt=…`. `host:80/path` and `user:password@host` have no scheme.
fn scheme_without_host(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-".contains(&b));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_port = !host.is_empty() && host.bytes().all(|b| b.is_ascii_digit());
    let known =
        ["magnet", "mailto", "data", "urn"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let is_local = scheme.eq_ignore_ascii_case("file");
    let is_port = is_port || rest.starts_with('/') && !is_local;
    let is_login = host.contains('@') && !known;
    (is_scheme && !is_port && !is_login).then(|| scheme.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_scheme_is_http_and_errors_contain_no_password() {
        assert_eq!(parse_url("x.example:81/a").unwrap().as_str(), "http://x.example:81/a");
        assert_eq!(parse_url("ftp://x/a").unwrap().scheme(), "ftp");
        let e = parse_url("http://[fe80::1%25eth0]/a").unwrap_err();
        assert!(e.report().contains("zone"), "{}", e.report());
        assert_eq!(parse_url("x:81").unwrap().port(), Some(81));
        assert_eq!(parse_url("u:p@x/a").unwrap().username(), "u");
        for link in ["magnet:?xt=urn:btih:00", "mailto:me@x.example", "FILE:/x"] {
            let error = parse_url(link).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput, "{link}");
            assert!(error.report().contains("link"), "{}", error.report());
        }
        let e = parse_url("http://u:hunter2@x:port/").unwrap_err();
        assert!(!e.report().contains("hunter2"), "{}", e.report());
    }
}
