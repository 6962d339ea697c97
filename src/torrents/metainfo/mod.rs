//! Parses `.torrent` files, and checks their content before it is used.
//!
//! A torrent comes from a stranger, and decides names on our disk, sizes of our buffers and what counts as verified.
//! [`Metainfo::parse`] therefore rejects, with a message, everything that is not safe to use. The result needs no
//! second check: paths are safe to join to a folder and unique, ranges neither overlap nor overflow, and every hash
//! belongs to the bytes it stands for. Accepted torrents are laid out exactly as libtorrent 2.0.8 lays them out.

pub mod bencode;
pub(super) mod catalog_names;
pub mod check;
mod content_roots;
pub mod file_layout;
pub(super) mod geometry;
pub mod merkle;
pub(super) mod naming;
pub(super) mod rewrite;
pub mod select;

use std::{collections::HashMap, ops::Range};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use self::{
    bencode::{Dict, Document, Flaws, Node},
    file_layout::{FileLayout, NamingContext},
    merkle::Hash,
    naming::{Naming, number_duplicates},
};
pub use self::{file_layout::File, rewrite::torrent_file};
use crate::{
    error::{Error, Kind, Result},
    names,
};

/// A whole piece is hashed from memory, so its length is limited to what a memory budget can hold.
pub const MAX_PIECE_LENGTH: u32 = 128 << 20;
/// The most pieces; libtorrent accepts no more.
pub const MAX_PIECES: u32 = 1 << 21;

/// A checked torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metainfo {
    /// The first component of every path. Usable as a file or folder name.
    pub name: String,
    /// Length of a piece in bytes, `1..=`[`MAX_PIECE_LENGTH`]; the last piece may be shorter.
    pub piece_length: u32,
    /// Length of the linear space in bytes, pads included. Never 0.
    pub len: u64,
    /// In the order of the linear space, which they fill without gaps; pads are included.
    pub files: Vec<File>,
    /// Only the trackers in the torrent may supply peers.
    pub private: bool,
    /// SHA-1 of the info dictionary; `None` for v2 only.
    pub info_hash_v1: Option<[u8; 20]>,
    /// SHA-256 of the info dictionary; `None` for v1 only.
    pub info_hash_v2: Option<Hash>,
    /// Tracker URLs by tier, the first tier first.
    pub trackers: Vec<Vec<String>>,
    /// URLs of web seeds (BEP 19, `url-list`), as in the torrent.
    pub web_seeds: Vec<String>,
    /// URLs of web seeds of the older kind (BEP 17, `httpseeds`).
    pub http_seeds: Vec<String>,
    pub comment: Option<String>,
    /// Creation time, in seconds since 1970.
    pub created: Option<i64>,
    /// Position of the info dictionary in the input.
    pub info: Range<usize>,
    /// Some names are not UTF-8, and were decoded in the encoding that fits them.
    pub guessed_names: bool,
    /// Irregularities that were accepted, a sentence each.
    pub notes: Vec<String>,
    /// One hash per piece, or empty for v2 only.
    pieces_v1: Vec<[u8; 20]>,
    /// One hash per piece, or empty for v1 only; zeros where the torrent has no hash for the piece.
    pieces_v2: Vec<Hash>,
    /// One root per file.
    roots: Vec<Option<Hash>>,
    /// Where the torrent ends in the input.
    end: usize,
}

impl Metainfo {
    /// Parses a whole `.torrent` file.
    ///
    /// # Errors
    /// `InvalidInput`, with the problem and its position.
    pub fn parse(torrent: &[u8]) -> Result<Self> {
        parse(torrent).map_err(|e| {
            let e = e.with_context("not a usable torrent");
            match torrent.first() {
                Some(b'<') => e.hint("it looks like a web page: download the torrent again"),
                Some(b'm') if torrent.starts_with(b"magnet:") => {
                    e.hint("it is a magnet link: give the link itself")
                }
                _ => e,
            }
        })
    }

    /// As [`Metainfo::parse`]; also returns the torrent without the bytes behind its end.
    ///
    /// # Errors
    /// As [`Metainfo::parse`].
    pub fn parse_trimmed(mut torrent: Vec<u8>) -> Result<(Self, Vec<u8>)> {
        let meta = Self::parse(&torrent)?;
        torrent.truncate(meta.end);
        Ok((meta, torrent))
    }

