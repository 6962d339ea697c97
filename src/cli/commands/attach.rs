//! `attach`: adds the imports of a storage to the catalog.

use serde::Serialize;

use crate::{
    cli::{
        args::AttachArgs,
        context::Context,
        output::{Failure, sanitize},
    },
    engine::{Access, AttachReport, AttachedImport, SkippedImport},
    error::Kind,
    units::{ByteSize, pluralize},
};

#[derive(Serialize)]
struct AttachedLine<'a> {
    event: &'static str,
    #[serde(flatten)]
    import: &'a AttachedImport,
}

#[derive(Serialize)]
struct SkippedLine<'a> {
    event: &'static str,
    #[serde(flatten)]
    import: &'a SkippedImport,
}

/// The totals at the end of the command.
#[derive(Serialize)]
struct TotalLine {
    event: &'static str,
    attached: usize,
    skipped: usize,
    refused: usize,
    dry_run: bool,
}

pub(in crate::cli) async fn attach(context: Context, args: AttachArgs) -> Result<(), Failure> {
    let AttachArgs { storage, dry_run } = args;
    context.config.storage(&storage)?;
    let report = context
        .with_engine(Access::Write, async |engine| {
            Ok(context.unless_cancelled(engine.attach(&storage, dry_run)).await?)
        })
        .await?;
    report.refused.iter().for_each(|error| context.out.error(error));
    if context.out.is_json() {
        show_json(&context, &report, dry_run)?;
    } else {
        show(&context, &report, dry_run)?;
    }
    match report.refused.first() {
        Some(first) if report.attached.is_empty() => Err(Failure::Reported(first.kind())),
        Some(_) => Err(Failure::Reported(Kind::Internal)),
        None => Ok(()),
    }
}

fn show_json(context: &Context, report: &AttachReport, dry_run: bool) -> Result<(), Failure> {
    for import in &report.attached {
        context.out.json(&AttachedLine { event: "attached", import })?;
    }
    for import in &report.skipped {
        context.out.json(&SkippedLine { event: "skipped", import })?;
    }
    context.out.json(&TotalLine {
        event: "attach",
        attached: report.attached.len(),
        skipped: report.skipped.len(),
        refused: report.refused.len(),
        dry_run,
    })
}

fn show(context: &Context, report: &AttachReport, dry_run: bool) -> Result<(), Failure> {
    for import in &report.attached {
        let was = import.old_id.as_ref().map(|was| format!(" (was {was})")).unwrap_or_default();
        let missing = match import.missing {
            0 => String::new(),
            count => {
                format!(", {} missing ({})", pluralize(count, "object"), ByteSize(import.lost))
            }
        };
        context.out.line(format_args!(
            "{}{was} {}: {}, {} stored{missing}",
            import.id,
            sanitize(&import.name),
            import.state.as_str(),
            ByteSize(import.stored)
        ))?;
    }
    for import in &report.skipped {
        let (id, name) = (&import.id, sanitize(&import.name));
        context.out.note(format_args!("skipped {id} {name}: {}", import.reason));
    }
    let missing: usize = report.attached.iter().map(|import| import.missing).sum();
    if missing > 0 {
        context.out.note(
            "fetch the missing data: import the torrents again, or run `bae verify --repair`",
        );
    }
    if !report.attached.is_empty() {
        context.out.note(
            "do not use these imports with another catalog any more: both would delete each other's objects",
        );
    }
    let what = if dry_run { "would attach" } else { "attached" };
    context.out.result(format_args!("{what} {}", pluralize(report.attached.len(), "import")))
}
