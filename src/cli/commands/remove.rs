//! `rm` and `gc`: the two commands that delete data, and therefore prompt first.

use serde::Serialize;

use crate::{
    cli::{
        args::{GcArgs, RmArgs},
        context::{Context, interrupted},
        output::{Failure, sanitize},
    },
    engine::{Access, Engine, GcOptions, GcReport, RemoveSummary},
    error::Error,
    storage::sweep::Failures,
    units::{ByteSize, pluralize},
};

#[derive(Serialize)]
struct RemovedLine<'a> {
    event: &'static str,
    id: &'a str,
    name: &'a str,
    #[serde(flatten)]
    summary: RemoveSummary,
}

#[derive(Serialize)]
struct CollectedLine<'a> {
    event: &'static str,
    #[serde(flatten)]
    report: &'a GcReport,
}

pub(in crate::cli) async fn rm(context: Context, args: RmArgs) -> Result<(), Failure> {
    let ask = !args.yes && context.out.can_prompt();
    context
        .with_engine(Access::Write, async |engine| {
            for import in &args.imports {
                remove_one(&context, engine, import, args.keep_objects, ask).await?;
            }
            Ok(())
        })
        .await
}

async fn remove_one(
    context: &Context,
    engine: &Engine,
    import: &str,
    keep_objects: bool,
    ask: bool,
) -> Result<(), Failure> {
    let found = context.unless_cancelled(engine.info(import)).await?.summary;
    let (id, name) = (&found.id, sanitize(&found.name));
    let objects = if keep_objects { "but keep its objects" } else { "and its objects" };
    let question = format!("remove {id} {name} ({}) {objects}?", ByteSize(found.stored));
    if ask && !confirmed(context, &question).await? {
        context.out.note(format_args!("{id} was not removed"));
        return Ok(());
    }
    // By id, since the name may match another import by now. Not cancelled halfway: removal is short and safe to
    // finish.
    if let Some(host) = &context.host {
        host.api.queue().release(id).await?;
    }
    let summary = engine.remove(id, keep_objects).await?;
    if context.out.is_json() {
        return context.out.json(&RemovedLine { event: "removed", id, name: &found.name, summary });
    }
    let RemoveSummary { objects, bytes } = summary;
    context.out.result(format_args!(
        "removed {id} {name}: {}, {}",
        pluralize(objects, "object"),
        ByteSize(bytes)
    ))
}

pub(in crate::cli) async fn gc(context: Context, args: GcArgs) -> Result<(), Failure> {
    context
        .with_engine(Access::Write, async |engine| {
            let (report, failures) = if args.yes || context.out.is_json() {
                let options = GcOptions { remove: true, attached: args.yes };
                context.unless_cancelled(engine.gc(options)).await?
            } else {
                count_then_confirm(&context, engine).await?
            };
            failures.errors().iter().for_each(|error| context.out.error(error));
            show(&context, &report)?;
            match failures.errors().first() {
                None => Ok(()),
                Some(first) => Err(Failure::Reported(first.kind())),
            }
        })
        .await
}

fn show(context: &Context, report: &GcReport) -> Result<(), Failure> {
    if context.out.is_json() {
        return context.out.json(&CollectedLine { event: "collected", report });
    }
    let GcReport { objects, bytes, removed, uploads, failed, held_back, unclaimed } = *report;
    if held_back > 0 {
        let (leftovers, are) = (pluralize(held_back, "object"), are(held_back));
        context.out.note(format_args!(
            "{leftovers} {are} left over from an attached catalog; `bae gc --yes` removes them"
        ));
    }
    if unclaimed > 0 {
        let (imports, are) = (pluralize(unclaimed, "import"), are(unclaimed));
        context.out.note(format_args!(
            "{imports} with a manifest {are} not in the catalog and not touched; `bae attach` adds them"
        ));
    }
    let action = if removed { "removed" } else { "found" };
    let objects = pluralize(objects, "object");
    let mut text = format!("{action} {objects} without an import, {}", ByteSize(bytes));
    if uploads > 0 {
        text += &format!(", and {}", pluralize(uploads, "unfinished upload"));
    }
    if failed > 0 {
        text += &format!("; {}", pluralize(failed, "failure"));
    }
    context.out.result(text)
}

fn are(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

/// Counts the objects without an import, and removes them only after a confirmation.
async fn count_then_confirm(
    context: &Context,
    engine: &Engine,
) -> Result<(GcReport, Failures), Failure> {
    let count_only = GcOptions { remove: false, attached: true };
    let (found, failures) = context.unless_cancelled(engine.gc(count_only)).await?;
    if found.objects + found.uploads == 0 {
        return Ok((found, failures));
    }
    if !context.out.can_prompt() {
        context.out.note("run `bae gc --yes` to remove them");
        return Ok((found, failures));
    }
    let GcReport { objects, bytes, uploads, .. } = found;
    let uploads = if uploads == 0 { "" } else { ", and unfinished uploads" };
    let (objects, bytes) = (pluralize(objects, "object"), ByteSize(bytes));
    let question = format!("remove {objects} without an import, {bytes}{uploads}?");
    if !confirmed(context, &question).await? {
        return Ok((found, failures));
    }
    Ok(context.unless_cancelled(engine.gc(GcOptions { remove: true, attached: true })).await?)
}

async fn confirmed(context: &Context, question: &str) -> Result<bool, Failure> {
    tokio::select! {
        answer = context.out.confirm(question) => {
            Ok(answer.map_err(|e| Error::io("cannot read the answer from standard input", e))?)
        }
        () = context.cancel.cancelled() => Err(interrupted().into()),
    }
}
