//! Blocks, folders and names of IPFS, as files in a folder that a web server serves.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{Ed25519KeyPair, KeyPair as _},
};
use bae::protocols::{
    Cid, CidProfile, FileImporter, FolderEntry, ImportedNode,
    conformance::{ConformanceTarget, TargetAccess},
    import_folder,
};
use bytes::Bytes;
use url::Url;

use super::process::Process;

const DAG_PB: u8 = 0x70;
const RAW: u8 = 0x55;

/// The blocks below a folder: `ipfs/CID`, and records of names as `ipns/NAME`.
#[derive(Debug)]
pub(crate) struct BlockFolder {
    dir: PathBuf,
    profile: CidProfile,
}

impl BlockFolder {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self::with_profile(dir, CidProfile::UnixfsV1)
    }

    pub(crate) fn with_profile(dir: PathBuf, profile: CidProfile) -> Self {
        for folder in ["ipfs", "ipns"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        Self { dir, profile }
    }

    pub(crate) fn path_of(&self, cid: &str) -> PathBuf {
        self.dir.join("ipfs").join(cid)
    }

    /// Writes the block of `cid`, which need not be the right one.
    pub(crate) fn put(&self, cid: &str, block: &[u8]) {
        // Atomically, because the server may read it meanwhile.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let new = self.dir.join(format!("new-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::write(&new, block).unwrap();
        fs::rename(new, self.path_of(cid)).unwrap();
    }

    pub(crate) fn remove(&self, cid: &str) {
        fs::remove_file(self.path_of(cid)).unwrap();
    }

    pub(crate) fn cids(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.join("ipfs")).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Adds a file.
    pub(crate) fn file(&self, bytes: &[u8]) -> ImportedNode {
        let mut importer = FileImporter::new(self.profile);
        let mut sink = |cid: &Cid, block: &[u8]| self.put(&cid.to_string(), block);
        importer.update(bytes, &mut sink);
        importer.finish(&mut sink)
    }

    /// Adds a folder.
    pub(crate) fn folder<'a>(
        &self,
        entries: impl IntoIterator<Item = (&'a str, &'a ImportedNode)>,
    ) -> ImportedNode {
        let entry = |(name, node): (&str, &ImportedNode)| FolderEntry {
            name: Bytes::copy_from_slice(name.as_bytes()),
            node: node.clone(),
        };
        let entries = entries.into_iter().map(entry).collect();
        let mut sink = |cid: &Cid, block: &[u8]| self.put(&cid.to_string(), block);
        import_folder(self.profile, entries, &mut sink).unwrap()
    }

    /// Adds a dag-pb block made by hand.
    pub(crate) fn node(&self, node: &Node) -> ImportedNode {
        let block = node.to_block();
        let cid = cid_of(DAG_PB, &block);
        self.put(&cid.to_string(), &block);
        let total_len = block.len() as u64;
        ImportedNode { cid, len: 0, total_len }
    }

    /// Publishes `value` under the name of `key`.
    pub(crate) fn publish(&self, key: &NameKey, value: &str, sequence: u64) {
        let record = key.record(value, sequence, "2099-01-01T00:00:00Z");
        let new = self.dir.join("new-record");
        fs::write(&new, record).unwrap();
        fs::rename(new, self.dir.join("ipns").join(key.name())).unwrap();
    }
}

/// The CID of a block, of version 1 with sha2-256.
pub(crate) fn cid_of(codec: u8, block: &[u8]) -> Cid {
    let head = match codec {
        // Two bytes as a varint.
        0x80.. => panic!("codecs of one byte only"),
        codec => [1, codec, 0x12, 0x20],
    };
    let bytes = [&head[..], digest(&SHA256, block).as_ref()].concat();
    Cid::from_binary(&bytes).unwrap()
}

pub(crate) fn raw_cid(block: &[u8]) -> Cid {
    cid_of(RAW, block)
}

/// A dag-pb block, of which any part may be wrong.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    /// 1 is a folder, 2 a file, 4 a symbolic link, 5 a shard.
    pub(crate) kind: u8,
    pub(crate) data: Vec<u8>,
    pub(crate) file_len: Option<u64>,
    pub(crate) block_lens: Vec<u64>,
    pub(crate) mode: Option<u32>,
    /// Seconds since 1970.
    pub(crate) modified: Option<u64>,
    /// Name, CID and `Tsize`.
    pub(crate) links: Vec<(Vec<u8>, Cid, Option<u64>)>,
}

