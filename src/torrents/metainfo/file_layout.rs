//! The files of a torrent in one linear space, byte for byte at the positions that libtorrent 2.0.8 gives them.
//!
//! Offsets in libtorrent's disk requests include pad files, so bae must have the same pads: those in a v1 list, and for
//! v2 one behind every file that does not end at a piece boundary. Names are not taken from libtorrent:
//! [`super::naming`] makes them.

use std::ops::Range;

use super::{
    bencode::{Dict, List, Node},
    merkle::Hash,
    naming::Naming,
};
use crate::{
    error::{Error, Kind, Result},
    names,
};

/// libtorrent keeps offsets in 48 bits.
pub const MAX_LEN: u64 = (1 << 48) - 1;
/// libtorrent numbers the nodes of a file's hash tree with a 32-bit int, which limits a file to just under 16 TiB.
pub const MAX_FILE_LEN: u64 = (i32::MAX as u64 / 2) * (16 << 10) - 1;
/// The most files in a list, including its pads. The parser's limit on values ends a longer list soon after.
pub const MAX_FILES: usize = 500_000;
/// The most bytes of all paths together. Without it, a v2 tree of short names under one long folder name would need
/// gigabytes.
pub const MAX_NAMES: usize = 64 << 20;

/// A file of a torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Components joined by `/`. The first is the torrent's name when it has several files. Safe to join to a folder.
    pub path: String,
    /// Position in the torrent's linear space, in bytes.
    pub range: Range<u64>,
    /// Known zeros that only align the next file: never stored, never written, and the path has no meaning.
    pub pad: bool,
    pub executable: bool,
    /// The target when the file is a symbolic link. It has the form of `path`, and may be a folder or not exist. A link
    /// has no bytes of its own.
    pub symlink: Option<String>,
}

/// Files while they are laid out.
#[derive(Debug, Default)]
pub(super) struct FileLayout {
    pub(in crate::torrents) files: Vec<File>,
    /// For v2: the merkle root of each file; `None` where there is nothing to hash.
    pub(in crate::torrents) roots: Vec<Option<Hash>>,
    pub(in crate::torrents) len: u64,
    /// Differences from the torrent, a sentence each.
    pub(in crate::torrents) notes: Vec<String>,
    /// Number of files that the torrent itself lists.
    listed: usize,
    /// Bytes of all paths together.
    names: usize,
}

/// How the files of one torrent are named.
#[derive(Debug, Clone, Copy)]
pub(super) struct NamingContext<'a> {
    /// The torrent's own name.
    pub(in crate::torrents) root: &'a str,
    pub(in crate::torrents) naming: Naming,
}

/// The most notes of one torrent.
const MAX_NOTES: usize = 5;

impl FileLayout {
    /// A v1 list of files in the torrent's folder.
    pub(super) fn v1_list(list: List<'_>, names: NamingContext<'_>) -> Result<Self> {
        let mut layout = Self::default();
        for (i, node) in list.iter().enumerate() {
            let with_context = |e: Error| e.with_context(format_args!("file {}", i + 1));
            let dict =
                node.as_dict().ok_or_else(|| bad("not a dictionary")).map_err(with_context)?;
            let file = v1_entry(dict, names).map_err(with_context)?;
            layout.list(file, None).map_err(with_context)?;
        }
        Ok(layout)
    }

    /// A v1 torrent of one file, whose entry is the info dictionary.
    pub(super) fn v1_single(info: Dict<'_>, name: &str) -> Result<Self> {
        let mut layout = Self::default();
        let mut attr = Attributes::of(info);
        attr.pad |= is_bitcomet_pad(name.as_bytes());
        let len = if attr.symlink { 0 } else { length(info)? };
        let file = FileEntry { path: name.to_owned(), len, attr, target: LinkTarget::None };
        layout.list(file, None)?;
        Ok(layout)
    }

    /// A v2 file tree. `listed`: the torrent has a v1 list too, and then even a single file is in the torrent's folder.
    pub(in crate::torrents) fn v2(
        tree: Dict<'_>,
        names: NamingContext<'_>,
        listed: bool,
        piece_length: u64,
    ) -> Result<Self> {
        let mut layout = Self::default();
        let mut top = tree.iter();
        let single = match (top.next(), top.next()) {
            (Some((_, only)), None) => leaf(only).is_some() && !listed,
            _ => false,
        };
        layout.walk(tree, if single { "" } else { names.root }, names, piece_length)?;
        Ok(layout)
    }

