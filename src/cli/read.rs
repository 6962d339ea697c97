//! `cat` and `export`: the bytes back out.

use serde::Serialize;

use super::{
    Context,
    args::{CatArgs, ExportArgs},
    output::{Failure, plain},
    progress::bytes_bar,
};
use crate::{
    app::{Access, ExportSummary},
    units::{ByteSize, counted},
};

/// Streams: holds one window of bytes at a time, however large the file.
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

pub(super) async fn export(context: Context, args: ExportArgs) -> Result<(), Failure> {
    let ExportArgs { import, dir } = args;
    let summary = context
        .with_app(Access::Read, async |app| {
            let progress = bytes_bar(&context.out, "exported");
            Ok(app.export(&import, &dir, progress, context.cancel.clone()).await?)
        })
        .await?;
    let dir = dir.display().to_string();
    if context.out.is_json() {
        return context.out.json(&ExportedLine {
            event: "exported",
            import: &import,
            dir,
            summary,
        });
    }
    let ExportSummary { files, bytes } = summary;
    context.out.done(format_args!(
        "exported {}, {} to {}",
        counted(files, "file"),
        ByteSize(bytes),
        plain(&dir)
    ))
}
