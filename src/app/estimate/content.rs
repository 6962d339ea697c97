//! Finds the files of an import for its estimate, and which of their bytes are stored already.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{
    app::{
        ImportRequest, SESSION_END,
        import::{check_memory, check_not_removing, keep_names},
        import_url::{
            begun_before, checks, keeps, refuse_checksums_of_folders, refuse_to_seed_files,
        },
        input_pool,
        magnet::Magnet,
        plan::{plain_file, ranges_wanted, room_wanted, selection, wanted},
        remote::{Record, file_rows, has_open_end},
        source::{RemoteFiles, Source},
    },
    backends::MemoryBackend,
    catalog::{Catalog, ImportRow, hex},
    config::Config,
    error::{Error, Kind, Result},
    events::EventSink,
    storage::{ImportStore, Layout, Pressure, RangeSet},
    torrents::{
        Origin, Start, Torrents, metadata,
        metainfo::{File, Metainfo, torrent_file},
    },
};

/// The files of an import and their source.
pub(super) struct Content {
    pub(super) name: String,
    /// Empty for an import from a URL.
    pub(super) info_hash: String,
    pub(super) len: u64,
    pub(super) files: Vec<File>,
    pub(super) selected: Option<Vec<u32>>,
    /// Bytes of the torrent file, or of the record of the servers: in the manifest, and in the catalog.
    pub(super) in_manifest: u64,
    pub(super) in_catalog: u64,
    origin: From,
}

enum From {
    Torrent(Box<Metainfo>),
    Server(RemoteFiles, Checks),
}

/// Whether stored bytes are read back and verified against a checksum.
struct Checks {
    /// A checksum is known.
    any: bool,
    /// Verify also an import that was complete, and so verified, before.
    always: bool,
}

impl Content {
    pub(super) async fn find(
        config: &Config,
        request: &ImportRequest,
        catalog: Option<&Catalog>,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let source = tokio::select! {
            source = Source::find(&request.source, &request.fetch, false, &|_| {}) => source?,
            () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
        };
        let (torrent, by_link) = match source {
            Source::Files(found) => return Self::of_server(request, found),
            Source::Torrent(bytes) => (bytes, None),
            Source::Magnet(uri, magnet) => {
                let by_link = magnet.selected(request.select.as_deref())?;
                let bytes = match of_earlier_import(catalog, &magnet)? {
                    Some(bytes) => bytes,
                    None => fetch_metadata(config, request, uri, &magnet, cancel).await?,
                };
                (bytes, by_link)
            }
        };
        let (mut meta, torrent) = Metainfo::read(torrent)?;
        if let Some(catalog) = catalog {
            let known = catalog.find_by_info_hash(meta.info_hash_v1, meta.info_hash_v2)?;
            let place = config.storage(&request.storage)?.canonical();
            let known = known.iter().find(|row| row.storage == place);
            known.map(|row| keep_names(catalog, row, &mut meta)).transpose()?;
        }
        Self::of_torrent(config, request, meta, &torrent, by_link.as_deref())
    }

    fn of_torrent(
        config: &Config,
        request: &ImportRequest,
        meta: Metainfo,
        torrent: &[u8],
        by_link: Option<&str>,
    ) -> Result<Self> {
        check_memory(&meta, config)?;
        let len = torrent.len() as u64;
        let info_hash = meta.info_hash_v1.map(|h| hex(&h)).or(meta.info_hash_v2.map(|h| hex(&h)));
        Ok(Self {
            name: meta.name.clone(),
            info_hash: info_hash.unwrap_or_default(),
            len: meta.len,
            selected: selection(request.select.as_deref(), by_link, &meta.files)?,
            files: meta.files.clone(),
            // The manifest has it in base64.
            in_manifest: len.div_ceil(3) * 4,
            in_catalog: len,
            origin: From::Torrent(Box::new(meta)),
        })
    }