    /// Recurses once per folder: the parser stops at 64 levels.
    fn walk(
        &mut self,
        tree: Dict<'_>,
        folder: &str,
        names: NamingContext<'_>,
        piece_length: u64,
    ) -> Result<()> {
        for (key, node) in tree.iter() {
            let with_context =
                |e: Error| e.with_context(format_args!("file tree, in {}", names::quote(folder)));
            if key.is_empty() {
                return Err(with_context(bad("the path is empty")));
            }
            let entry = leaf(node);
            let path = match entry {
                None if key == b"." => folder.to_owned(),
                _ => names.naming.join(folder, [key]).map_err(with_context)?,
            };
            let with_context =
                |e: Error| e.with_context(format_args!("file {}", names::quote(&path)));
            let Some(entry) = entry else {
                let dict =
                    node.as_dict().ok_or_else(|| bad("not a dictionary")).map_err(with_context)?;
                self.walk(dict, &path, names, piece_length)?;
                continue;
            };
            let dict =
                entry.as_dict().ok_or_else(|| bad("not a dictionary")).map_err(with_context)?;
            let (file, hash) = v2_entry(dict, &path, names).map_err(with_context)?;
            self.list(file, hash).map_err(with_context)?;
            self.align(names.root, piece_length).map_err(with_context)?;
        }
        Ok(())
    }

    fn list(&mut self, entry: FileEntry, root: Option<Hash>) -> Result<()> {
        self.listed += 1;
        if self.listed > MAX_FILES {
            return Err(bad(format!("more than {MAX_FILES} files")));
        }
        self.push(entry, root)
    }

    fn push(&mut self, entry: FileEntry, root: Option<Hash>) -> Result<()> {
        let symlink = match entry.target {
            LinkTarget::Inside(to) => Some(to),
            LinkTarget::None => None,
            LinkTarget::Outside => {
                if self.notes.len() < MAX_NOTES {
                    let path = names::quote(&entry.path);
                    let what = "points outside the torrent and becomes an empty file";
                    self.notes.push(format!("the symbolic link {path} {what}"));
                }
                None
            }
        };
        self.names += entry.path.len() + symlink.as_ref().map_or(0, String::len);
        if self.names > MAX_NAMES {
            return Err(bad(format!("the paths of all files are longer than {MAX_NAMES} bytes")));
        }
        let end = self.len.checked_add(entry.len).filter(|end| *end <= MAX_LEN);
        let end = end.ok_or_else(|| bad(format!("the files are longer than {MAX_LEN} bytes")))?;
        self.files.push(File {
            path: entry.path,
            range: self.len..end,
            pad: entry.attr.pad,
            executable: entry.attr.executable,
            symlink,
        });
        self.roots.push(root);
        self.len = end;
        Ok(())
    }

    /// Adds the pad up to the next piece boundary of a v2 torrent; also behind the last file.
    fn align(&mut self, root: &str, piece_length: u64) -> Result<()> {
        match self.len % piece_length {
            0 => Ok(()),
            over => self.push(pad(root, piece_length - over), None),
        }
    }

    /// Removes the pad behind the last file with bytes: older writers of hybrid torrents wrote none there.
    pub(super) fn remove_tail_pad(&mut self) {
        let Some(last) = self.files.iter().rposition(|f| !f.range.is_empty()) else { return };
        if !self.files[last].pad {
            return;
        }
        self.roots.remove(last);
        self.len = self.files.remove(last).range.start;
        for empty in &mut self.files[last..] {
            empty.range = self.len..self.len;
        }
    }

    /// Whether `other` has the same bytes under the same names. Pads and empty files may have different names.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        let counts = |f: &File| !f.pad && !f.range.is_empty();
        self.len == other.len
            && self.files.len() == other.files.len()
            && self.files.iter().zip(&other.files).all(|(a, b)| match (counts(a), counts(b)) {
                (true, true) => a.path == b.path && a.range == b.range,
                (a, b) => a == b,
            })
    }
}

struct FileEntry {
    path: String,
    len: u64,
    attr: Attributes,
    target: LinkTarget,
}

/// The target of a symbolic link.
enum LinkTarget {
    /// The file is not a link, or the link has no usable target.
    None,
    /// This path, in the form of [`File::path`].
    Inside(String),
    Outside,
}

#[derive(Default)]
struct Attributes {
    pad: bool,
    executable: bool,
    symlink: bool,
}

impl Attributes {
    fn of(dict: Dict<'_>) -> Self {
        let has = |c| {
            let attr = dict.get("attr").and_then(Node::as_bytes);
            attr.is_some_and(|a| a.contains(&c))
        };
        Self { pad: has(b'p'), executable: has(b'x'), symlink: has(b'l') }
    }
}

fn pad(root: &str, len: u64) -> FileEntry {
    let attr = Attributes { pad: true, ..Attributes::default() };
    FileEntry { path: format!("{root}/.pad/{len}"), len, attr, target: LinkTarget::None }
}