    /// Parses an info dictionary alone. A magnet link's peers send only that: no trackers, and no v2 piece hashes.
    ///
    /// # Errors
    /// As [`Metainfo::parse`].
    pub fn parse_info(info: &[u8]) -> Result<Self> {
        let parsed = Document::parse(info).and_then(|doc| parse_info(doc.root(), None));
        parsed.map_err(|e| e.with_context("not a usable torrent"))
    }

    /// Number of pieces.
    #[must_use]
    pub fn pieces(&self) -> u32 {
        let pieces = self.len.div_ceil(u64::from(self.piece_length));
        u32::try_from(pieces).expect("at most MAX_PIECES")
    }

    /// The bytes of `piece` in the linear space, pads included. Empty past the end.
    #[must_use]
    pub fn piece_range(&self, piece: u32) -> Range<u64> {
        let start = u64::from(piece) * u64::from(self.piece_length);
        start.min(self.len)..(start + u64::from(self.piece_length)).min(self.len)
    }

    /// The v1 hash of each piece; empty for v2 only.
    #[must_use]
    pub fn pieces_v1(&self) -> &[[u8; 20]] {
        &self.pieces_v1
    }

    /// The v2 hash of `piece`: in a file longer than a piece, the root of the piece, otherwise the root of the file.
    /// `None` for v1 only, and when a torrent from a magnet link has no piece layers.
    #[must_use]
    pub fn piece_v2(&self, piece: u32) -> Option<&Hash> {
        self.pieces_v2.get(piece as usize).filter(|hash| **hash != [0; 32])
    }

    /// The merkle root of the file at `index`; `None` for v1 only, pads, links and empty files.
    #[must_use]
    pub fn root(&self, index: usize) -> Option<&Hash> {
        self.roots.get(index)?.as_ref()
    }

    /// The file that contains `offset`, with its index. `None` past the end.
    #[must_use]
    pub fn file_at(&self, offset: u64) -> Option<(usize, &File)> {
        let index = self.files.partition_point(|f| f.range.end <= offset);
        Some((index, self.files.get(index)?))
    }
}

fn parse(torrent: &[u8]) -> Result<Metainfo> {
    let doc = Document::parse_beginning(torrent)?;
    let root = doc.root().as_dict().ok_or_else(|| bad("it is not a dictionary"))?;
    let info = root.get("info").ok_or_else(|| bad("it has no \"info\""))?;
    let mut meta = parse_info(info, root.get("encoding").and_then(Node::as_bytes))?;
    meta.end = doc.root().span().end;
    meta.notes.extend(notes(doc.root(), torrent));
    if meta.info_hash_v2.is_some()
        && let Some(layers) = root.dict("piece layers")?
    {
        take_layers(&mut meta, layers)?;
    }
    meta.trackers = trackers(root);
    meta.web_seeds = urls(root, "url-list");
    meta.http_seeds = urls(root, "httpseeds");
    meta.comment = text(root, "comment.utf-8").or_else(|| text(root, "comment"));
    meta.created = root.get("creation date").and_then(Node::as_int).filter(|t| *t >= 0);
    Ok(meta)
}

/// Irregularities of a torrent file that are ignored.
fn notes(root: Node<'_>, torrent: &[u8]) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(at) = root.duplicate_key() {
        let dict = format!("the dictionary at byte {at} of the torrent");
        notes.push(format!("duplicate key in {dict}: its first value is used"));
    }
    let behind = &torrent[root.span().end..];
    if !behind.trim_ascii().is_empty() {
        notes.push(format!("{} bytes after the end of the torrent are ignored", behind.len()));
    }
    notes
}

