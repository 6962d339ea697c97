//! Finds the files of an import for its estimate, and which of their bytes are stored already.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{
    backends::MemoryBackend,
    catalog::{Catalog, ImportRow, hex},
    config::Config,
    engine::{
        ImportRequest,
        import::{
            check_memory, check_not_removing,
            from_url::{
                find_earlier_import, keeps_stored, refuse_checksums_of_folders, refuse_seeding,
                wants_checksum,
            },
            magnet::Magnet,
            source::{ImportSource, RemoteFiles},
            source_record::{SourceRecord, has_unknown_len, remote_file_rows},
            use_recorded_names,
        },
        plan::{
            bytes_to_store, file_of_row, select_files, selected_ranges, wanted_pieces_and_ranges,
        },
        session::SessionSlot,
    },
    error::{Error, Kind, Result},
    events::EventSink,
    hints::{Setting, hint},
    protocols::Rendition,
    storage::{ImportStore, Layout, RangeSet},
    torrents::{
        Start,
        metainfo::{File, Metainfo, torrent_file},
        wait_for_metadata,
    },
};

/// The files of an import and their source.
pub(super) struct SourceContent {
    pub(super) name: String,
    /// Empty for an import from a URL.
    pub(super) info_hash: String,
    pub(super) len: u64,
    pub(super) files: Vec<File>,
    pub(super) selected: Option<Vec<u32>>,
    /// Bytes of the torrent file, or of the record of the servers: in the manifest, and in the catalog.
    pub(super) in_manifest: u64,
    pub(super) in_catalog: u64,
    /// All renditions of a stream.
    pub(super) renditions: Vec<Rendition>,
    source: ContentSource,
}

enum ContentSource {
    Torrent(Box<Metainfo>),
    Server(RemoteFiles, Verification),
}

/// Whether stored bytes are read back and verified against a checksum.
struct Verification {
    /// A checksum is known.
    any: bool,
    /// Verify also an import that was complete, and so verified, before.
    always: bool,
}

impl SourceContent {
    pub(super) async fn resolve(
        config: &Config,
        request: &ImportRequest,
        catalog: Option<&Catalog>,
        session: &SessionSlot,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let source = match &request.torrent_file {
            Some(bytes) => ImportSource::Torrent(bytes.to_vec()),
            None => tokio::select! {
                source = ImportSource::resolve(&request.source, &request.download, false, &|_| {}) => source?,
                () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
            },
        };
        let (torrent, link_select) = match source {
            ImportSource::Files(found) => {
                let renditions = renditions_of(&found).await?;
                return Ok(Self { renditions, ..Self::from_server(request, found)? });
            }
            ImportSource::Torrent(bytes) => (bytes, None),
            ImportSource::Magnet(uri, magnet) => {
                let link_select = magnet.selected(request.select.as_deref())?;
                let bytes = match metainfo_of_earlier_import(catalog, &magnet).await? {
                    Some(bytes) => bytes,
                    None => fetch_metadata(session, request, uri, &magnet, cancel).await?,
                };
                (bytes, link_select)
            }
        };
        let (mut meta, torrent) = Metainfo::parse_trimmed(torrent)?;
        if let Some(catalog) = catalog {
            let known = catalog.find_by_info_hash(meta.info_hash_v1, meta.info_hash_v2).await?;
            let storage = config.storage(&request.storage)?.canonical_name();
            if let Some(row) = known.iter().find(|row| row.storage == storage) {
                use_recorded_names(catalog, row, &mut meta).await?;
            }
        }
        Self::from_torrent(config, request, meta, &torrent, link_select.as_deref())
    }

    fn from_torrent(
        config: &Config,
        request: &ImportRequest,
        meta: Metainfo,
        torrent: &[u8],
        link_select: Option<&str>,
    ) -> Result<Self> {
        check_memory(&meta, config)?;
        let len = torrent.len() as u64;
        let info_hash = meta.info_hash_v1.map(|h| hex(&h)).or(meta.info_hash_v2.map(|h| hex(&h)));
        Ok(Self {
            name: meta.name.clone(),
            info_hash: info_hash.unwrap_or_default(),
            len: meta.len,
            selected: select_files(request.select.as_deref(), link_select, &meta.files)?,
            files: meta.files.clone(),
            // The manifest has it in base64.
            in_manifest: len.div_ceil(3) * 4,
            in_catalog: len,
            renditions: Vec::new(),
            source: ContentSource::Torrent(Box::new(meta)),
        })
    }

