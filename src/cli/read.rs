//! `cat` and `export`: read imports back from storage.

use serde::Serialize;

use super::{
    Context,
    args::{CatArgs, ExportArgs},
    output::{Failure, plain},
    progress::bytes_bar,
};
use crate::{
    app::{Access, ExportOrder, ExportSummary},
    error::Error,
    units::{ByteSize, counted},
};

/// Streams the file. Holds one window of bytes at a time, however large the file is.
pub(super) async fn cat(context: Context, args: CatArgs) -> Result<(), Failure> {
    let CatArgs { import, path, range } = args;
    context
        .with_app(Access::Read, async |app| {
            let open = app.open_read(&import, path.as_deref(), range.as_deref());
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
pub(super) async fn export(context: Context, args: ExportArgs) -> Result<(), Failure> {
    let ExportArgs { import, dir, overwrite } = args;
    let order = ExportOrder { overwrite };
    let mut summary = context
        .with_app(Access::Read, async |app| {
            let progress = bytes_bar(&context.out, "exported");
            Ok(app.export(&import, &dir, order, progress, context.cancel.clone()).await?)
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
        let before =
            if already > 0 { format!(" ({already} there already)") } else { String::new() };
        let files = counted(files, "file");
        let (bytes, dir) = (ByteSize(bytes), plain(&dir));
        context.out.done(format_args!("exported {files}{before}, {bytes} to {dir}"))?;
    }
    let Some(kind) = failures.first().map(Error::kind) else { return Ok(()) };
    failures.iter().for_each(|error| context.out.error(error));
    if failed > failures.len() {
        context.out.note(format_args!("and {} more", failed - failures.len()));
    }
    Err(Failure::Reported(kind))
}

fn notes(context: &Context, summary: &ExportSummary) {
    let ExportSummary { renamed, modes, .. } = summary;
    if let Some(first) = renamed.first() {
        context.out.note(format_args!(
            "{} cannot be kept there and got a hash, {:?} first",
            counted(renamed.len(), "name"),
            plain(first)
        ));
    }
    if *modes > 0 {
        let files = counted(*modes, "file");
        context.out.note(format_args!("{files} could not be made executable there"));
    }
}
