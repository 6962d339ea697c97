//! Entries of a listing, and the parser for lines of `MLSD`. Pure.

use super::session::date_digits;

/// A line of a listing after parsing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ParsedLine {
    Child(ListedChild),
    /// Nothing to fetch: the folder itself, a total, a pipe.
    Ignored,
    /// The line could not be parsed.
    Unparsed,
}

/// An entry of a folder. Names are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ListedChild {
    Folder(Vec<u8>),
    File {
        name: Vec<u8>,
        len: Option<u64>,
        modified: Option<String>,
    },
    /// A link. Commands find out what its target is.
    Link(Vec<u8>),
    /// A name without a type.
    Unknown(Vec<u8>),
}

/// Parses a line of `MLSD`: `type=file;size=5;modify=20260101000000; name`. The facts may be missing.
pub(super) fn parse_mlsd_line(line: &[u8]) -> ParsedLine {
    if line.is_empty() {
        return ParsedLine::Ignored;
    }
    let Some(space) = line.iter().position(|b| *b == b' ') else { return ParsedLine::Unparsed };
    let (facts, name) = (String::from_utf8_lossy(&line[..space]), line[space + 1..].to_vec());
    if name.is_empty() || !facts.is_empty() && !facts.contains('=') {
        return ParsedLine::Unparsed;
    }
    let (mut kind, mut len, mut modified) = (String::new(), None, None);
    for fact in facts.split(';') {
        let Some((key, value)) = fact.split_once('=') else { continue };
        match key.to_ascii_lowercase().as_str() {
            "type" => kind = value.to_ascii_lowercase(),
            "size" => len = value.parse().ok(),
            "modify" => modified = date_digits(value),
            _ => {}
        }
    }
    match kind.as_str() {
        "file" => ParsedLine::Child(ListedChild::File { name, len, modified }),
        "dir" => ParsedLine::Child(ListedChild::Folder(name)),
        "cdir" | "pdir" => ParsedLine::Ignored,
        // Links are written as `OS.unix=slink:/where`, in several spellings.
        link if link.contains("link") => ParsedLine::Child(ListedChild::Link(name)),
        // Devices are written as `OS.unix=chr-13/29` and the like.
        other if is_device(other) => ParsedLine::Ignored,
        _ => ParsedLine::Child(ListedChild::Unknown(name)),
    }
}

fn is_device(kind: &str) -> bool {
    let devices = ["chr", "char", "blk", "block", "fifo", "pipe", "socket", "device"];
    let name = kind.rsplit('=').next().unwrap_or_default();
    kind.starts_with("os.") && devices.iter().any(|device| name.starts_with(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mlsd_lines_of_real_servers_are_parsed() {
        let file = |name: &str, len: Option<u64>, modified: Option<&str>| {
            let modified = modified.map(str::to_owned);
            ParsedLine::Child(ListedChild::File { name: name.into(), len, modified })
        };
        let unknown = |name: &str| ParsedLine::Child(ListedChild::Unknown(name.into()));
        for (line, wanted) in [
            (
                "modify=20261127030405;perm=adfr;size=5;type=file;unique=1;UNIX.mode=0644; a b;c.bin",
                file("a b;c.bin", Some(5), Some("20261127030405")),
            ),
            (
                "Type=file;Size=1;Modify=20261127030405.123; x",
                file("x", Some(1), Some("20261127030405")),
            ),
            (
                "type=dir;modify=20261127030405; d",
                ParsedLine::Child(ListedChild::Folder("d".into())),
            ),
            ("type=cdir;; .", ParsedLine::Ignored),
            ("type=pdir; ..", ParsedLine::Ignored),
            ("type=OS.unix=slink:/etc; etc", ParsedLine::Child(ListedChild::Link("etc".into()))),
            ("type=OS.unix=chr-13/29; null", ParsedLine::Ignored),
            ("type=file; no length", file("no length", None, None)),
            ("type=file;size=-1;  lead", file(" lead", None, None)),
            (" a b", unknown("a b")),
            ("size=5; a", unknown("a")),
            ("type=OS.name=type; a", unknown("a")),
            ("", ParsedLine::Ignored),
            ("garbage", ParsedLine::Unparsed),
            ("some garbage", ParsedLine::Unparsed),
        ] {
            assert_eq!(parse_mlsd_line(line.as_bytes()), wanted, "{line}");
        }
    }
}