impl Node {
    fn to_block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, cid, total_len) in &self.links {
            let mut link = Vec::new();
            field(1, &cid.to_bytes(), &mut link);
            field(2, name, &mut link);
            if let Some(len) = total_len {
                number(3, *len, &mut link);
            }
            field(2, &link, &mut block);
        }
        let mut unixfs = Vec::new();
        number(1, self.kind.into(), &mut unixfs);
        if !self.data.is_empty() {
            field(2, &self.data, &mut unixfs);
        }
        if let Some(len) = self.file_len {
            number(3, len, &mut unixfs);
        }
        self.block_lens.iter().for_each(|len| number(4, *len, &mut unixfs));
        if let Some(mode) = self.mode {
            number(7, mode.into(), &mut unixfs);
        }
        if let Some(seconds) = self.modified {
            let mut time = Vec::new();
            number(1, seconds, &mut time);
            field(8, &time, &mut unixfs);
        }
        field(1, &unixfs, &mut block);
        block
    }

    pub(crate) fn symlink(target: &str) -> Self {
        Self { kind: 4, data: target.as_bytes().to_vec(), ..Self::default() }
    }

    /// A folder with these links, in this order.
    pub(crate) fn folder(links: &[(&[u8], &ImportedNode)]) -> Self {
        let link = |(name, node): &(&[u8], &ImportedNode)| {
            (name.to_vec(), node.cid.clone(), Some(node.total_len))
        };
        Self { kind: 1, links: links.iter().map(link).collect(), ..Self::default() }
    }

    /// A file of parts, each with its declared length.
    pub(crate) fn file(parts: &[(&Cid, u64)]) -> Self {
        Self {
            kind: 2,
            file_len: Some(parts.iter().fold(0, |sum, (_, len)| sum.wrapping_add(*len))),
            block_lens: parts.iter().map(|(_, len)| *len).collect(),
            links: parts.iter().map(|(cid, _)| (Vec::new(), (*cid).clone(), None)).collect(),
            ..Self::default()
        }
    }
}

pub(crate) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn field(number: u64, bytes: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn number(number: u64, value: u64, out: &mut Vec<u8>) {
    varint(number << 3, out);
    varint(value, out);
}

/// A CAR of these blocks.
pub(crate) fn car<'a>(blocks: impl IntoIterator<Item = (&'a Cid, &'a [u8])>) -> Vec<u8> {
    let mut car = b"\x11\xa2\x65roots\x80\x67version\x01".to_vec();
    for (cid, block) in blocks {
        let cid = cid.to_bytes();
        varint((cid.len() + block.len()) as u64, &mut car);
        car.extend_from_slice(&cid);
        car.extend_from_slice(block);
    }
    car
}

/// A fixed Ed25519 key, and its IPNS name.
#[derive(Debug)]
pub(crate) struct NameKey(Ed25519KeyPair);

impl NameKey {
    pub(crate) fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    fn public_key(&self) -> Vec<u8> {
        [&[0x08, 0x01, 0x12, 0x20][..], self.0.public_key().as_ref()].concat()
    }

    /// The name in base 36.
    pub(crate) fn name(&self) -> String {
        let bytes = [&[0x01, 0x72, 0x00, 0x24][..], &self.public_key()].concat();
        let mut digits: Vec<u32> = Vec::new();
        for byte in bytes {
            let mut carry = u32::from(byte);
            for digit in &mut digits {
                carry += *digit << 8;
                *digit = carry % 36;
                carry /= 36;
            }
            while carry > 0 {
                digits.push(carry % 36);
                carry /= 36;
            }
        }
        let digit = |digit: &u32| char::from_digit(*digit, 36).unwrap();
        // The first byte is 1, so there are no leading zeros.
        format!("k{}", digits.iter().rev().map(digit).collect::<String>())
    }

    /// A signed record.
    pub(crate) fn record(&self, value: &str, sequence: u64, validity: &str) -> Vec<u8> {
        let mut data = vec![0xa5];
        let key = |key: &str, data: &mut Vec<u8>| {
            data.push(0x60 + key.len() as u8);
            data.extend_from_slice(key.as_bytes());
        };
        for (name, number) in [("TTL", 60), ("Sequence", sequence), ("ValidityType", 0)] {
            key(name, &mut data);
            data.push(0x1b);
            data.extend(number.to_be_bytes());
        }
        for (name, bytes) in [("Value", value), ("Validity", validity)] {
            key(name, &mut data);
            data.extend([0x58, bytes.len() as u8]);
            data.extend_from_slice(bytes.as_bytes());
        }
        let signature = self.0.sign(&[b"ipns-signature:", &data[..]].concat());
        let mut record = Vec::new();
        field(8, signature.as_ref(), &mut record);
        field(9, &data, &mut record);
        record
    }
}