fn v1_entry(dict: Dict<'_>, names: NamingContext<'_>) -> Result<FileEntry> {
    let attr = Attributes::of(dict);
    // A link has no bytes, whatever its length says. A link without a target is an empty file.
    let len = if attr.symlink { 0 } else { length(dict)? };
    let components = components(dict)?;
    if attr.pad || components.iter().chain([&names.root.as_bytes()]).any(|c| is_bitcomet_pad(c)) {
        return Ok(pad(names.root, len));
    }
    if components.is_empty() {
        return Err(bad("the path is empty"));
    }
    let path = names.naming.join(names.root, components)?;
    let target = target(dict, &attr, &path, names)?;
    Ok(FileEntry { path, len, attr, target })
}

fn v2_entry(
    dict: Dict<'_>,
    path: &str,
    names: NamingContext<'_>,
) -> Result<(FileEntry, Option<Hash>)> {
    let attr = Attributes::of(dict);
    if attr.pad {
        return Err(bad("a pad file is not allowed in a file tree"));
    }
    let len = if attr.symlink { 0 } else { length(dict)? };
    let hash = match dict.bytes("pieces root")? {
        _ if len == 0 => None,
        Some(root) => Hash::try_from(root).ok().filter(|h| *h != [0; 32]),
        None => None,
    };
    if len > 0 && hash.is_none() {
        return Err(bad("\"pieces root\" is not a hash of 32 bytes"));
    }
    let target = target(dict, &attr, path, names)?;
    Ok((FileEntry { path: path.to_owned(), len, attr, target }, hash))
}

/// The entry of a file in a file tree: the value of the empty key, if that is the only key.
fn leaf(node: Node<'_>) -> Option<Node<'_>> {
    let mut entries = node.as_dict()?.iter();
    match (entries.next(), entries.next()) {
        (Some((b"", entry)), None) => Some(entry),
        _ => None,
    }
}

fn length(dict: Dict<'_>) -> Result<u64> {
    let length = dict.int("length")?.ok_or_else(|| bad("there is no \"length\""))?;
    match u64::try_from(length) {
        Err(_) => Err(bad(format!("the length {length} is negative"))),
        Ok(len) if len > MAX_FILE_LEN => {
            Err(bad(format!("the length {len} is more than {MAX_FILE_LEN} bytes")))
        }
        Ok(len) => Ok(len),
    }
}

/// The components of a path. `path.utf-8` is preferred, because it is more likely to be what its maker meant.
pub(in crate::torrents) fn components(dict: Dict<'_>) -> Result<Vec<&[u8]>> {
    let list = |key| dict.get(key).and_then(Node::as_list);
    let usable = |list: &List<'_>| list.iter().next().is_some();
    match list("path.utf-8").filter(usable).or_else(|| list("path")) {
        Some(list) => strings(list, "path"),
        None => Ok(Vec::new()),
    }
}

fn strings<'a>(list: List<'a>, what: &str) -> Result<Vec<&'a [u8]>> {
    let all = list.iter().map(Node::as_bytes).collect::<Option<Vec<_>>>();
    all.ok_or_else(|| bad(format!("{what:?} is not a list of strings")))
}

/// The target of a link. It starts at the torrent's folder, as in BEP 47. A target that begins with `..` starts at the
/// link's own folder, because some makers copy the text of the link itself.
fn target(
    dict: Dict<'_>,
    attr: &Attributes,
    path: &str,
    names: NamingContext<'_>,
) -> Result<LinkTarget> {
    if !attr.symlink {
        return Ok(LinkTarget::None);
    }
    let list = dict.get("symlink path").and_then(Node::as_list);
    let Some(list) = list else { return Ok(LinkTarget::None) };
    let components = strings(list, "symlink path")?;
    let mut at: Vec<String> = match components.first() {
        Some(&b"..") => {
            let inside = path.strip_prefix(names.root).unwrap_or_default();
            let folder = inside.rsplit_once('/').map_or("", |(folder, _)| folder);
            folder.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    };
    for raw in components {
        match raw {
            b".." if at.pop().is_none() => return Ok(LinkTarget::Outside),
            b".." => {}
            [b'/', ..] => return Ok(LinkTarget::Outside),
            _ => at.extend(names.naming.component(raw)?),
        }
    }
    if at.is_empty() {
        return Ok(LinkTarget::None);
    }
    let target = format!("{}/{}", names.root, at.join("/"));
    match target.len() > names::MAX_PATH {
        true => Err(bad("the target of a symbolic link is too long")),
        false => Ok(LinkTarget::Inside(target)),
    }
}

/// BitComet marked its pads only by their name, and libtorrent recognises them by it.
fn is_bitcomet_pad(component: &[u8]) -> bool {
    const MARK: &[u8] = b"_____padding_file_";
    component.windows(MARK.len()).any(|w| w == MARK)
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, what)
}
