//! Test data and torrents. Each is made once per set of parameters and kept in `CARGO_TARGET_TMPDIR`.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
};

use super::{MIB, PYTHON, Random, require_program, script};

/// Which info-hashes a torrent has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Version {
    V1,
    V2,
    Hybrid,
}

impl Version {
    fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        }
    }
}

/// The parameters of a torrent.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Recipe {
    name: String,
    /// Paths inside the folder `name`, with lengths. `None`: the torrent is a single file.
    files: Option<Vec<(String, u64)>>,
    len: u64,
    version: Version,
    piece: u64,
    pad: bool,
    private: bool,
    links: bool,
    seed: u64,
}

/// A torrent and its data on disk.
#[derive(Debug, Clone)]
pub(crate) struct Fixture {
    pub(crate) torrent: PathBuf,
    /// The folder that contains the data. Seeders use it as their download folder.
    pub(crate) parent: PathBuf,
    pub(crate) name: String,
    /// Without padding.
    pub(crate) bytes: u64,
    pub(crate) v1: Option<String>,
    pub(crate) v2: Option<String>,
}

impl Recipe {
    pub(crate) fn single(name: &str, len: u64) -> Self {
        let name = name.to_owned();
        let version = Version::V1;
        Self {
            name,
            files: None,
            len,
            version,
            piece: MIB,
            pad: false,
            private: false,
            links: false,
            seed: 1,
        }
    }

    pub(crate) fn folder(name: &str, files: Vec<(String, u64)>) -> Self {
        let len = files.iter().map(|(_, len)| len).sum();
        Self { files: Some(files), len, ..Self::single(name, 0) }
    }

    pub(crate) fn version(self, version: Version) -> Self {
        Self { version, ..self }
    }

    pub(crate) fn piece(self, piece: u64) -> Self {
        Self { piece, ..self }
    }

    /// Aligns the files of a v1 torrent to pieces with pad files.
    pub(crate) fn padded(self) -> Self {
        Self { pad: true, ..self }
    }

    /// Sets the private flag: peers come only from its trackers.
    pub(crate) fn private(self) -> Self {
        Self { private: true, ..self }
    }

    /// Keeps symbolic links.
    pub(crate) fn with_links(self) -> Self {
        Self { links: true, ..self }
    }

    /// Another seed gives other bytes and another info-hash.
    pub(crate) fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Makes the torrent, or opens the one that was made before.
    pub(crate) fn make(&self) -> Fixture {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fixtures");
        let dir = root.join(format!("{:016x}", hasher.finish()));
        if !dir.is_dir() {
            fs::create_dir_all(&root).unwrap();
            let temporary = tempfile::tempdir_in(&root).unwrap();
            self.write(temporary.path());
            // The rename fails when another test was faster. Then the other test's copy, with the same bytes, is
            // used.
            let _ = fs::rename(temporary.path(), &dir);
        }
        self.open(&dir)
    }

    /// The torrent of an existing file or folder `DIR/data/NAME`.
    pub(crate) fn make_from(&self, dir: &Path) -> Fixture {
        let data = dir.join("data").join(&self.name);
        let hashes = self.hash_with_libtorrent(&data, &dir.join("x.torrent"));
        fs::write(dir.join("hashes.json"), hashes).unwrap();
        self.open(dir)
    }

    fn write(&self, dir: &Path) {
        let parent = dir.join("data");
        let data = parent.join(&self.name);
        let mut random = Random(self.seed);
        match &self.files {
            None => {
                fs::create_dir_all(&parent).unwrap();
                fs::write(&data, random.bytes(self.len)).unwrap();
            }
            Some(files) => {
                for (path, len) in files {
                    let path = data.join(path);
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(&path, random.bytes(*len))
                        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                }
            }
        }
        self.make_from(dir);
    }

