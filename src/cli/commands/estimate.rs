//! `import --dry-run`: prints the estimate of an import on one screen.

use serde::Serialize;

use super::import::with_source;
use crate::{
    catalog::LayoutKind,
    cli::{
        args::ImportArgs,
        context::Context,
        output::{Align, Failure, progress::short_time, sanitize, table},
    },
    config::{NetworkOptions, prices::Cost},
    engine::{self, Estimate, ImportRequest},
    error::Kind,
    protocols::Rendition,
    storage::estimate::Requests,
    units::{ByteSize, pluralize},
};

#[derive(Serialize)]
struct EstimateLine<'a> {
    event: &'static str,
    #[serde(flatten)]
    estimate: &'a Estimate,
}

/// Estimates each source separately. The exit code is that of the first source that cannot be imported.
pub(in crate::cli) async fn dry_run(context: Context, args: ImportArgs) -> Result<(), Failure> {
    let NetworkOptions { session, torrent } =
        args.network.resolve(context.config.network.clone())?;
    let fetch = args.fetch.download_options(&context, &session);
    let mut request = ImportRequest {
        source: String::new(),
        torrent_file: None,
        storage: args.storage,
        select: args.select,
        layout: args.layout.into(),
        download: fetch.await?,
        torrent,
        seed: args.seed,
        seeding: context.config.seeding.clone(),
        timeout: context.config.timeout,
        streams: None,
    };
    let mut first_failure = None;
    let several = args.sources.len() > 1;
    for source in args.sources {
        request.source = source;
        let (session, cancel) = (session.clone(), context.cancel.clone());
        match engine::estimate(&context.config, session, &request, cancel).await {
            Ok(estimate) => show(&context, &estimate)?,
            Err(error) if error.kind() == Kind::Cancelled => return Err(error.into()),
            Err(error) => {
                let error = if several { with_source(error, &request.source) } else { error };
                context.out.error(&error);
                first_failure.get_or_insert(error.kind());
            }
        }
    }
    first_failure.map_or(Ok(()), |kind| Err(Failure::Reported(kind)))
}

fn show(context: &Context, estimate: &Estimate) -> Result<(), Failure> {
    if context.out.is_json() {
        return context.out.json(&EstimateLine { event: "estimate", estimate });
    }
    estimate_lines(estimate).iter().try_for_each(|line| context.out.line(line))
}

fn estimate_lines(estimate: &Estimate) -> Vec<String> {
    let Estimate { tally, files, bytes, chunk_len, .. } = estimate;
    let mut fields = vec![
        ("name", sanitize(&estimate.name)),
        ("size", format!("{} in {}", ByteSize(*bytes), pluralize(*files, "file"))),
        ("storage", sanitize(&estimate.storage)),
        ("layout", format!("{} of up to {}", layout_text(estimate.layout), ByteSize(*chunk_len))),
    ];
    if estimate.stored > 0 {
        fields.push(("stored", format!("{} already", ByteSize(estimate.stored))));
    }
    fields.extend([
        ("uploads", format!("{} as {}", ByteSize(tally.payload), objects(tally.objects))),
        ("requests", requests_text(&tally.requests)),
    ]);
    if tally.resent > 0 {
        let text = format!("{}, to assemble whole files", ByteSize(tally.resent));
        fields.push(("re-uploads", text));
    }
    if tally.checked > 0 {
        let text = format!("{}, to verify its checksum", ByteSize(tally.checked));
        fields.push(("reads back", text));
    }
    fields.extend([
        ("manifest", format!("about {}", ByteSize(estimate.manifest))),
        ("catalog", format!("about {} on this machine", ByteSize(estimate.catalog))),
        ("memory", format!("at most {}", ByteSize(estimate.memory))),
    ]);
    if let Some(drive) = &estimate.drive {
        let time = short_time(drive.seconds_at_least);
        fields.push((
            "time",
            format!("at least {time}: Drive limits file creation, and uploads to 750 GB a day"),
        ));
        let units =
            format!("{} to import, {} to read it back", drive.quota_units, drive.read_units);
        fields.push(("quota units", units));
    }
    let mut lines: Vec<_> =
        fields.iter().map(|(name, value)| format!("{name:<11} {value}")).collect();
    if !estimate.renditions.is_empty() {
        lines.push(String::new());
        lines.extend(rendition_lines(&estimate.renditions));
    }
    if !estimate.costs.is_empty() {
        lines.push(String::new());
        lines.extend(cost_lines(estimate));
    }
    lines
}

fn layout_text(layout: LayoutKind) -> &'static str {
    match layout {
        LayoutKind::Files => "whole files, assembled from chunks",
        LayoutKind::Chunks => "chunks",
    }
}

