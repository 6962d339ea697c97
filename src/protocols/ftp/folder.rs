//! Folders: `MLSD` where the server has it, else `LIST`, which is meant for people.
//!
//! `LIST` says when a file was changed to the minute or the day, in a time zone of the server's choosing, so each file's
//! date is asked for: a round trip each, which is why files beyond [`DATED`] go without. Its links may point anywhere: one
//! that has a length is a file, others are passed over.

use suppaftp::list::{File, ListParser};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::{
    errors::lost,
    session::{Answer, Data, Session, remote, stamp},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{Listing, walk::Walk},
};

/// So many files' dates are asked for one by one.
const DATED: usize = 1000;
/// The longest line: a path of 4 KiB, and what is said of it.
const LINE: u64 = 8 << 10;

/// What a line of a listing is about.
#[derive(Debug, PartialEq, Eq)]
enum Child {
    Folder(String),
    File {
        name: String,
        len: Option<u64>,
        modified: Option<String>,
    },
    /// To what, only a question can tell.
    Link(String),
}

/// All files below the folder that the session is in.
///
/// # Errors
/// As [`Protocol::probe`](crate::protocols::Protocol::probe).
pub(super) async fn list(session: &mut Session, mut walk: Walk, ranges: bool) -> Result<Listing> {
    let top = session.here().await?;
    let top = top.trim_end_matches('/').to_owned();
    let mut mlsd = session.features().await?.mlsd;
    let mut undated = DATED;
    while let Some(path) = walk.next_folder() {
        if !path.is_empty()
            && let Answer::Refused(refusal) = session.enter(&format!("{top}/{path}")).await?
        {
            return Err(refusal.into());
        }
        for child in children(session, &mut mlsd).await? {
            let child = asked(session, child, &mut undated).await?;
            match child {
                Some(Child::Folder(name)) => walk.folder(&name)?,
                Some(Child::File { name, len, modified }) => {
                    walk.file(&name, |url| remote(url, len, modified, ranges))?
                }
                Some(Child::Link(_)) | None => {}
            }
        }
    }
    Ok(walk.finish())
}

/// What a line left open; `None` for what is no file.
async fn asked(session: &mut Session, child: Child, undated: &mut usize) -> Result<Option<Child>> {
    let (name, len) = match child {
        Child::File { name, len, modified: None } => (name, len),
        Child::Link(name) => {
            let Some(len) = session.size(&name).await? else { return Ok(None) };
            (name, Some(len))
        }
        child => return Ok(Some(child)),
    };
    let mut modified = None;
    if *undated > 0 {
        *undated -= 1;
        modified = session.modified(&name).await?;
    }
    Ok(Some(Child::File { name, len, modified }))
}

/// What is in the folder that the session is in.
async fn children(session: &mut Session, mlsd: &mut bool) -> Result<Vec<Child>> {
    if *mlsd {
        match session.begin("MLSD", 0).await? {
            Answer::Is(data) => return read(session, data, facts).await,
            Answer::Refused(refusal) if refusal.is_unknown_command() => *mlsd = false,
            Answer::Refused(refusal) => return Err(refusal.into()),
        }
    }
    // Hidden files too, where the server knows the flag; others take it for a name that is not there.
    for command in ["LIST -a", "LIST"] {
        match session.begin(command, 0).await? {
            Answer::Is(data) => {
                let children = read(session, data, line).await?;
                if !children.is_empty() {
                    return Ok(children);
                }
            }
            Answer::Refused(_) if command != "LIST" => {}
            // So some say that a folder is empty.
            Answer::Refused(refusal) if refusal.is_not_there() => return Ok(Vec::new()),
            Answer::Refused(refusal) => return Err(refusal.into()),
        }
    }
    Ok(Vec::new())
}

