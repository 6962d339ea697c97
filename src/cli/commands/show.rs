//! `ls` and `info`: list imports, and show the details of one.

use serde::Serialize;

use super::limit::goal_text;
use crate::{
    calendar::Utc,
    cli::{
        args::InfoArgs,
        context::Context,
        output::{Align, Failure, progress::short_time, sanitize, table},
    },
    engine::{
        Access, ContentCid, Engine, FileInfo, ImportInfo, ImportSummary, ReadUsage, SeedUsage,
    },
    error::{Error, Kind},
    units::{ByteSize, pluralize},
};

pub(in crate::cli) async fn ls(context: Context) -> Result<(), Failure> {
    let list = async |engine: &Engine| Ok(context.unless_cancelled(engine.list()).await?);
    let imports = match Engine::is_new(&context.config)? {
        true => Vec::new(),
        false => context.with_engine(Access::Read, list).await?,
    };
    if context.out.is_json() {
        return imports.iter().try_for_each(|import| context.out.json(import));
    }
    if imports.is_empty() {
        context.out.note("no imports yet");
        return Ok(());
    }
    list_lines(&imports).iter().try_for_each(|line| context.out.line(line))
}

pub(in crate::cli) async fn info(context: Context, args: InfoArgs) -> Result<(), Failure> {
    if args.cid {
        return cids(&context, &args).await;
    }
    let get_info =
        async |engine: &Engine| Ok(context.unless_cancelled(engine.info(&args.import)).await?);
    let info = context.with_engine(Access::Read, get_info).await?;
    if context.out.is_json() {
        return context.out.json(&info);
    }
    info_lines(&info).iter().try_for_each(|line| context.out.line(line))
}

/// Prints the CIDs of the files of an import, each as soon as it is known.
async fn cids(context: &Context, args: &InfoArgs) -> Result<(), Failure> {
    let InfoArgs { import, path, cid_profile, .. } = args;
    let print = |cid: ContentCid| match context.out.is_json() {
        true => context.out.json(&CidEvent { event: "cid", cid: &cid }),
        false => context.out.line(format!("{}  {}", cid.cid, sanitize(&cid.path))),
    };
    // The first failure to print ends the command.
    let mut failure = None;
    let compute = async |engine: &Engine| {
        let found = |cid| {
            print(cid).map_err(|failed| {
                failure = Some(failed);
                Error::new(Kind::Cancelled, "the output is closed")
            })
        };
        let cids = engine.cids(import, path.as_deref(), *cid_profile, found);
        Ok(context.unless_cancelled(cids).await?)
    };
    let done = context.with_engine(Access::Read, compute).await;
    match failure {
        Some(failure) => Err(failure),
        None => done,
    }
}

/// A CID as a line of `--json`.
#[derive(Serialize)]
struct CidEvent<'a> {
    event: &'static str,
    #[serde(flatten)]
    cid: &'a ContentCid,
}

fn list_lines(imports: &[ImportSummary]) -> Vec<String> {
    use Align::{Left, Right};
    let columns = [
        ("ID", Left),
        ("SIZE", Right),
        ("FILES", Right),
        ("STATE", Left),
        ("STORAGE", Left),
        ("NAME", Left),
    ];
    let row = |import: &ImportSummary| {
        vec![
            import.id.clone(),
            ByteSize(import.bytes).to_string(),
            import.files.to_string(),
            state_text(import),
            sanitize(&import.storage),
            sanitize(&import.name),
        ]
    };
    table(&columns, &imports.iter().map(row).collect::<Vec<_>>())
}

/// The state, with the stored percentage unless the import is complete.
fn state_text(import: &ImportSummary) -> String {
    if import.stored >= import.bytes {
        return import.state.as_str().to_owned();
    }
    let percent = u128::from(import.stored) * 100 / u128::from(import.bytes);
    format!("{} {percent}%", import.state.as_str())
}

fn info_lines(info: &ImportInfo) -> Vec<String> {
    let import = &info.summary;
    let mut fields = vec![
        ("id", import.id.clone()),
        ("name", sanitize(&import.name)),
        ("state", state_text(import)),
        ("size", format!("{} ({})", ByteSize(import.bytes), pluralize(import.bytes, "byte"))),
        ("stored", stored_text(import.stored, info.objects)),
        ("packed", format!("{} ({:.1} %)", ByteSize(info.packed), info.packed_share * 100.0)),
        ("storage", sanitize(&import.storage)),
        ("layout", info.layout.as_str().to_owned()),
        ("chunk", ByteSize(info.chunk_len).to_string()),
        ("source", sanitize(&import.source)),
    ];
    // Imports of URLs have no torrent fields.
    if info.pieces > 0 {
        fields.push(("info-hash", import.info_hash.clone()));
        fields.push(("pieces", format!("{} of {}", info.pieces, ByteSize(info.piece_length))));
        fields.push(("private", if info.private { "yes" } else { "no" }.to_owned()));
    }
    fields.extend(info.trackers.iter().map(|tracker| ("tracker", sanitize(tracker))));
    fields.extend(info.web_seeds.iter().map(|url| ("web seed", sanitize(url))));
    fields.push(("created", Utc::at(info.created).to_string()));
    fields.extend(info.completed.map(|time| ("completed", Utc::at(time).to_string())));
    fields.extend(goal_text(&info.goal).map(|text| ("limits", text)));
    fields.extend(seeding_usage(&info.seeded, import.bytes).map(|text| ("seeded", text)));
    fields.extend(read_usage(&info.read).map(|text| ("read", text)));
    let mut lines: Vec<_> =
        fields.iter().map(|(name, value)| format!("{name:<10}  {value}")).collect();

    lines.push(String::new());
    let columns =
        [("FILE", Align::Right), ("SIZE", Align::Right), ("", Align::Left), ("PATH", Align::Left)];
    let row = |file: &FileInfo| {
        let skipped = if file.selected { "" } else { "not selected" };
        let size = ByteSize(file.bytes).to_string();
        let path = match &file.key {
            // Most keys of published files equal the path; show only those that differ.
            Some(key) if *key != file.path => {
                format!("{} published as {}", sanitize(&file.path), sanitize(key))
            }
            Some(_) => format!("{} (published)", sanitize(&file.path)),
            None => sanitize(&file.path),
        };
        vec![file.number.to_string(), size, skipped.to_owned(), path]
    };
    lines.extend(table(&columns, &info.files.iter().map(row).collect::<Vec<_>>()));
    lines
}