    fn of_server(request: &ImportRequest, found: RemoteFiles) -> Result<Self> {
        refuse_to_seed_files(request)?;
        refuse_checksums_of_folders(&request.fetch, &found)?;
        if has_open_end(&found) {
            let text = format!(
                "the server does not tell how long {:?} is: what its import takes is not known before",
                found.name
            );
            return Err(Error::new(Kind::Unsupported, text)
                .hint("leave out --dry-run to import it all the same"));
        }
        let files: Vec<File> = file_rows(&found)?.into_iter().map(plain_file).collect();
        let always = checks(&request.fetch);
        let any = always || found.files.iter().any(|(_, remote)| !remote.digests.is_empty());
        let record = Record::new(&found, &[]).to_json()?.len() as u64;
        Ok(Self {
            name: found.name.clone(),
            info_hash: String::new(),
            len: files.last().map_or(0, |file| file.range.end),
            selected: selection(request.select.as_deref(), None, &files)?,
            files,
            in_manifest: record,
            in_catalog: record,
            origin: From::Server(found, Checks { any, always }),
        })
    }

    /// The selected ranges, without padding.
    pub(super) fn wanted(&self, layout: &Layout) -> RangeSet {
        let selected = self.selected.as_deref();
        match &self.origin {
            From::Torrent(meta) => wanted(meta, selected, layout).1,
            From::Server(..) => ranges_wanted(&self.files, selected),
        }
    }

    /// Bytes that the selection takes in storage.
    pub(super) fn room_wanted(&self) -> u64 {
        let selected = self.selected.as_deref();
        match &self.origin {
            From::Torrent(meta) => room_wanted(meta, selected),
            From::Server(..) => ranges_wanted(&self.files, selected).len(),
        }
    }

    /// Whether the import reads back what it stored. `fetches` tells whether bytes have to be fetched.
    pub(super) fn is_checked(&self, fetches: bool) -> bool {
        match &self.origin {
            From::Torrent(_) => false,
            From::Server(found, checks) => {
                found.files.len() == 1 && checks.any && (checks.always || fetches)
            }
        }
    }

    /// The existing import of these files in this storage, and its durable ranges that would be kept.
    pub(super) fn known(
        &self,
        catalog: &Catalog,
        request: &ImportRequest,
        storage: &str,
    ) -> Result<Option<(ImportRow, RangeSet)>> {
        let (row, kept) = match &self.origin {
            From::Torrent(meta) => {
                let known = catalog.find_by_info_hash(meta.info_hash_v1, meta.info_hash_v2)?;
                (known.into_iter().find(|row| row.storage == storage), true)
            }
            From::Server(found, _) => match begun_before(catalog, request, storage, found)? {
                Some((row, likeness)) => {
                    let kept = keeps(request.fetch.resume, likeness, &row);
                    (Some(row), kept)
                }
                None => (None, false),
            },
        };
        let Some(row) = row else { return Ok(None) };
        check_not_removing(&row)?;
        if !kept {
            return Ok(Some((row, RangeSet::new())));
        }
        // Only the catalog is read: an empty memory backend stands in for the storage.
        let store = ImportStore::open(catalog, &row, Arc::new(MemoryBackend::default()))?;
        Ok(Some((row, store.stored())))
    }
}

fn of_earlier_import(catalog: Option<&Catalog>, magnet: &Magnet) -> Result<Option<Vec<u8>>> {
    let Some(catalog) = catalog else { return Ok(None) };
    let found = catalog.find_by_info_hash(magnet.v1, magnet.v2)?;
    found.first().map(|row| catalog.metainfo(&row.id)).transpose()
}

/// Fetches the metadata from the swarm. No content is attached to the torrent, so no payload is requested.
async fn fetch_metadata(
    config: &Config,
    request: &ImportRequest,
    uri: String,
    magnet: &Magnet,
    cancel: &CancellationToken,
) -> Result<Vec<u8>> {
    let pool = input_pool(config);
    let torrents = Torrents::start(&request.network, Pressure::new(pool.clone()), pool)?;
    let start = Start { origin: Origin::Magnet(uri), have: vec![], wanted: vec![], private: false };
    let info = async {
        let mut torrent = torrents.add(start).await?;
        metadata(&mut torrent, cancel, request.timeout, &EventSink::none()).await
    };
    let info = info.await;
    torrents.stop(SESSION_END).await;
    Ok(torrent_file(&info?, &magnet.trackers, &magnet.web_seeds))
}
