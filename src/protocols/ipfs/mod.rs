//! IPFS: `ipfs://CID` and `ipns://NAME`, files and folders that are named by their hash, from servers that need no
//! trust. `--protocol ipfs` accepts the URL of a gateway as well, and then asks that gateway only.
//!
//! The path of a byte: [`address`] reads the URL. [`name_resolver`] follows names to a CID, and [`tree`] follows the
//! path below it to a file or folder. [`range_reader`] walks over the blocks of the file. [`gateways`] fetches each
//! block from one of the gateways and verifies its hash before a byte of it is returned. [`content`] and [`names`] have
//! the formats.
//!
//! The content of a CID never changes: a download resumes without any doubt, and [`Protocol::open`] never reports a
//! change. A name that moved shows when it is probed again.
//!
//! What it refuses: blocks of more than 2 MiB, and with another hash than their CID; files whose parts do not add up;
//! unencrypted gateways beyond the local network; files as a gateway assembles them, which nothing proves; records with
//! a wrong signature, and older ones than those seen before. Entries of folders that are not files, such as dag-cbor
//! data, are reported and not fetched.

mod address;
mod content;
mod dns;
mod folder;
mod gateways;
mod name_resolver;
mod names;
mod range_reader;
mod tree;

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use futures_util::stream;
use parking_lot::Mutex;
use url::Url;

use self::{
    address::Address,
    content::file_node::FileNode,
    dns::Resolver,
    gateways::{
        blocks::{Blocks, Keep},
        gateway::Gateway,
        gateway_set::GatewaySet,
        router::Routers,
    },
    name_resolver::NameResolver,
    range_reader::{RangeReader, ReadAhead},
    tree::{FoundFile, Node, Tree},
};
use super::{
    ByteStream, FetchOptions, OutgoingOptions, Protocol, RangeRequest, RemoteFile, UrlTarget,
    Validator, display_url, http::Http, url_paths::with_trailing_slash,
};
use crate::{
    config::{BlockFormat, IpfsOptions},
    error::{Error, Kind, Result},
    units::MIB,
};

pub use self::content::{
    cid::Cid,
    importer::{
        BlockSink, CidProfile, CidVerifier, FileImporter, FolderEntry, ImportedNode, import_folder,
    },
};

pub(super) const SCHEMES: &[&str] = &["ipfs", "ipns"];

/// The gateway that a Kubo node on this machine has.
const LOCAL_GATEWAY: &str = "http://127.0.0.1:8080";
/// Maximum number of gateways that URLs name, beyond which their experience is forgotten.
const MAX_NAMED_GATEWAYS: usize = 100;

/// The protocol of `ipfs` and `ipns` URLs.
#[derive(Debug)]
struct Ipfs {
    http: Arc<Http>,
    /// The blocks at the configured gateways.
    blocks: Arc<Blocks>,
    /// The blocks at gateways that URLs name.
    by_gateway: Mutex<HashMap<String, Arc<Blocks>>>,
    names: NameResolver,
    ahead: ReadAhead,
    format: BlockFormat,
}

pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
    Ok(Arc::new(Ipfs::new(options)?))
}

impl Ipfs {
    fn new(options: &Arc<FetchOptions>) -> Result<Self> {
        let http = Arc::new(Http::new(options)?);
        let anonymous = options.anonymous();
        let outgoing = OutgoingOptions { only_public: true, ..anonymous.outgoing.clone() };
        let public = FetchOptions { outgoing, ..anonymous.clone() };
        let anonymous = Arc::new(Http::new(&Arc::new(anonymous))?);
        let public = Arc::new(Http::new(&Arc::new(public))?);
        let IpfsOptions { gateways: _, routers, rpc: _, dns, format } = &options.ipfs;
        let configured = configured_gateways(options, &http)?;
        let routers = routers.iter().map(|text| router_url(text)).collect::<Result<Vec<_>>>()?;
        let routers = (!routers.is_empty())
            .then(|| Arc::new(Routers::new(routers, *format, &anonymous, &public)));
        let names = NameResolver::new(Resolver::new(dns.as_deref(), &anonymous)?);
        let blocks = Arc::new(Blocks::new(GatewaySet::new(configured, routers)));
        Ok(Self {
            http,
            blocks,
            by_gateway: Mutex::default(),
            names,
            ahead: ReadAhead::default(),
            format: *format,
        })
    }

    /// The blocks at the gateways for `address`.
    fn blocks_for(&self, address: &Address) -> Result<Arc<Blocks>> {
        let Some(url) = &address.gateway else { return Ok(Arc::clone(&self.blocks)) };
        let mut by_gateway = self.by_gateway.lock();
        if let Some(blocks) = by_gateway.get(url.as_str()) {
            return Ok(Arc::clone(blocks));
        }
        let gateway = Arc::new(Gateway::new(url.as_str(), self.format, &self.http)?);
        let blocks = Arc::new(Blocks::new(GatewaySet::new(vec![gateway], None)));
        if by_gateway.len() >= MAX_NAMED_GATEWAYS {
            by_gateway.clear();
        }
        by_gateway.insert(url.as_str().to_owned(), Arc::clone(&blocks));
        Ok(blocks)
    }

