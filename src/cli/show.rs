//! `ls` and `info`: what there is.

use super::{
    Context,
    output::{Align, Failure, plain, table},
};
use crate::{
    app::{Access, App, FileInfo, ImportInfo, ImportSummary},
    units::ByteSize,
};

pub(super) async fn ls(context: Context) -> Result<(), Failure> {
    let list = async |app: &App| Ok(context.unless_cancelled(app.list()).await?);
    let imports = context.with_app(Access::Read, list).await?;
    if context.out.is_json() {
        return imports.iter().try_for_each(|import| context.out.json(import));
    }
    if imports.is_empty() {
        context.out.note("nothing is imported yet");
        return Ok(());
    }
    lines_of(&imports).iter().try_for_each(|line| context.out.line(line))
}

pub(super) async fn info(context: Context, needle: &str) -> Result<(), Failure> {
    let look = async |app: &App| Ok(context.unless_cancelled(app.info(needle)).await?);
    let info = context.with_app(Access::Read, look).await?;
    if context.out.is_json() {
        return context.out.json(&info);
    }
    lines_about(&info).iter().try_for_each(|line| context.out.line(line))
}

fn lines_of(imports: &[ImportSummary]) -> Vec<String> {
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
            state(import),
            plain(&import.storage),
            plain(&import.name),
        ]
    };
    table(&columns, &imports.iter().map(row).collect::<Vec<_>>())
}

/// With how much of it is stored, where that is not all.
fn state(import: &ImportSummary) -> String {
    if import.stored >= import.bytes {
        return import.state.clone();
    }
    let percent = u128::from(import.stored) * 100 / u128::from(import.bytes);
    format!("{} {percent}%", import.state)
}

fn lines_about(info: &ImportInfo) -> Vec<String> {
    let import = &info.summary;
    let mut fields = vec![
        ("id", import.id.clone()),
        ("name", plain(&import.name)),
        ("state", state(import)),
        ("size", format!("{} ({} bytes)", ByteSize(import.bytes), import.bytes)),
        ("stored", format!("{} in {} objects", ByteSize(import.stored), info.objects)),
        ("packed", format!("{} ({:.1} %)", ByteSize(info.packed), info.packed_share * 100.0)),
        ("storage", plain(&import.storage)),
        ("layout", info.layout.to_owned()),
        ("chunk", ByteSize(info.chunk_len).to_string()),
        ("source", plain(&import.source)),
    ];
    // What came from a URL has none of these.
    if info.pieces > 0 {
        fields.push(("info-hash", import.info_hash.clone()));
        fields.push(("pieces", format!("{} of {}", info.pieces, ByteSize(info.piece_length))));
        fields.push(("private", if info.private { "yes" } else { "no" }.to_owned()));
    }
    fields.extend(info.trackers.iter().map(|tracker| ("tracker", plain(tracker))));
    fields.push(("created", utc(info.created)));
    fields.extend(info.completed.map(|time| ("completed", utc(time))));
    let mut lines: Vec<_> =
        fields.iter().map(|(name, value)| format!("{name:<10}  {value}")).collect();

    lines.push(String::new());
    let columns =
        [("FILE", Align::Right), ("SIZE", Align::Right), ("", Align::Left), ("PATH", Align::Left)];
    let row = |file: &FileInfo| {
        let skipped = if file.selected { "" } else { "not selected" };
        let size = ByteSize(file.bytes).to_string();
        let path = match &file.key {
            // Most have the name of the file: said only where it is another.
            Some(key) if *key != file.path => format!("{} as {}", plain(&file.path), plain(key)),
            Some(_) => format!("{} as such", plain(&file.path)),
            None => plain(&file.path),
        };
        vec![file.number.to_string(), size, skipped.to_owned(), path]
    };
    lines.extend(table(&columns, &info.files.iter().map(row).collect::<Vec<_>>()));
    lines
}

/// `2025-11-21 06:49:00 UTC` from seconds since 1970.
fn utc(seconds: u64) -> String {
    let (days, time) = (seconds / 86400, seconds % 86400);
    // Howard Hinnant's days-to-civil: years begin in March, so that the leap day comes last; 719468 days lie between
    // 1 March of year 0 and 1 January 1970, 146097 days are 400 years.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (day, month) =
        (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> ImportSummary {
        ImportSummary {
            id: "9c4e".into(),
            name: "a\nname".into(),
            bytes: 4096,
            files: 2,
            state: "importing".into(),
            storage: "file".into(),
            info_hash: "ab".repeat(20),
            source: "a.torrent".into(),
            stored: 1024,
        }
    }

    #[test]
    fn a_list_has_one_line_an_import() {
        let lines = lines_of(&[summary()]);
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
            layout: "chunks",
            packed: 512,
            packed_share: 0.5,
            chunk_len: 16 << 20,
            piece_length: 1 << 20,
            pieces: 7,
            trackers: vec!["http://t".into()],
            private: true,
            created: 0,
            completed: None,
        };
        let text = lines_about(&info).join("\n");
        for part in [
            "packed      512 B (50.0 %)",
            "7 of 1 MiB",
            "tracker     http://t",
            "not selected  x/y",
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

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_763_707_740), "2025-11-21 06:49:00 UTC");
        assert_eq!(utc(4_107_542_399), "2100-02-28 23:59:59 UTC");
    }
}
