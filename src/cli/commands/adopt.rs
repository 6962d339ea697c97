//! `adopt`: creates an import from files that are already in a storage and stay where they are.

use serde::Serialize;

use crate::{
    cli::{
        args::AdoptArgs,
        context::Context,
        output::{Failure, progress::bytes_bar, sanitize},
    },
    engine::{Access, AdoptRequest, AdoptSummary},
    units::{ByteSize, pluralize},
};

#[derive(Serialize)]
struct AdoptedLine<'a> {
    event: &'static str,
    #[serde(flatten)]
    summary: &'a AdoptSummary,
    dry_run: bool,
}

pub(in crate::cli) async fn adopt(context: Context, args: AdoptArgs) -> Result<(), Failure> {
    let AdoptArgs { torrent, from, dry_run } = args;
    // Check the storage name before anything is opened, so that a wrong name fails at once.
    context.config.storage(&from)?;
    let summary = context
        .with_engine(Access::Write, async |engine| {
            let progress = bytes_bar(&context.out, "hashed");
            let request = AdoptRequest { torrent, from, dry_run };
            Ok(engine.adopt(request, progress, context.cancel.clone()).await?)
        })
        .await?;
    if context.out.is_json() {
        return context.out.json(&AdoptedLine { event: "adopted", summary: &summary, dry_run });
    }
    show(&context, &summary, dry_run)
}

fn show(context: &Context, summary: &AdoptSummary, dry_run: bool) -> Result<(), Failure> {
    let AdoptSummary { id, name, bytes, adopted, files, missing, .. } = summary;
    for file in missing {
        context.out.line(format_args!(
            "missing {} of {} {}: {}",
            ByteSize(file.missing),
            ByteSize(file.bytes),
            sanitize(&file.path),
            file.reason
        ))?;
    }
    if !missing.is_empty() && !dry_run {
        context.out.note(format_args!(
            "to fetch the missing data as additional objects, `bae import` the torrent with --storage {:?}",
            summary.storage
        ));
    }
    let action = if dry_run { "would adopt" } else { "adopted" };
    let id = if id.is_empty() { String::new() } else { format!(" {id}") };
    context.out.result(format_args!(
        "{action}{id} {}: {}, {} of {}",
        sanitize(name),
        pluralize(*files, "whole file"),
        ByteSize(*adopted),
        ByteSize(*bytes)
    ))
}
