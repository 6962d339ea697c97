//! `storage`: lists, adds, checks and signs in to the storages that imports can use.

use serde::Serialize;

use super::login;
use crate::{
    cli::{
        args::storage::{AddArgs, CheckArgs, StorageCommand},
        context::Context,
        output::{Align, Failure, sanitize, table, wording},
        secret,
    },
    config::{NewStorage, StorageInfo},
    engine::{
        CheckReport, Outcome, PricedUsage, ProbeResult, StorageUsage, check_storage, storage_usage,
    },
    error::Kind,
    units::ByteSize,
};

pub(in crate::cli) async fn run(context: Context, command: StorageCommand) -> Result<(), Failure> {
    match command {
        StorageCommand::List => list(&context).await,
        StorageCommand::Add(args) => add(context, args).await,
        StorageCommand::Check(args) => check(context, args).await,
        StorageCommand::Login(args) => login::run(context, args).await,
    }
}

/// A storage and the usage of reading from it.
#[derive(Serialize)]
struct StorageLine {
    #[serde(flatten)]
    info: StorageInfo,
    #[serde(flatten)]
    usage: StorageUsage,
}

async fn list(context: &Context) -> Result<(), Failure> {
    let mut usage = storage_usage(&context.config).await?;
    // Include storages without a name: reading from them costs money too.
    let storages = context.config.list_storages(usage.keys().map(String::as_str));
    let line = |info: StorageInfo| {
        let usage = usage.remove(&info.name).unwrap_or_default();
        StorageLine { info, usage }
    };
    let storages: Vec<_> = storages.into_iter().map(line).collect();
    if context.out.is_json() {
        return storages.iter().try_for_each(|storage| context.out.json(storage));
    }
    list_lines(&storages).iter().try_for_each(|line| context.out.line(line))
}

fn list_lines(storages: &[StorageLine]) -> Vec<String> {
    let columns = [
        ("", Align::Left),
        ("NAME", Align::Left),
        ("TYPE", Align::Left),
        ("CHUNK", Align::Right),
        ("READ THIS MONTH", Align::Right),
        ("DEFINED IN", Align::Left),
        ("LOCATION", Align::Left),
    ];
    let row = |StorageLine { info: s, usage }: &StorageLine| {
        let location =
            s.error.as_ref().map_or_else(|| s.location.clone(), |e| format!("unusable: {e}"));
        vec![
            if s.default { "*" } else { " " }.to_owned(),
            sanitize(&s.name),
            sanitize(&s.kind),
            s.chunk.map(|chunk| ByteSize(chunk).to_string()).unwrap_or_default(),
            read_usage(&usage.month),
            sanitize(s.defined.as_deref().unwrap_or("built in")),
            sanitize(&location),
        ]
    };
    table(&columns, &storages.iter().map(row).collect::<Vec<_>>())
}

/// Usage as `1.5 GiB $0.14`; empty if nothing was read.
fn read_usage(usage: &PricedUsage) -> String {
    if usage.gets == 0 {
        return String::new();
    }
    let money = usage.dollars.map(|dollars| format!(" ${dollars:.2}")).unwrap_or_default();
    format!("{}{money}", ByteSize(usage.fetched))
}

#[derive(Serialize)]
struct AddedLine<'a> {
    event: &'static str,
    name: &'a str,
    file: String,
}

async fn add(context: Context, args: AddArgs) -> Result<(), Failure> {
    let mut new = NewStorage::new(&args.name, args.kind.as_deref(), &args.settings)?;
    for (key, answer) in secret::prompt_for_secrets(&context, new.secret_prompts().to_vec()).await?
    {
        new.set_secret(key, &answer);
    }
    let file = context.config.add_storage(&new, args.force)?.display().to_string();
    let name = new.name();
    if context.out.is_json() {
        return context.out.json(&AddedLine { event: "added", name, file });
    }
    context.out.result(format_args!("added storage {name} to {}", sanitize(&file)))?;
    context.out.note(format_args!("test it with: bae storage check {name}"));
    Ok(())
}

#[derive(Serialize)]
struct ProbeLine<'a> {
    event: &'static str,
    probe: &'static str,
    outcome: &'static str,
    text: &'a str,
    hint: Option<String>,
    kind: Option<Kind>,
}

#[derive(Serialize)]
struct CheckedLine {
    event: &'static str,
    storage: String,
    place: String,
    failures: usize,
    warnings: usize,
    latency_ms: Option<u64>,
}

async fn check(context: Context, args: CheckArgs) -> Result<(), Failure> {
    let mut shown = Ok(());
    let on_probe = |probe: &ProbeResult| {
        if shown.is_ok() {
            shown = show(&context, probe);
        }
    };
    let checked =
        check_storage(&context.config, &args.storage, args.speed, &context.cancel, on_probe).await;
    let report = checked?;
    shown?;
    show_summary(&context, &report)
}

fn show(context: &Context, probe: &ProbeResult) -> Result<(), Failure> {
    let ProbeResult { name, outcome, text, hint, kind } = probe;
    let hint = hint.as_ref().map(wording::hint_text);
    if context.out.is_json() {
        let outcome = match outcome {
            Outcome::Ok => "ok",
            Outcome::Warn => "warn",
            Outcome::Fail => "fail",
        };
        return context.out.json(&ProbeLine {
            event: "probe",
            probe: name,
            outcome,
            text,
            hint,
            kind: *kind,
        });
    }
    let mark = match outcome {
        Outcome::Ok => "ok",
        Outcome::Warn => "warn",
        Outcome::Fail => "FAIL",
    };
    context.out.line(format_args!("{mark:<4}  {name:<9}  {}", sanitize(text)))?;
    match hint {
        Some(hint) => context.out.line(format_args!("{:17}{}", "", sanitize(&hint))),
        None => Ok(()),
    }
}

fn show_summary(context: &Context, report: &CheckReport) -> Result<(), Failure> {
    let CheckReport { storage, url, failures, warnings, latency, failed } = report;
    if context.out.is_json() {
        let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).ok();
        context.out.json(&CheckedLine {
            event: "checked",
            storage: storage.clone(),
            place: url.clone(),
            failures: *failures,
            warnings: *warnings,
            latency_ms: latency.and_then(milliseconds),
        })?;
    } else if *failures > 0 {
        context.out.note(format_args!("{} cannot be used", sanitize(storage)));
    } else {
        context.out.result(format_args!("{} is ready", sanitize(storage)))?;
    }
    failed.map_or(Ok(()), |kind| Err(Failure::Reported(kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_marks_the_default_and_shows_errors() {
        let one = StorageInfo {
            name: "music".into(),
            kind: "s3".into(),
            location: "s3://b".into(),
            chunk: Some(16 << 20),
            default: true,
            defined: Some("/c.toml, line 2".into()),
            error: None,
        };
        let broken = StorageInfo {
            name: "old".into(),
            chunk: None,
            default: false,
            defined: None,
            error: Some("path is missing".into()),
            ..one.clone()
        };
        let month = PricedUsage { gets: 3, fetched: 3 << 29, served: 0, dollars: Some(0.135) };
        let usage = StorageUsage { month, total: month };
        let one = StorageLine { info: one, usage };
        let broken = StorageLine { info: broken, usage: StorageUsage::default() };
        assert_eq!(
            list_lines(&[one, broken]),
            [
                "   NAME   TYPE   CHUNK  READ THIS MONTH  DEFINED IN       LOCATION",
                "*  music  s3    16 MiB    1.5 GiB $0.14  /c.toml, line 2  s3://b",
                "   old    s3                             built in         unusable: path is missing",
            ]
        );
    }
}
