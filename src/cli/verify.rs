//! `verify`: is what is stored what the torrent says?

use serde::Serialize;

use super::{
    Context,
    output::{Failure, plain},
    progress::bytes_bar,
};
use crate::{
    app::{Access, App, VerifyReport},
    error::{Error, Kind},
    units::ByteSize,
};

#[derive(Serialize)]
struct VerifiedLine<'a> {
    event: &'static str,
    import: &'a str,
    #[serde(flatten)]
    report: &'a VerifyReport,
}

/// Looks at all of them before it fails for one.
pub(super) async fn verify(context: Context, imports: Vec<String>) -> Result<(), Failure> {
    context
        .with_app(Access::Read, async |app| {
            let imports = if imports.is_empty() { every_id(&context, app).await? } else { imports };
            let mut bad = 0;
            for import in &imports {
                let progress = bytes_bar(&context.out, "verified");
                let report = app.verify(import, progress, context.cancel.clone()).await?;
                show(&context, import, &report)?;
                bad += usize::from(!report.bad.is_empty());
            }
            if bad == 0 {
                return Ok(());
            }
            let text =
                format!("{bad} of {} imports are not what their torrent says", imports.len());
            let hint = "remove them with `bae rm` and import them again";
            Err(Error::new(Kind::Corrupt, text).hint(hint).into())
        })
        .await
}

async fn every_id(context: &Context, app: &App) -> Result<Vec<String>, Failure> {
    let imports = context.unless_cancelled(app.list()).await?;
    Ok(imports.into_iter().map(|import| import.id).collect())
}

fn show(context: &Context, import: &str, report: &VerifyReport) -> Result<(), Failure> {
    if context.out.is_json() {
        return context.out.json(&VerifiedLine { event: "verified", import, report });
    }
    for bad in &report.bad {
        let files: Vec<_> = bad.files.iter().map(|path| plain(path)).collect();
        context.out.line(format_args!(
            "{import} piece {} is bad: {}",
            bad.piece,
            files.join(", ")
        ))?;
    }
    let missing = match report.missing {
        0 => String::new(),
        bytes => format!(", {} not stored yet", ByteSize(bytes)),
    };
    let (pieces, bad) = (report.pieces, report.bad.len());
    context.out.done(format_args!("{import}: {pieces} pieces verified, {bad} bad{missing}"))
}