/// Seeding usage: `1.5 GiB to peers (1.5 times), 2h05m; 1 GiB in 1024 gets from storage, 3 GiB from the cache; $0.09`.
/// `None` before the first byte is served or fetched.
fn seeding_usage(seeded: &SeedUsage, bytes: u64) -> Option<String> {
    if seeded.served == 0 && seeded.fetched == 0 {
        return None;
    }
    #[allow(clippy::cast_precision_loss, reason = "a ratio, shown with one decimal")]
    let ratio = seeded.served as f64 / bytes.max(1) as f64;
    let SeedUsage { gets, seconds, .. } = *seeded;
    let [served, fetched, from_cache] =
        [seeded.served, seeded.fetched, seeded.from_cache].map(ByteSize);
    let time = short_time(seconds);
    let money = seeded.dollars.map(|dollars| format!("; ${dollars:.2}")).unwrap_or_default();
    Some(format!(
        "{served} to peers ({ratio:.1} times), {time}; {fetched} in {} from storage, {from_cache} from the cache{money}",
        pluralize(gets, "get")
    ))
}

/// Read usage: `1 GiB in 1024 gets from storage; $0.09`. `None` before the first read.
fn read_usage(read: &ReadUsage) -> Option<String> {
    let ReadUsage { gets, fetched, dollars } = *read;
    let money = dollars.map(|dollars| format!("; ${dollars:.2}")).unwrap_or_default();
    (gets > 0).then(|| format!("{} in {gets} gets from storage{money}", ByteSize(fetched)))
}

fn stored_text(bytes: u64, objects: usize) -> String {
    match objects {
        0 => "nothing".to_owned(),
        objects => format!("{} in {}", ByteSize(bytes), pluralize(objects, "object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::{ImportState, LayoutKind},
        engine::SeedGoalInfo,
    };

    fn summary() -> ImportSummary {
        ImportSummary {
            id: "9c4e".into(),
            name: "a\nname".into(),
            bytes: 4096,
            files: 2,
            state: ImportState::Importing,
            storage: "file".into(),
            info_hash: "ab".repeat(20),
            source: "a.torrent".into(),
            stored: 1024,
        }
    }

    #[test]
    fn a_list_has_one_line_per_import() {
        let lines = list_lines(&[summary()]);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], "9c4e  4 KiB      2  importing 25%  file     a\u{fffd}name");
    }

    #[test]
    fn info_has_the_fields_and_the_files() {
        let file = FileInfo { number: 1, path: "x/y".into(), bytes: 9, selected: false, key: None };
        let info = ImportInfo {
            summary: summary(),
            files: vec![file],
            objects: 3,
            layout: LayoutKind::Chunks,
            packed: 512,
            packed_share: 0.5,
            chunk_len: 16 << 20,
            piece_length: 1 << 20,
            pieces: 7,
            trackers: vec!["http://t".into()],
            web_seeds: vec!["http://w/f".into()],
            private: true,
            created: 0,
            completed: None,
            goal: SeedGoalInfo { ratio: Some(1.5), seconds: None },
            seeded: SeedUsage {
                gets: 3,
                fetched: 3 << 20,
                from_cache: 1 << 20,
                served: 6144,
                seconds: 65,
                dollars: Some(0.126),
            },
            read: ReadUsage { gets: 2, fetched: 1 << 20, dollars: None },
        };
        let text = info_lines(&info).join("\n");
        for part in [
            "packed      512 B (50.0 %)",
            "7 of 1 MiB",
            "tracker     http://t",
            "web seed    http://w/f",
            "not selected  x/y",
            "limits      ratio 1.5",
            "read        1 MiB in 2 gets from storage",
            "seeded      6 KiB to peers (1.5 times), 1m05s; 3 MiB in 3 gets from storage, 1 MiB from the cache; $0.13",
        ] {
            assert!(text.contains(part), "{part} in:\n{text}");
        }
        assert!(!text.contains("completed"));
        let json = serde_json::to_value(&info).unwrap();
        assert_eq!(
            (json["files"].as_u64(), json["file_list"].as_array().map(Vec::len)),
            (Some(2), Some(1))
        );
    }
}
