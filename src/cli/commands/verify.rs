//! `verify`: compares stored data with the torrent, and repairs it on request.

use serde::Serialize;

use crate::{
    cli::{
        args::VerifyArgs,
        context::Context,
        output::{
            Failure,
            progress::{bytes_bar, follow},
            sanitize,
        },
    },
    config::NetworkOptions,
    engine::{Access, Engine, EngineOptions, RepairRequest, VerifyReport},
    error::{Error, Kind},
    units::{ByteSize, pluralize},
};

#[derive(Serialize)]
struct VerifiedLine<'a> {
    event: &'static str,
    import: &'a str,
    #[serde(flatten)]
    report: &'a VerifyReport,
}

/// Verifies every import before it fails because of a bad one.
pub(in crate::cli) async fn verify(context: Context, args: VerifyArgs) -> Result<(), Failure> {
    let VerifyArgs { imports, quick, repair, network } = args;
    if imports.is_empty() && Engine::is_new(&context.config)? {
        context.out.note("no imports yet");
        return Ok(());
    }
    let NetworkOptions { session, torrent } = network.resolve(context.config.network.clone())?;
    let repair = repair.then_some(RepairRequest { torrent, timeout: context.config.timeout });
    let access = if repair.is_some() { Access::Write } else { Access::Read };
    context
        .with_engine_options(EngineOptions::new(access).session(session), async |engine| {
            let imports = if imports.is_empty() { all_ids(&context, engine).await? } else { imports };
            let (mut bad, mut lost) = (0, 0);
            for import in &imports {
                let report = verify_one(&context, engine, import, quick, repair.as_ref()).await?;
                bad += usize::from(!report.bad.is_empty());
                lost += usize::from(report.pieces > 0 && report.lost == report.pieces);
            }
            if bad == 0 {
                return Ok(());
            }
            let text = match imports.len() {
                1 => "the stored data does not match its hashes".to_owned(),
                all => format!("{bad} of {all} imports do not match their hashes"),
            };
            let hint = match lost == bad {
                true => "all their objects are missing: is it the right storage, and is its disk mounted?",
                false => "`bae verify --repair` fetches the bad pieces again",
            };
            Err(Error::new(Kind::Corrupt, text).hint(hint).into())
        })
        .await
}

/// Returns the report of the import as it is at the end, after the repair if there was one.
async fn verify_one(
    context: &Context,
    engine: &Engine,
    import: &str,
    quick: bool,
    repair: Option<&RepairRequest>,
) -> Result<VerifyReport, Failure> {
    let report = verify_and_show(context, engine, import, quick).await?;
    let Some(request) = repair.filter(|_| !report.bad.is_empty()) else {
        return Ok(report);
    };
    let events = engine.events().subscribe();
    let repair = engine.start_repair(import, report.bad, request.clone());
    let repair = context.unless_cancelled(repair).await?;
    // A daemon does other things, too.
    let events = if context.host.is_some() { repair.all_events() } else { events };
    let work = context.wait_or_stop(|| repair.cancel(), repair.wait());
    follow(&context.out, events, &context.cancel, work).await?;
    verify_and_show(context, engine, import, quick).await
}

async fn verify_and_show(
    context: &Context,
    engine: &Engine,
    import: &str,
    quick: bool,
) -> Result<VerifyReport, Failure> {
    let report = if quick {
        context.unless_cancelled(engine.verify_quick(import)).await?
    } else {
        let progress = bytes_bar(&context.out, "verified");
        engine.verify(import, progress, context.cancel.clone()).await?
    };
    show(context, import, &report)?;
    Ok(report)
}

async fn all_ids(context: &Context, engine: &Engine) -> Result<Vec<String>, Failure> {
    let imports = context.unless_cancelled(engine.list()).await?;
    Ok(imports.into_iter().map(|import| import.id).collect())
}

fn show(context: &Context, import: &str, report: &VerifyReport) -> Result<(), Failure> {
    if context.out.is_json() {
        return context.out.json(&VerifiedLine { event: "verified", import, report });
    }
    for bad in &report.bad {
        let files: Vec<_> = bad.files.iter().map(|path| sanitize(path)).collect();
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
    context.out.result(format_args!(
        "{import}: {} verified, {bad} bad{missing}",
        pluralize(pieces, "piece")
    ))
}
