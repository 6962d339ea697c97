//! URL lists in aria2's format: one file per line with its mirrors separated by tabs, then indented lines of options.
//!
//! ```text
//! # a comment
//! http://a.example/f.iso <tab> http://b.example/f.iso
//!   out=fedora.iso
//!   checksum=sha-256=…
//! ```

use std::{io::Read, path::PathBuf};

use crate::{
    downloads::checksum,
    error::{Error, Kind, Result},
    protocols::Digest,
    text,
};

/// One file of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct ListEntry {
    pub(in crate::cli) urls: Vec<String>,
    pub(in crate::cli) out: Option<PathBuf>,
    pub(in crate::cli) dir: Option<PathBuf>,
    pub(in crate::cli) checksums: Vec<Digest>,
}

impl ListEntry {
    pub(in crate::cli) fn mirrors(urls: Vec<String>) -> Self {
        Self { urls, ..Self::default() }
    }
}

/// Reads a list; `-` is standard input.
pub(in crate::cli) async fn read(path: PathBuf) -> Result<Vec<ListEntry>> {
    let shown = path.display().to_string();
    let work = move || match path.as_os_str() == "-" {
        true => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
        }
        false => std::fs::read(&path),
    };
    let bytes = tokio::task::spawn_blocking(work)
        .await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(|e| Error::io(format!("cannot read the URL list {shown}"), e))?;
    let text = text::decode(&bytes).map_err(|number| {
        Error::new(Kind::InvalidInput, format!("URL list {shown}: line {number} is not UTF-8"))
    })?;
    parse(&text).map_err(|e| e.with_context(format_args!("URL list {shown}")))
}

fn parse(text: &str) -> Result<Vec<ListEntry>> {
    let mut lines: Vec<ListEntry> = Vec::new();
    for (number, text) in (1..).zip(text.lines()) {
        let bad = |why: &str| Error::new(Kind::InvalidInput, format!("line {number}: {why}"));
        let indented = text.starts_with([' ', '\t']);
        match text.trim() {
            "" => {}
            comment if comment.starts_with('#') => {}
            option if indented => {
                let line = lines.last_mut().ok_or_else(|| bad("option before the first URL"))?;
                set_option(line, option)
                    .map_err(|e| e.with_context(format_args!("line {number}")))?;
            }
            urls => lines.push(ListEntry::mirrors(urls.split('\t').map(str::to_owned).collect())),
        }
    }
    Ok(lines)
}

fn set_option(line: &mut ListEntry, option: &str) -> Result<()> {
    match option.split_once('=') {
        Some(("out", value)) => line.out = Some(value.into()),
        Some(("dir", value)) => line.dir = Some(value.into()),
        Some(("checksum", value)) => line.checksums.push(checksum::parse(value)?),
        _ => {
            let name = option.split('=').next().unwrap_or_default();
            return Err(Error::new(Kind::InvalidInput, format!("unknown option {name:?}"))
                .hint("options: out, dir and checksum"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_one_file_per_line_with_mirrors_and_options() {
        let text = "# isos\nhttp://a/f\thttp://b/f\n  out=f.iso\n\tchecksum=md5=900150983cd24fb0d6963f7d28e17f72\n\nhttp://c/g\n dir=x";
        let lines = parse(text).unwrap();
        assert_eq!(lines[0].urls, ["http://a/f", "http://b/f"]);
        assert_eq!(
            (lines[0].out.as_deref(), lines[0].checksums.len()),
            (Some("f.iso".as_ref()), 1)
        );
        assert_eq!((lines[1].urls.len(), lines[1].dir.as_deref()), (1, Some("x".as_ref())));
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(
            parse("\n out=x").unwrap_err().to_string(),
            "line 2: option before the first URL"
        );
        let e = parse("http://a\n user=me").unwrap_err();
        assert_eq!(e.to_string(), "line 2: unknown option \"user\"");
    }
}
