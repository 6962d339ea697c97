//! `cat` and `export`: read imports back from storage.

use serde::Serialize;

use crate::{
    cli::{
        args::{CatArgs, ExportArgs},
        context::Context,
        output::{Failure, progress::bytes_bar, sanitize},
    },
    engine::{Access, ExportOptions, ExportSummary},
    error::Error,
    units::{ByteSize, pluralize},
};

/// Streams the file. Holds one window of bytes at a time, however large the file is.
pub(in crate::cli) async fn cat(context: Context, args: CatArgs) -> Result<(), Failure> {
    let CatArgs { import, path, range } = args;
    context
        .with_engine(Access::Read, async |engine| {
            let open = engine.open_read(&import, path.as_deref(), range.as_deref());
            let mut stream = context.unless_cancelled(open).await?;
            while let Some(bytes) = context.unless_cancelled(stream.next()).await? {
                context.out.raw(&bytes)?;
            }
            Ok(())
        })
        .await
}

#[derive(Serialize)]
struct ExportedLine<'a> {
    event: &'static str,
    import: &'a str,
    dir: String,
    #[serde(flatten)]
    summary: ExportSummary,
}

/// Exports all files, then reports those that failed.
pub(in crate::cli) async fn export(context: Context, args: ExportArgs) -> Result<(), Failure> {
    let ExportArgs { import, dir, overwrite } = args;
    let options = ExportOptions { overwrite };
    let mut summary = context
        .with_engine(Access::Read, async |engine| {
            let progress = bytes_bar(&context.out, "exported");
            Ok(engine.export(&import, &dir, options, progress, context.cancel.clone()).await?)
        })
        .await?;
    let failures = std::mem::take(&mut summary.failures);
    let failed = summary.failed;
    let dir = dir.display().to_string();
    if context.out.is_json() {
        let (event, import) = ("exported", &import);
        context.out.json(&ExportedLine { event, import, dir, summary })?;
    } else {
        notes(&context, &summary);
        let ExportSummary { files, bytes, already, .. } = summary;
        let existing =
            if already > 0 { format!(" ({already} existed already)") } else { String::new() };
        let files = pluralize(files, "file");
        let (bytes, dir) = (ByteSize(bytes), sanitize(&dir));
        context.out.result(format_args!("exported {files}{existing}, {bytes} to {dir}"))?;
    }
    let Some(kind) = failures.first().map(Error::kind) else { return Ok(()) };
    failures.iter().for_each(|error| context.out.error(error));
    if failed > failures.len() {
        context.out.note(format_args!("{} more failed", failed - failures.len()));
    }
    Err(Failure::Reported(kind))
}

fn notes(context: &Context, summary: &ExportSummary) {
    let ExportSummary { renamed, modes, .. } = summary;
    if let Some(first) = renamed.first() {
        context.out.note(format_args!(
            "{} not valid in the target folder, replaced by a name with a hash; first {:?}",
            pluralize(renamed.len(), "name"),
            sanitize(first)
        ));
    }
    if *modes > 0 {
        let files = pluralize(*modes, "file");
        context.out.note(format_args!("{files} could not be made executable"));
    }
}