/// `encoding`: the encoding that the torrent declares for its names.
fn parse_info(node: Node<'_>, encoding: Option<&[u8]>) -> Result<Metainfo> {
    let info = node.as_dict().ok_or_else(|| bad("\"info\" is not a dictionary"))?;
    let v2 = is_v2(info)?;
    if let Some(flaw) = node.flaw().filter(|_| meta_version(info).is_some()) {
        return Err(flawed(flaw));
    }
    let v1 = !v2 || info.get("files").is_some() || info.get("length").is_some();
    let piece_length = piece_length(info, v2)?;
    let hash_v1: [u8; 20] =
        merkle::to_array(digest(&SHA1_FOR_LEGACY_USE_ONLY, node.raw()).as_ref());
    let hash_v2 = merkle::sha256(node.raw());
    let fallback = if v1 { &hash_v1[..] } else { &hash_v2[..] };
    let naming = Naming::of(non_utf8_names(info).iter().copied(), encoding);
    let FileLayout { mut files, roots, len, notes, .. } =
        layout(info, (v1, v2), piece_length, naming, fallback)?;
    check_usable(&files, len, piece_length)?;
    number_duplicates(&mut files);
    let name = files[0].path.split('/').next().unwrap_or_default().to_owned();
    let mut meta = Metainfo {
        name,
        piece_length,
        len,
        files,
        private: is_private(info),
        info_hash_v1: v1.then_some(hash_v1),
        info_hash_v2: v2.then_some(hash_v2),
        trackers: Vec::new(),
        web_seeds: Vec::new(),
        http_seeds: Vec::new(),
        comment: None,
        created: None,
        info: node.span(),
        guessed_names: naming.is_guessed(),
        notes,
        pieces_v1: Vec::new(),
        pieces_v2: Vec::new(),
        roots,
        end: node.span().end,
    };
    meta.pieces_v1 = pieces_v1(info, v1, meta.pieces())?;
    if v2 {
        meta.pieces_v2 = small_file_hashes(&meta);
    }
    Ok(meta)
}

/// The error for a v2 torrent whose info dictionary is not strict bencode: libtorrent rejects such a torrent.
fn flawed((at, flaws): (usize, Flaws)) -> Error {
    let what = match flaws {
        f if f.has(Flaws::DUPLICATE_KEY) => "there is a duplicate key in the dictionary",
        f if f.has(Flaws::UNSORTED_KEYS) => "the keys are out of order in the dictionary",
        _ => "there is a leading zero in the number",
    };
    bad(format!("{what} at byte {at}"))
        .hint("libtorrent accepts that in v1 torrents, but not in v2 torrents")
}

/// The names that are not UTF-8.
fn non_utf8_names(info: Dict<'_>) -> Vec<&[u8]> {
    let mut names: Vec<&[u8]> = raw_name(info).into_iter().collect();
    let list = info.get("files").and_then(Node::as_list).into_iter().flat_map(|l| l.iter());
    for file in list.filter_map(Node::as_dict) {
        // Errors in these paths are reported when the files are laid out.
        names.extend(file_layout::components(file).unwrap_or_default());
    }
    names.retain(|name| std::str::from_utf8(name).is_err());
    if let Some(tree) = info.get("file tree").and_then(Node::as_dict) {
        add_tree_names(tree, &mut names);
    }
    names
}

fn add_tree_names<'a>(tree: Dict<'a>, names: &mut Vec<&'a [u8]>) {
    for (key, node) in tree.iter().filter(|(key, _)| !key.is_empty()) {
        names.extend(std::str::from_utf8(key).is_err().then_some(key));
        node.as_dict().into_iter().for_each(|dict| add_tree_names(dict, names));
    }
}

fn raw_name(info: Dict<'_>) -> Option<&[u8]> {
    ["name.utf-8", "name"].iter().find_map(|key| info.get(key).and_then(Node::as_bytes))
}

/// The meta version. A value that is not a number above 0 counts as absent, as in libtorrent.
fn meta_version(info: Dict<'_>) -> Option<i64> {
    info.get("meta version").and_then(Node::as_int).filter(|version| *version > 0)
}

fn is_v2(info: Dict<'_>) -> Result<bool> {
    match meta_version(info).unwrap_or(1) {
        1 if info.get("file tree").is_some() => {
            Err(bad("it has a \"file tree\", but no \"meta version\" of 2"))
        }
        1 => Ok(false),
        2 => Ok(true),
        other => {
            Err(bad(format!("its \"meta version\" is {other}, and only 1 and 2 are supported")))
        }
    }
}