async fn read(
    session: &mut Session,
    data: Data,
    parse: fn(&str) -> Option<Child>,
) -> Result<Vec<Child>> {
    let subject = format!("a listing of {}", session.address);
    let bad = |what: &str| Error::new(Kind::Unsupported, subject.clone()).because(what);
    let mut data = BufReader::new(data);
    let mut found = Vec::new();
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        let read = async {
            let read = (&mut data).take(LINE).read_until(b'\n', &mut buffer).await;
            match read {
                // TLS that ends without a farewell: the answer on the other connection says whether that was all.
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(0),
                read => read.map_err(|e| lost(subject.clone(), e)),
            }
        };
        if session.patience().answer(|| subject.clone(), read).await? == 0 {
            break;
        }
        if !buffer.ends_with(b"\n") && buffer.len() as u64 == LINE {
            return Err(bad("a line of it is endless"));
        }
        let text = std::str::from_utf8(&buffer).map_err(|_| {
            bad("names in it are not UTF-8").hint("fetch the files one by one, or rename them")
        })?;
        let text = text.trim_end_matches(['\n', '\r']);
        if found.len() > crate::protocols::MAX_ENTRIES {
            return Err(bad("it has too many lines"));
        }
        found.extend(parse(text));
    }
    session.end(data.into_inner()).await?;
    Ok(found)
}

/// A line of `MLSD`: `type=file;size=5;modify=20260101000000; name`. `None` for what is neither a file nor a folder.
fn facts(line: &str) -> Option<Child> {
    let (facts, name) = line.split_once(' ')?;
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
    let name = name.to_owned();
    match kind.as_str() {
        "file" => Some(Child::File { name, len, modified }),
        "dir" => Some(Child::Folder(name)),
        // `OS.unix=slink:/where`, in several spellings.
        link if link.contains("link") => Some(Child::Link(name)),
        _ => None,
    }
}

/// A line of `LIST`, as Unix or DOS would write it. `None` for all others: sums, pipes, devices.
fn line(line: &str) -> Option<Child> {
    let file: File = ListParser::parse_posix(line).or_else(|_| ListParser::parse_dos(line)).ok()?;
    let name = file.name().to_owned();
    Some(if file.is_directory() {
        Child::Folder(name)
    } else if file.is_symlink() {
        Child::Link(name)
    } else {
        Child::File { name, len: Some(file.size() as u64), modified: None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, len: Option<u64>, modified: Option<&str>) -> Option<Child> {
        Some(Child::File { name: name.into(), len, modified: modified.map(str::to_owned) })
    }

    fn folder(name: &str) -> Option<Child> {
        Some(Child::Folder(name.into()))
    }

    #[test]
    fn facts_of_real_servers_are_read() {
        for (line, wanted) in [
            (
                "modify=20261127030405;perm=adfr;size=5;type=file;unique=1;UNIX.mode=0644; a b;c.bin",
                file("a b;c.bin", Some(5), Some("20261127030405")),
            ),
            (
                "Type=file;Size=1;Modify=20261127030405.123; x",
                file("x", Some(1), Some("20261127030405")),
            ),
            ("type=dir;modify=20261127030405; d", folder("d")),
            ("type=cdir;; .", None),
            ("type=pdir; ..", None),
            ("type=OS.unix=slink:/etc; etc", Some(Child::Link("etc".into()))),
            ("type=file; no length", file("no length", None, None)),
            ("garbage", None),
        ] {
            assert_eq!(facts(line), wanted, "{line}");
        }
    }

    #[test]
    fn listings_for_people_are_read() {
        for (text, wanted) in [
            (
                "-rw-r--r--    1 0        0               5 Nov 27 03:00 a b.bin",
                file("a b.bin", Some(5), None),
            ),
            ("drwxr-xr-x    2 0        0            4096 Nov 27  2025 sub", folder("sub")),
            (
                "lrwxrwxrwx    1 0        0               4 Nov 27 03:00 l -> /etc",
                Some(Child::Link("l".into())),
            ),
            ("10-19-26  03:19PM       <DIR>          pub", folder("pub")),
            (
                "04-08-26  03:09PM                  403 readme.txt",
                file("readme.txt", Some(403), None),
            ),
            ("total 12", None),
            ("prw-r--r--    1 0        0               0 Nov 27 03:00 pipe", None),
        ] {
            assert_eq!(line(text), wanted, "{text}");
        }
    }
}