/// All renditions of a stream. Those that are fetched have an asterisk.
pub(super) fn rendition_lines(renditions: &[Rendition]) -> Vec<String> {
    let line = |Rendition { kind, traits, chosen }: &Rendition| {
        let mark = if *chosen { '*' } else { ' ' };
        format!("{mark} {kind:<9} {}", sanitize(&traits.to_string()))
    };
    renditions.iter().map(line).collect()
}

fn objects(count: u64) -> String {
    pluralize(count, "object")
}

/// Lists only the request types with a count above 0.
fn requests_text(requests: &Requests) -> String {
    let Requests { put, begin, part, copy, finish, delete, list, get } = *requests;
    let named = [
        (put, "put"),
        (begin, "begin"),
        (part, "part"),
        (copy, "copy"),
        (finish, "finish"),
        (delete, "delete"),
        (list, "list"),
        (get, "get"),
    ];
    let some = named.iter().filter(|(count, _)| *count > 0);
    some.map(|(count, name)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

fn cost_lines(estimate: &Estimate) -> Vec<String> {
    use Align::{Left, Right};
    let columns =
        [("PER MONTH", Right), ("IMPORT ONCE", Right), ("READ ONCE", Right), ("PROVIDER", Left)];
    let row = |cost: &Cost| {
        let provider = cost.provider.clone();
        vec![dollars(cost.month), dollars(cost.import), dollars(cost.read_back), provider]
    };
    let mut lines = table(&columns, &estimate.costs.iter().map(row).collect::<Vec<_>>());
    lines.push(String::new());
    lines.push(format!(
        "List prices as of {}, before free allowances and taxes.",
        estimate.prices_as_of
    ));
    lines.extend(estimate.costs.iter().map(cost_note));
    lines
}

fn cost_note(cost: &Cost) -> String {
    let mut parts = Vec::new();
    if cost.min_month > 0.0 {
        parts.push(format!("minimum bill {} a month", dollars(cost.min_month)));
    }
    if cost.min_days > 0 {
        parts.push(format!("every object is billed for at least {} days", cost.min_days));
    }
    parts.push(cost.note.clone());
    format!("{}: {}.", cost.provider, parts.join("; "))
}

/// Formats an amount in whole cents; smaller fractions do not matter for a budget.
fn dollars(amount: f64) -> String {
    match amount {
        0.0 => "$0".to_owned(),
        a if a < 0.01 => "< $0.01".to_owned(),
        a => format!("${a:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::prices::{Prices, Usage},
        protocols::Traits,
        storage::estimate::Tally,
    };

    fn estimate() -> Estimate {
        let requests = Requests { put: 65, ..Requests::default() };
        let tally =
            Tally { payload: 1 << 30, objects: 64, requests, reads: 1024, ..Tally::default() };
        let usage = Usage { stored: 1 << 30, put: 65, get: 1024, ..Usage::default() };
        let prices = Prices::table();
        Estimate {
            name: "a\nname".into(),
            info_hash: "ab".repeat(20),
            storage: "s3://b".into(),
            layout: LayoutKind::Chunks,
            chunk_len: 16 << 20,
            bytes: 1 << 30,
            files: 1,
            stored: 0,
            tally,
            manifest: 20 << 10,
            catalog: 200 << 10,
            memory: 192 << 20,
            prices_as_of: &prices.as_of,
            costs: ["aws", "wasabi"].map(|id| prices.provider(id).unwrap().cost(&usage)).to_vec(),
            drive: None,
            renditions: Vec::new(),
        }
    }

    #[test]
    fn the_estimate_has_bytes_requests_and_costs() {
        let text = estimate_lines(&estimate()).join("\n");
        for part in [
            "name        a\u{fffd}name",
            "uploads     1 GiB as 64 objects",
            "layout      chunks of up to 16 MiB",
            "requests    65 put\n",
            "memory      at most 192 MiB",
            "  $0.02      < $0.01      $0.09  AWS S3 Standard",
            "Wasabi: minimum bill $7.99 a month; every object is billed for at least 90 days",
            "List prices as of 20",
        ] {
            assert!(text.contains(part), "{part:?} in:\n{text}");
        }
    }

    #[test]
    fn chosen_renditions_have_a_mark() {
        let traits = |height| Traits { height: Some(height), ..Traits::default() };
        let rendition =
            |height, chosen| Rendition { kind: "video", traits: traits(height), chosen };
        let lines = rendition_lines(&[rendition(720, true), rendition(360, false)]);
        assert_eq!(lines, ["* video     720 lines", "  video     360 lines"]);
    }

    #[test]
    fn an_estimate_for_drive_has_a_time_and_no_costs() {
        let drive = engine::DriveLoad { seconds_at_least: 90, quota_units: 1650, read_units: 7 };
        let estimate = Estimate { costs: vec![], drive: Some(drive), ..estimate() };
        let text = estimate_lines(&estimate).join("\n");
        assert!(text.contains("time        at least 1m30s") && text.contains("1650"), "{text}");
        assert!(!text.contains('$'), "{text}");
    }
}