    async fn describe(&self, url: &Url) -> Result<UrlTarget> {
        let address = Address::parse(url)?;
        let blocks = self.blocks_for(&address)?;
        let (root, path) = self.names.resolve(&blocks, &address.path).await?;
        let tree = Tree { blocks: &blocks, root: &root };
        match tree.find(&path).await? {
            Node::File(file) => {
                let name = Some(address.name());
                let remote = remote_file(&address, url.clone(), &file);
                Ok(UrlTarget::File(RemoteFile { name, ..remote }))
            }
            Node::Folder(folder) => {
                let mut top = with_trailing_slash(url);
                top.set_query(None);
                let describe = |url, file: &FoundFile| remote_file(&address, url, file);
                let mut listing = folder::list(&tree, &path, &top, folder, describe).await?;
                listing.name = address.name();
                Ok(UrlTarget::Folder(listing))
            }
            Node::Symlink(_) => {
                Err(Error::new(Kind::Unsupported, "the content is a symbolic link"))
            }
        }
    }
}

/// The RPC interface, then the gateways.
fn configured_gateways(options: &FetchOptions, http: &Arc<Http>) -> Result<Vec<Arc<Gateway>>> {
    let IpfsOptions { gateways, rpc, format, .. } = &options.ipfs;
    let mut configured = Vec::new();
    if let Some(text) = rpc.as_deref().filter(|text| !text.trim().is_empty()) {
        configured.push(Arc::new(Gateway::rpc(text, |url| options.login_for(url), http)?));
    }
    for text in gateways.iter().filter(|text| !text.trim().is_empty()) {
        configured.push(Arc::new(Gateway::new(text, *format, http)?));
    }
    if configured.is_empty() {
        configured.push(Arc::new(Gateway::new(LOCAL_GATEWAY, *format, http)?));
    }
    Ok(configured)
}

fn router_url(text: &str) -> Result<Url> {
    let invalid = || {
        Error::new(Kind::InvalidInput, "an IPFS router is not a usable URL")
            .hint("write it as https://HOST")
    };
    let url = Url::parse(text.trim()).map_err(|_| invalid())?;
    let is_encrypted = url.scheme() == "https";
    let is_local = url.scheme() == "http" && gateways::gateway::is_local(&url);
    match url.has_host() && (is_encrypted || is_local) {
        true => Ok(with_trailing_slash(&url)),
        false => Err(invalid()),
    }
}

fn remote_file(address: &Address, requested_url: Url, file: &FoundFile) -> RemoteFile {
    RemoteFile {
        url: address.url_of(&file.cid),
        len: Some(file.len),
        supports_ranges: true,
        // The content is the version. Without the quotes of an ETag, which gateways send for unproven files too.
        validator: Some(Validator::ETag(format!("ipfs:{}", file.cid))),
        modified: file.modified,
        mode: file.mode,
        ..RemoteFile::from_url(requested_url)
    }
}

#[async_trait]
impl Protocol for Ipfs {
    async fn probe(&self, url: &Url) -> Result<UrlTarget> {
        self.describe(url).await
    }

    async fn open(&self, remote: &RemoteFile, range: RangeRequest) -> Result<ByteStream> {
        let address = Address::parse(&remote.url)?;
        let cid = address.root_cid().cloned().ok_or_else(|| {
            let text = format!("{}: not the URL of a file by its CID", display_url(&remote.url));
            Error::new(Kind::InvalidInput, text)
        })?;
        let blocks = self.blocks_for(&address)?;
        // Of a file in a folder, often only the root of the folder is announced.
        let asked = Address::parse(&remote.requested_url).ok();
        let root = asked.as_ref().and_then(Address::root_cid);
        let block = blocks.get(&cid, root, Keep::Yes).await?;
        let node = FileNode::parse(&cid, &block)?;
        if let Some(len) = remote.len.filter(|len| *len != node.len) {
            let text =
                format!("{}: the file has {} bytes, not {len}", display_url(&remote.url), node.len);
            return Err(Error::new(Kind::Corrupt, text)
                .hint("the folder declares a wrong length: fetch the file by its own CID"));
        }
        if range.start > node.len || range.end.is_some_and(|end| end > node.len) {
            let text =
                format!("{}: the file has only {} bytes", display_url(&remote.url), node.len);
            return Err(Error::new(Kind::Corrupt, text));
        }
        let reader = RangeReader::open(&blocks, &cid, node, range, &self.ahead).await?;
        Ok(Box::pin(stream::unfold(Some(reader), async |reader| {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(reader))),
                Ok(None) => None,
                Err(e) => Some((Err(e), None)),
            }
        })))
    }

    /// Blocks of most files are a power of two long, so ranges that end there share no block.
    fn range_grain(&self) -> u64 {
        MIB
    }
}