/// The folder of the protocols' conformance suite: each write makes a new root.
#[derive(Debug)]
pub(crate) struct ConformanceRoot<'a> {
    pub(crate) blocks: &'a BlockFolder,
    /// The name that leads to the newest root. Without one, the URL is that of the root.
    pub(crate) key: Option<&'a NameKey>,
    /// What comes before the CID or name, such as `ipfs://`.
    pub(crate) prefix: String,
    /// The server, which the suite kills at its end.
    pub(crate) process: &'a Process,
    state: Mutex<RootState>,
}

#[derive(Debug, Default)]
struct RootState {
    files: BTreeMap<String, ImportedNode>,
    /// The CIDs of the blocks of each file.
    cids: HashMap<String, Vec<String>>,
    root: String,
    sequence: u64,
}

impl<'a> ConformanceRoot<'a> {
    pub(crate) fn new(
        blocks: &'a BlockFolder,
        key: Option<&'a NameKey>,
        prefix: &str,
        process: &'a Process,
    ) -> Self {
        let (prefix, state) = (prefix.to_owned(), Mutex::default());
        let root = Self { blocks, key, prefix, process, state };
        root.update(&mut root.state.lock().unwrap());
        root
    }

    /// Makes the folders of all files anew.
    fn update(&self, state: &mut RootState) {
        let files = state.files.iter().map(|(path, node)| (path.as_str(), node.clone())).collect();
        state.root = self.folder(files).cid.to_string();
        state.sequence += 1;
        if let Some(key) = self.key {
            self.blocks.publish(key, &format!("/ipfs/{}", state.root), state.sequence);
        }
    }

    fn folder(&self, files: Vec<(&str, ImportedNode)>) -> ImportedNode {
        let mut entries: BTreeMap<&str, ImportedNode> = BTreeMap::new();
        let mut folders: BTreeMap<&str, Vec<(&str, ImportedNode)>> = BTreeMap::new();
        for (path, node) in files {
            match path.split_once('/') {
                None => drop(entries.insert(path, node)),
                Some((name, rest)) => folders.entry(name).or_default().push((rest, node)),
            }
        }
        for (name, files) in folders {
            entries.insert(name, self.folder(files));
        }
        self.blocks.folder(entries.iter().map(|(name, node)| (*name, node)))
    }
}

#[async_trait]
impl ConformanceTarget for ConformanceRoot<'_> {
    async fn write(&self, path: &str, bytes: Bytes) {
        let mut cids = Vec::new();
        let mut importer = FileImporter::new(self.blocks.profile);
        let mut sink = |cid: &Cid, block: &[u8]| {
            cids.push(cid.to_string());
            self.blocks.put(&cid.to_string(), block);
        };
        importer.update(&bytes, &mut sink);
        let node = importer.finish(&mut sink);
        let mut state = self.state.lock().unwrap();
        state.files.insert(path.to_owned(), node);
        state.cids.insert(path.to_owned(), cids);
        self.update(&mut state);
    }

    async fn remove(&self, path: &str) {
        let mut state = self.state.lock().unwrap();
        state.files.remove(path).unwrap();
        for cid in state.cids.remove(path).unwrap() {
            self.blocks.remove(&cid);
        }
        self.update(&mut state);
    }

    fn url(&self) -> Url {
        let state = self.state.lock().unwrap();
        let root = self.key.map_or_else(|| state.root.clone(), NameKey::name);
        format!("{}{root}/", self.prefix).parse().unwrap()
    }

    fn has_folders(&self) -> bool {
        true
    }

    fn with_wrong_login(&self) -> Option<TargetAccess> {
        None
    }

    async fn forbidden_file(&self) -> Option<TargetAccess> {
        None
    }

    fn is_content_addressed(&self) -> bool {
        true
    }

    fn can_stop(&self) -> bool {
        true
    }

    async fn stop(&self) {
        self.process.kill_tree();
    }
}

/// The time of records that have expired.
pub(crate) const PAST: &str = "2020-01-01T00:00:00Z";
/// The time of records that are valid.
pub(crate) const FUTURE: &str = "2099-01-01T00:00:00Z";