fn piece_length(info: Dict<'_>, v2: bool) -> Result<u32> {
    let length = info.int("piece length")?.ok_or_else(|| bad("it has no \"piece length\""))?;
    let usable = u32::try_from(length).ok().filter(|n| *n > 0);
    let usable = usable.ok_or_else(|| bad(format!("the piece length {length} is invalid")))?;
    if usable > MAX_PIECE_LENGTH {
        let what = format!("the piece length {length} is more than {MAX_PIECE_LENGTH} bytes");
        return Err(bad(what).hint("a piece is verified in memory, so its length is limited"));
    }
    if v2 && (u64::from(usable) < merkle::BLOCK_LEN || !usable.is_power_of_two()) {
        let rule = "a power of two of at least 16384";
        return Err(bad(format!("the piece length {length} is not {rule}, which v2 needs")));
    }
    Ok(usable)
}

/// The torrent's name. A torrent with a list or tree of files whose name is empty is named by its info hash, as in
/// libtorrent.
fn name(info: Dict<'_>, naming: Naming, fallback: Option<&[u8]>) -> Result<String> {
    if info.get("name.utf-8").and_then(Node::as_bytes).is_none() {
        info.bytes("name")?;
    }
    let raw = raw_name(info).ok_or_else(|| bad("it has no \"name\""))?;
    match (naming.component(raw).map_err(|e| e.with_context("\"name\""))?, fallback) {
        (Some(name), _) => Ok(name),
        (None, Some(hash)) => Ok(hash.iter().map(|b| format!("{b:02x}")).collect()),
        (None, None) => Err(bad("its \"name\" is empty")),
    }
}

fn layout(
    info: Dict<'_>,
    (v1, v2): (bool, bool),
    piece_length: u32,
    naming: Naming,
    hash: &[u8],
) -> Result<FileLayout> {
    let list = info.list("files")?;
    let fallback = (v2 || list.is_some()).then_some(hash);
    let name = name(info, naming, fallback)?;
    let names = NamingContext { root: &name, naming };
    let v1_layout = match list {
        Some(list) => FileLayout::v1_list(list, names)?,
        None if v1 => FileLayout::v1_single(info, &name)?,
        None => FileLayout::default(),
    };
    if !v2 {
        return Ok(v1_layout);
    }
    let tree = info.dict("file tree")?.ok_or_else(|| bad("it has no \"file tree\""))?;
    let mut v2_layout = FileLayout::v2(tree, names, list.is_some(), u64::from(piece_length))?;
    if v1 && v2_layout.files.len() == v1_layout.files.len() + 1 {
        v2_layout.remove_tail_pad();
    }
    if v1 && !v2_layout.agrees_with(&v1_layout) {
        return Err(bad("its v1 and v2 parts do not list the same files"));
    }
    Ok(v2_layout)
}

fn check_usable(files: &[File], len: u64, piece_length: u32) -> Result<()> {
    if files.iter().all(|f| f.pad || f.range.is_empty()) {
        return Err(bad("it has no file with data"));
    }
    if len.div_ceil(u64::from(piece_length)) > u64::from(MAX_PIECES) {
        let what = format!("{len} bytes in pieces of {piece_length} are more than {MAX_PIECES}");
        return Err(bad(format!("{what} pieces")));
    }
    Ok(())
}

fn pieces_v1(info: Dict<'_>, v1: bool, count: u32) -> Result<Vec<[u8; 20]>> {
    let hashes = match info.bytes("pieces")? {
        Some(_) if !v1 => return Err(bad("it has \"pieces\", but lists no v1 files")),
        None if v1 => return Err(bad("it has no \"pieces\"")),
        other => other.unwrap_or_default(),
    };
    let (hashes, rest) = hashes.as_chunks::<20>();
    if !rest.is_empty() {
        return Err(bad("the length of \"pieces\" is not a multiple of 20"));
    }
    if v1 && hashes.len() != count as usize {
        let found = hashes.len();
        return Err(bad(format!("\"pieces\" has {found} hashes for {count} pieces")));
    }
    Ok(hashes.to_vec())
}