    fn hash_with_libtorrent(&self, data: &Path, torrent: &Path) -> String {
        require_program(PYTHON, "python3-libtorrent");
        let mut command = Command::new(PYTHON);
        command.arg(script("mktorrent.py")).arg(data).arg(torrent).arg(self.version.name());
        command.arg(self.piece.to_string());
        command.args(self.pad.then_some("--pad"));
        command.args(self.private.then_some("--private"));
        command.args(self.links.then_some("--links"));
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "making a torrent failed (is python3-libtorrent installed? `scripts/setup test`): {stderr}"
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn open(&self, dir: &Path) -> Fixture {
        let text = fs::read_to_string(dir.join("hashes.json")).unwrap();
        let hashes: serde_json::Value = serde_json::from_str(&text).unwrap();
        let hash = |key: &str| hashes[key].as_str().map(str::to_owned);
        Fixture {
            torrent: dir.join("x.torrent"),
            parent: dir.join("data"),
            name: self.name.clone(),
            bytes: self.len,
            v1: hash("v1"),
            v2: hash("v2"),
        }
    }
}

impl Fixture {
    /// The path of the data: a file or a folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.parent.join(&self.name)
    }

    /// The v1 info-hash; the v2 info-hash of a torrent without v1.
    pub(crate) fn info_hash(&self) -> &str {
        self.v1.as_deref().or(self.v2.as_deref()).unwrap()
    }

    pub(crate) fn magnet(&self) -> String {
        match (&self.v1, &self.v2) {
            (Some(v1), _) => format!("magnet:?xt=urn:btih:{v1}"),
            (None, Some(v2)) => format!("magnet:?xt=urn:btmh:1220{v2}"),
            (None, None) => unreachable!("a torrent has a hash"),
        }
    }

    /// The same torrent with an announce URL, written to `dir`. The info-hash does not change.
    pub(crate) fn with_tracker(&self, url: &str, dir: &Path) -> Fixture {
        let torrent = fs::read(&self.torrent).unwrap();
        // `announce` sorts before every key that libtorrent writes.
        let mut edited = format!("d8:announce{}:{url}", url.len()).into_bytes();
        edited.extend_from_slice(torrent.strip_prefix(b"d").unwrap());
        let path = dir.join("tracked.torrent");
        fs::write(&path, edited).unwrap();
        Fixture { torrent: path, ..self.clone() }
    }

    /// The same torrent with web seeds, written to `dir`. The info-hash does not change.
    pub(crate) fn with_web_seeds(&self, urls: &[&str], dir: &Path) -> Fixture {
        let torrent = fs::read(&self.torrent).unwrap();
        // `url-list` sorts after every key that libtorrent writes.
        let mut edited = torrent.strip_suffix(b"e").unwrap().to_vec();
        edited.extend_from_slice(b"8:url-listl");
        urls.iter().for_each(|url| edited.extend(format!("{}:{url}", url.len()).into_bytes()));
        edited.extend_from_slice(b"ee");
        let path = dir.join("seeded.torrent");
        fs::write(&path, edited).unwrap();
        Fixture { torrent: path, ..self.clone() }
    }

    /// Panics unless `copy` consists of exactly the files of the data, byte for byte.
    pub(crate) fn assert_same(&self, copy: &Path) {
        let (originals, copies) = (tree(&self.data()), tree(copy));
        let names = |t: &BTreeMap<PathBuf, PathBuf>| t.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&originals), names(&copies), "the files of {}", copy.display());
        for (name, path) in &originals {
            let same = fs::read(path).unwrap() == fs::read(&copies[name]).unwrap();
            assert!(same, "{} differs from the original", copies[name].display());
        }
    }
}

/// All files below `top` (or `top` itself, as ""), by relative path.
fn tree(top: &Path) -> BTreeMap<PathBuf, PathBuf> {
    assert!(top.exists(), "{} does not exist", top.display());
    let mut out = BTreeMap::new();
    let mut open = vec![top.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            out.insert(path.strip_prefix(top).unwrap().to_owned(), path);
        }
    }
    out
}