    fn from_server(request: &ImportRequest, found: RemoteFiles) -> Result<Self> {
        refuse_seeding(request)?;
        refuse_checksums_of_folders(&request.download, &found)?;
        if has_unknown_len(&found) {
            let text = format!(
                "the server does not report the length of {:?}: its import cannot be estimated",
                found.name
            );
            return Err(Error::new(Kind::Unsupported, text)
                .hint(hint!["import it without ", Setting::DryRun]));
        }
        let files: Vec<File> = remote_file_rows(&found)?.into_iter().map(file_of_row).collect();
        let always = wants_checksum(&request.download);
        let any = always || found.files.iter().any(|(_, remote)| !remote.digests.is_empty());
        let record = SourceRecord::new(&found, &[]).to_json()?.len() as u64;
        Ok(Self {
            name: found.name.clone(),
            info_hash: String::new(),
            len: files.last().map_or(0, |file| file.range.end),
            selected: select_files(request.select.as_deref(), None, &files)?,
            files,
            in_manifest: record,
            in_catalog: record,
            renditions: Vec::new(),
            source: ContentSource::Server(found, Verification { any, always }),
        })
    }

    /// The selected ranges, without padding.
    pub(super) fn wanted(&self, layout: &Layout) -> RangeSet {
        let selected = self.selected.as_deref();
        match &self.source {
            ContentSource::Torrent(meta) => wanted_pieces_and_ranges(meta, selected, layout).1,
            ContentSource::Server(..) => selected_ranges(&self.files, selected),
        }
    }

    /// Bytes that the selection takes in storage.
    pub(super) fn bytes_to_store(&self) -> u64 {
        let selected = self.selected.as_deref();
        match &self.source {
            ContentSource::Torrent(meta) => bytes_to_store(meta, selected),
            ContentSource::Server(..) => selected_ranges(&self.files, selected).len(),
        }
    }

    /// Whether the import reads back what it stored. `fetches` tells whether bytes have to be fetched.
    pub(super) fn is_read_back(&self, fetches: bool) -> bool {
        match &self.source {
            ContentSource::Torrent(_) => false,
            ContentSource::Server(found, verification) => {
                found.files.len() == 1 && verification.any && (verification.always || fetches)
            }
        }
    }

    /// The existing import of these files in this storage, and its durable ranges that would be kept.
    pub(super) async fn existing_import(
        &self,
        catalog: &Catalog,
        request: &ImportRequest,
        storage: &str,
    ) -> Result<Option<(ImportRow, RangeSet)>> {
        let (row, keep) = match &self.source {
            ContentSource::Torrent(meta) => {
                let known = catalog.find_by_info_hash(meta.info_hash_v1, meta.info_hash_v2).await?;
                (known.into_iter().find(|row| row.storage == storage), true)
            }
            ContentSource::Server(found, _) => {
                match find_earlier_import(catalog, request, storage, found).await? {
                    Some((row, source_match)) => {
                        let keep = keeps_stored(request.download.resume, source_match, &row, false);
                        (Some(row), keep)
                    }
                    None => (None, false),
                }
            }
        };
        let Some(row) = row else { return Ok(None) };
        check_not_removing(&row)?;
        if !keep {
            return Ok(Some((row, RangeSet::new())));
        }
        // Only the catalog is read: an empty memory backend stands in for the storage.
        let store = ImportStore::open(catalog, &row, Arc::new(MemoryBackend::default())).await?;
        Ok(Some((row, store.durable_ranges())))
    }
}

/// The renditions of a stream, among which the files were chosen.
async fn renditions_of(found: &RemoteFiles) -> Result<Vec<Rendition>> {
    match found.files.first().filter(|_| found.streams().next().is_some()) {
        Some((_, remote)) => found.protocol.renditions(&remote.requested_url).await,
        None => Ok(Vec::new()),
    }
}

async fn metainfo_of_earlier_import(
    catalog: Option<&Catalog>,
    magnet: &Magnet,
) -> Result<Option<Vec<u8>>> {
    let Some(catalog) = catalog else { return Ok(None) };
    let found = catalog.find_by_info_hash(magnet.v1, magnet.v2).await?;
    match found.first() {
        Some(row) => catalog.metainfo(&row.id).await.map(Some),
        None => Ok(None),
    }
}

/// Fetches the metadata from the swarm. No content is attached to the torrent, so no payload is requested.
async fn fetch_metadata(
    session: &SessionSlot,
    request: &ImportRequest,
    uri: String,
    magnet: &Magnet,
    cancel: &CancellationToken,
) -> Result<Vec<u8>> {
    let options = request.torrent.clone();
    let mut torrent = session.get()?.add(Start::magnet(uri), options).await?;
    let info = wait_for_metadata(&mut torrent, cancel, request.timeout, &EventSink::none()).await?;
    Ok(torrent_file(&info, &magnet.trackers, &magnet.web_seeds))
}