/// The v2 hashes that need no piece layers: the root of a file no longer than a piece is the hash of its piece.
fn small_file_hashes(meta: &Metainfo) -> Vec<Hash> {
    let mut hashes = vec![[0; 32]; meta.pieces() as usize];
    for (file, root) in meta.files.iter().zip(&meta.roots) {
        if let Some(root) = root
            && file.range.end - file.range.start <= u64::from(meta.piece_length)
        {
            hashes[first_piece(meta, file)] = *root;
        }
    }
    hashes
}

fn first_piece(meta: &Metainfo, file: &File) -> usize {
    let piece = file.range.start / u64::from(meta.piece_length);
    usize::try_from(piece).expect("at most MAX_PIECES")
}

/// Takes the piece hashes of longer files from the piece layers. Files without a layer keep no hashes, as in a torrent
/// from a magnet link.
fn take_layers(meta: &mut Metainfo, layers: Dict<'_>) -> Result<()> {
    let mut by_root: HashMap<&[u8], Node<'_>> = HashMap::new();
    for (root, layer) in layers.iter() {
        by_root.entry(root).or_insert(layer);
    }
    for (index, file) in meta.files.iter().enumerate() {
        let len = file.range.end - file.range.start;
        let Some(root) = &meta.roots[index] else { continue };
        if len <= u64::from(meta.piece_length) {
            continue;
        }
        let Some(layer) = by_root.get(&root[..]) else { continue };
        let wrong = |why| bad(format!("the piece layer of {} {why}", names::quote(&file.path)));
        let bytes = layer.as_bytes().ok_or_else(|| wrong("is not a string"))?;
        let (hashes, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() || hashes.len() as u64 != len.div_ceil(u64::from(meta.piece_length)) {
            return Err(wrong("does not have one hash of 32 bytes for each piece"));
        }
        if merkle::file_root(hashes, meta.piece_length) != *root {
            return Err(wrong("does not hash to the root of the file"));
        }
        let first = first_piece(meta, file);
        meta.pieces_v2[first..first + hashes.len()].copy_from_slice(hashes);
    }
    Ok(())
}

/// Whether peers are found only through trackers (BEP 27).
pub(super) fn is_private(info: Dict<'_>) -> bool {
    info.get("private").and_then(Node::as_int).is_some_and(|n| n != 0)
}

/// The tiers of `announce-list`, or else `announce`. Values that are not UTF-8 are skipped: trackers are optional.
pub(super) fn trackers(root: Dict<'_>) -> Vec<Vec<String>> {
    let url = |node: Node<'_>| {
        let text = std::str::from_utf8(node.as_bytes()?).ok()?.trim();
        (!text.is_empty()).then(|| lowercase_scheme(text))
    };
    let tiers = root.get("announce-list").and_then(Node::as_list);
    let tiers = tiers.into_iter().flat_map(|l| l.iter()).filter_map(Node::as_list);
    let tiers: Vec<Vec<String>> = tiers
        .map(|tier| tier.iter().filter_map(url).collect())
        .filter(|t: &Vec<_>| !t.is_empty())
        .collect();
    match root.get("announce").and_then(url) {
        Some(only) if tiers.is_empty() => vec![vec![only]],
        _ => tiers,
    }
}

/// The URL with its scheme in lower case: libtorrent knows no other form.
#[must_use]
pub fn lowercase_scheme(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => format!("{}://{rest}", scheme.to_ascii_lowercase()),
        None => url.to_owned(),
    }
}

/// A list of URLs, or a single URL, as in many torrents. Values that are not text are skipped.
fn urls(root: Dict<'_>, key: &str) -> Vec<String> {
    let url = |node: Node<'_>| {
        let text = std::str::from_utf8(node.as_bytes()?).ok()?.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    let Some(node) = root.get(key) else { return Vec::new() };
    match node.as_list() {
        Some(list) => list.iter().filter_map(url).collect(),
        None => url(node).into_iter().collect(),
    }
}

fn text(root: Dict<'_>, key: &str) -> Option<String> {
    let bytes = root.get(key)?.as_bytes().filter(|b| !b.is_empty())?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, what)
}

#[cfg(test)]
mod tests;
