//! `publish` and `url`: store whole files under their own names, and print links to them.

use serde::Serialize;

use crate::{
    cli::{
        args::{PublishArgs, UrlArgs},
        context::Context,
        output::{Failure, progress::bytes_bar, sanitize},
    },
    engine::{Access, PublishSummary},
    units::{ByteSize, pluralize},
};

#[derive(Serialize)]
struct PublishedLine<'a> {
    event: &'static str,
    import: &'a str,
    #[serde(flatten)]
    summary: PublishSummary,
}

pub(in crate::cli) async fn publish(context: Context, args: PublishArgs) -> Result<(), Failure> {
    let PublishArgs { import, paths } = args;
    let summary = context
        .with_engine(Access::Write, async |engine| {
            let progress = bytes_bar(&context.out, "published");
            Ok(engine.publish(&import, &paths, progress, context.cancel.clone()).await?)
        })
        .await?;
    if context.out.is_json() {
        return context.out.json(&PublishedLine { event: "published", import: &import, summary });
    }
    let PublishSummary { done, already, incomplete } = summary;
    if incomplete > 0 {
        let (files, are) =
            (pluralize(incomplete, "file"), if incomplete == 1 { "is" } else { "are" });
        context.out.note(format_args!(
            "{files} {are} not completely stored yet; import again to fetch the rest"
        ));
    }
    let existing =
        if already > 0 { format!(", {already} already published") } else { String::new() };
    let (bytes, sent) = (ByteSize(done.bytes), ByteSize(done.sent));
    context.out.result(format_args!(
        "published {}, {bytes}, {sent} of it uploaded again{existing}",
        pluralize(done.files, "file")
    ))
}

/// Prints one link per line; several files are in the torrent's order.
pub(in crate::cli) async fn url(context: Context, args: UrlArgs) -> Result<(), Failure> {
    let UrlArgs { import, path, expires } = args;
    let urls = context
        .with_engine(Access::Read, async |engine| {
            let urls = engine.urls(&import, path.as_deref(), expires);
            Ok(context.unless_cancelled(urls).await?)
        })
        .await?;
    if context.out.is_json() {
        return urls.iter().try_for_each(|url| context.out.json(url));
    }
    urls.iter().try_for_each(|url| context.out.line(sanitize(&url.url)))
}
