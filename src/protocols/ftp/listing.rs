//! Entries of a listing, and the parser for lines of `MLSD`. Pure.

use super::session::stamp;

/// A line of a listing after parsing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Is(Child),
    /// Nothing to fetch: the folder itself, a total, a pipe.
    Nothing,
    /// The line could not be parsed.
    Unread,
}

/// An entry of a folder. Names are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Child {
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
pub(super) fn facts(line: &[u8]) -> Line {
    if line.is_empty() {
        return Line::Nothing;
    }
    let Some(space) = line.iter().position(|b| *b == b' ') else { return Line::Unread };
    let (facts, name) = (String::from_utf8_lossy(&line[..space]), line[space + 1..].to_vec());
    if name.is_empty() || !facts.is_empty() && !facts.contains('=') {
        return Line::Unread;
    }
    let (mut kind, mut len, mut modified) = (String::new(), None, None);
    for fact in facts.split(';') {
        let Some((key, value)) = fact.split_once('=') else { continue };
        match key.to_ascii_lowercase().as_str() {
            "type" => kind = value.to_ascii_lowercase(),
            "size" => len = value.parse().ok(),
            "modify" => modified = stamp(value),
            _ => {}
        }
    }
    match kind.as_str() {
        "file" => Line::Is(Child::File { name, len, modified }),
        "dir" => Line::Is(Child::Folder(name)),
        "cdir" | "pdir" => Line::Nothing,
        // Links are written as `OS.unix=slink:/where`, in several spellings.
        link if link.contains("link") => Line::Is(Child::Link(name)),
        // Devices are written as `OS.unix=chr-13/29` and the like.
        other if is_device(other) => Line::Nothing,
        _ => Line::Is(Child::Unknown(name)),
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
    fn facts_of_real_servers_are_read() {
        let file = |name: &str, len: Option<u64>, modified: Option<&str>| {
            let modified = modified.map(str::to_owned);
            Line::Is(Child::File { name: name.into(), len, modified })
        };
        let unknown = |name: &str| Line::Is(Child::Unknown(name.into()));
        for (line, wanted) in [
            (
                "modify=20261127030405;perm=adfr;size=5;type=file;unique=1;UNIX.mode=0644; a b;c.bin",
                file("a b;c.bin", Some(5), Some("20261127030405")),
            ),
            (
                "Type=file;Size=1;Modify=20261127030405.123; x",
                file("x", Some(1), Some("20261127030405")),
            ),
            ("type=dir;modify=20261127030405; d", Line::Is(Child::Folder("d".into()))),
            ("type=cdir;; .", Line::Nothing),
            ("type=pdir; ..", Line::Nothing),
            ("type=OS.unix=slink:/etc; etc", Line::Is(Child::Link("etc".into()))),
            ("type=OS.unix=chr-13/29; null", Line::Nothing),
            ("type=file; no length", file("no length", None, None)),
            ("type=file;size=-1;  lead", file(" lead", None, None)),
            (" a b", unknown("a b")),
            ("size=5; a", unknown("a")),
            ("type=OS.name=type; a", unknown("a")),
            ("", Line::Nothing),
            ("garbage", Line::Unread),
            ("some garbage", Line::Unread),
        ] {
            assert_eq!(facts(line.as_bytes()), wanted, "{line}");
        }
    }
}
