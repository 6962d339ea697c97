//! File names byte for byte as the torrent has them, because these are the names at the server. Our own names differ
//! where a disk could not have the torrent's names.

use crate::torrents::metainfo::{
    Metainfo,
    bencode::{Dict, Document, Node},
};

/// The path of each file of `meta` without the torrent's name; the path of a pad is empty. Our own names are used when
/// the torrent's list does not match the files.
pub(super) fn of(meta: &Metainfo, torrent: &[u8]) -> RawNames {
    let parsed = Document::parse(torrent).ok();
    let info = parsed.as_ref().and_then(|doc| doc.root().as_dict()?.get("info")?.as_dict());
    let root = info.and_then(name).map_or_else(|| meta.name.clone().into_bytes(), <[u8]>::to_vec);
    let is_single = meta.files.iter().filter(|f| !f.pad).count() == 1
        && meta.files.iter().any(|f| !f.pad && f.path == meta.name);
    if is_single {
        return RawNames { root, files: vec![Vec::new(); meta.files.len()], is_single };
    }
    let real = meta.files.iter().filter(|file| !file.pad).count();
    let listed = info.and_then(listed_paths).filter(|paths| paths.len() == real);
    let mut listed = listed.unwrap_or_else(|| our_paths(meta)).into_iter();
    let path = |pad: bool| if pad { Vec::new() } else { listed.next().unwrap_or_default() };
    RawNames { root, files: meta.files.iter().map(|file| file.pad).map(path).collect(), is_single }
}

/// File names in the torrent's own bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawNames {
    pub(super) root: Vec<u8>,
    /// One entry per file: its path below `root`, component by component.
    pub(super) files: Vec<Vec<Vec<u8>>>,
    /// Whether the torrent is a single file named `root`.
    pub(super) is_single: bool,
}

fn name(dict: Dict<'_>) -> Option<&[u8]> {
    dict.get("name.utf-8").and_then(Node::as_bytes).or_else(|| dict.get("name")?.as_bytes())
}

fn our_paths(meta: &Metainfo) -> Vec<Vec<Vec<u8>>> {
    let below = |path: &str| path.split('/').skip(1).map(|part| part.as_bytes().to_vec()).collect();
    meta.files.iter().filter(|file| !file.pad).map(|file| below(&file.path)).collect()
}

/// The paths of all files except pads: from the v1 list, or else from the v2 tree.
fn listed_paths(info: Dict<'_>) -> Option<Vec<Vec<Vec<u8>>>> {
    if let Some(list) = info.get("files").and_then(Node::as_list) {
        let paths = list.iter().filter_map(Node::as_dict).filter(|file| !is_pad(*file)).map(path);
        return paths.collect();
    }
    let mut out = Vec::new();
    walk(info.get("file tree")?.as_dict()?, &mut Vec::new(), &mut out);
    Some(out)
}

fn is_pad(file: Dict<'_>) -> bool {
    let marked = file.get("attr").and_then(Node::as_bytes).is_some_and(|attr| attr.contains(&b'p'));
    let last = file.get("path").and_then(Node::as_list).and_then(|path| path.iter().last());
    marked
        || last.and_then(Node::as_bytes).is_some_and(|name| name.starts_with(b"_____padding_file_"))
}

fn path(file: Dict<'_>) -> Option<Vec<Vec<u8>>> {
    let list = file.get("path.utf-8").or_else(|| file.get("path"))?.as_list()?;
    list.iter().map(|part| part.as_bytes().map(<[u8]>::to_vec)).collect()
}

/// Recurses once per folder: the parser stops at 64 levels.
fn walk(tree: Dict<'_>, folder: &mut Vec<Vec<u8>>, out: &mut Vec<Vec<Vec<u8>>>) {
    for (key, node) in tree.iter() {
        let Some(dict) = node.as_dict() else { continue };
        if key.is_empty() {
            out.push(folder.clone());
            continue;
        }
        folder.push(key.to_vec());
        walk(dict, folder, out);
        folder.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(torrent: &[u8]) -> RawNames {
        of(&Metainfo::parse(torrent).unwrap(), torrent)
    }

    #[test]
    fn a_torrent_of_one_file_has_a_name_and_no_paths() {
        let names = names(include_bytes!("../metainfo/testdata/single_v1.torrent"));
        assert!(names.is_single);
        assert!(names.files.iter().all(Vec::is_empty));
    }

    #[test]
    fn both_lists_of_files_give_the_same_paths() {
        let all = [
            &include_bytes!("../metainfo/testdata/multi_v1.torrent")[..],
            include_bytes!("../metainfo/testdata/multi_v2.torrent"),
            include_bytes!("../metainfo/testdata/multi_hybrid.torrent"),
        ];
        for torrent in all {
            let names = names(torrent);
            let real: Vec<_> = names.files.iter().filter(|path| !path.is_empty()).collect();
            assert_eq!(names.root, b"m");
            assert!(real.contains(&&vec![b"a.bin".to_vec()]), "{real:?}");
            assert!(real.contains(&&vec![b"sub".to_vec(), b"b.bin".to_vec()]), "{real:?}");
        }
    }

    #[test]
    fn a_name_that_is_not_utf8_keeps_its_bytes() {
        let pieces = "x".repeat(20);
        let torrent = format!(
            "d4:infod5:filesld6:lengthi1e4:pathl4:\u{e9}.\u{e9}eed6:lengthi1e4:pathl1:beee4:name1:t12:piece lengthi16384e6:pieces20:{pieces}ee"
        );
        // One byte for each letter instead of two: Latin-1, which is not UTF-8.
        let torrent: Vec<u8> = torrent
            .replace("4:\u{e9}.\u{e9}", "3:\u{1}.\u{2}")
            .bytes()
            .map(|b| if b < 3 { 0xe8 + b } else { b })
            .collect();
        let names = names(&torrent);
        assert_eq!(names.files, [vec![vec![0xe9, b'.', 0xea]], vec![vec![b'b']]]);
    }
}
