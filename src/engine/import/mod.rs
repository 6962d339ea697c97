//! `import`: finds the source, opens or creates the import in the catalog, and plans what to fetch.
//!
//! `Engine::start_import` (in `start`) opens the storage, claims the source and returns a handle. Each attempt of the import's task
//! is an [`ImportJob`]: it resolves the request to an [`ImportSource`], tests the storage, takes the engine's torrent
//! session when one is needed, and fetches the bytes: of a torrent in the module `fill_from_torrent`, of files at a URL
//! in `from_url`.

pub(super) mod fill_from_server;
pub(super) mod fill_from_torrent;
pub(super) mod from_url;
pub(super) mod identify;
pub(super) mod magnet;
pub(super) mod publish;
pub(super) mod source;
pub(super) mod source_file;
pub(super) mod source_record;
mod start;

use std::sync::Arc;

pub(super) use self::start::{ImportJob, ImportTask};
use self::{fill_from_torrent::start_options, magnet::Magnet, source::ImportSource};
use super::plan::{Plan, bytes_to_store, file_rows, select_files};
use super::{ImportRequest, running::ClaimKey};
use crate::{
    catalog::{Catalog, ImportId, ImportRow, ImportState, LayoutKind, NewImport},
    config::Config,
    error::{Error, Kind, Result},
    events::{Event, Imported},
    hints::{Operation, Setting, hint},
    memory::{Budget, Mark},
    storage::{ImportStore, RangeSet, files::sequential_upload::check_partial_uploads},
    torrents::{
        Start, Torrent, TorrentSession,
        metainfo::{File, Metainfo, torrent_file},
        wait_for_metadata,
    },
    units::ByteSize,
};

/// The parts of an open import that torrents and URLs have in common.
#[derive(Clone, Copy)]
pub(super) struct ImportView<'a> {
    pub(super) row: &'a ImportRow,
    pub(super) store: &'a Arc<ImportStore>,
    pub(super) files: &'a [File],
    /// Ranges to store, without padding.
    pub(super) wanted: &'a RangeSet,
}

impl OpenTorrentImport {
    pub(super) fn view(&self) -> ImportView<'_> {
        let Self { row, store, meta, plan, .. } = self;
        ImportView { row, store, files: &meta.files, wanted: &plan.wanted }
    }
}

/// An open import of a torrent with known metadata, ready to be filled.
pub(super) struct OpenTorrentImport {
    pub(super) row: ImportRow,
    pub(super) metainfo: Vec<u8>,
    pub(super) meta: Metainfo,
    pub(super) store: Arc<ImportStore>,
    pub(super) plan: Plan,
}

impl ImportJob {
    pub(super) async fn run(&self) -> Result<Imported> {
        let on_wait = |error: Option<&str>| self.report_waiting(error);
        let ImportRequest { source, torrent_file, download, .. } = &*self.request;
        let source = match torrent_file {
            Some(bytes) => ImportSource::Torrent(bytes.to_vec()),
            None => tokio::select! {
                source = ImportSource::resolve(source, download, true, &on_wait) => source?,
                () = self.cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
            },
        };
        tokio::select! {
            probed = self.storage.probe(&self.engine.catalog) => probed?,
            () = self.cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
        }
        match source {
            ImportSource::Torrent(bytes) => {
                let (meta, metainfo) = Metainfo::parse_trimmed(bytes)?;
                self.import_known(metainfo, meta, None).await
            }
            ImportSource::Magnet(uri, magnet) => {
                // A malformed selection is an error before peers are contacted.
                magnet.selected(self.request.select.as_deref())?;
                self.claim_torrent(magnet.v1, magnet.v2).await?;
                match self.known_metainfo(&magnet).await? {
                    Some((meta, metainfo)) => {
                        self.import_known(metainfo, meta, Some(&magnet)).await
                    }
                    None => {
                        let torrents = self.engine.session.get()?;
                        self.import_magnet(&torrents, uri, &magnet).await
                    }
                }
            }
            ImportSource::Files(found) => self.import_from_url(found).await,
        }
    }

    /// Imports a torrent whose metadata is known; `link` is the magnet link that named it.
    async fn import_known(
        &self,
        metainfo: Vec<u8>,
        meta: Metainfo,
        link: Option<&Magnet>,
    ) -> Result<Imported> {
        let select = link.and_then(|link| link.select.as_deref());
        let opened = self.open(metainfo, meta, select).await?;
        let catalog = self.catalog();
        if link.is_some() && catalog.metainfo(&opened.row.id).await? != opened.metainfo {
            catalog.set_metainfo(&opened.row.id, opened.metainfo.clone()).await?;
        }
        if opened.plan.missing().next().is_none() && !self.request.seed {
            // Everything is stored already: no session and no peers are needed.
            self.open_stream(opened.view()).await?;
            self.publish_rest(opened.view()).await?;
            return self.finish(opened.view(), (0, 0)).await;
        }
        let torrents = self.engine.session.get()?;
        let torrent = match link {
            Some(link) => Some(self.add_with_peers(&torrents, &opened, link).await?),
            None => None,
        };
        self.fill_from_torrent(&torrents, torrent, opened).await
    }

    /// Reports that a server has not answered yet (`None`), or that the request will be retried (`Some`).
    fn report_waiting(&self, error: Option<&str>) {
        let text = match error {
            Some(error) => format!("waiting: {error}"),
            None => "waiting for the server's first answer".to_owned(),
        };
        self.events.send(Event::Notice { id: None, text });
    }

    /// Makes this the only import of the torrent in this storage.
    async fn claim_torrent(&self, v1: Option<[u8; 20]>, v2: Option<[u8; 32]>) -> Result<()> {
        self.claim.add(ClaimKey::of_torrent(v1, v2, &self.storage.name)).await
    }

    /// Makes this the only writer of the import.
    pub(super) async fn claim_import(&self, id: &ImportId) -> Result<()> {
        self.claim.add([ClaimKey::Import(id.clone())]).await?;
        self.running.set_id(id.as_str());
        Ok(())
    }

    /// The metadata of a magnet link that was imported before: from the catalog, and with what the link adds to it.
    async fn known_metainfo(&self, magnet: &Magnet) -> Result<Option<(Metainfo, Vec<u8>)>> {
        let catalog = &self.engine.catalog;
        let found = catalog.find_by_info_hash(magnet.v1, magnet.v2).await?;
        let in_storage = found.iter().find(|row| row.storage == self.storage.name);
        let Some(row) = in_storage.or(found.first()) else { return Ok(None) };
        let (metainfo, meta) = self.engine.metainfo_of(row).await?;
        let Some(metainfo) = magnet.merged_into(&metainfo, &meta)? else {
            return Ok(Some((meta, metainfo)));
        };
        let mut meta = Metainfo::parse(&metainfo)?;
        use_recorded_names(catalog, row, &mut meta).await?;
        Ok(Some((meta, metainfo)))
    }

    async fn import_magnet(
        &self,
        torrents: &Arc<TorrentSession>,
        uri: String,
        magnet: &Magnet,
    ) -> Result<Imported> {
        let options = self.request.torrent.clone();
        let mut torrent = torrents.add(Start::magnet(uri), options).await?;
        let info =
            wait_for_metadata(&mut torrent, &self.cancel, self.request.timeout, &self.events)
                .await?;
        let metainfo = torrent_file(&info, &magnet.trackers, &magnet.web_seeds);
        let meta = Metainfo::parse(&metainfo)?;
        let opened = self.open(metainfo, meta, magnet.select.as_deref()).await?;
        deselect_unwanted(&torrent, &opened.plan)?;
        self.fill_from_torrent(torrents, Some(torrent), opened).await
    }

    /// Adds a known torrent to the session, with the peers that its magnet link names.
    async fn add_with_peers(
        &self,
        torrents: &Arc<TorrentSession>,
        opened: &OpenTorrentImport,
        link: &Magnet,
    ) -> Result<Torrent> {
        let options = self.request.torrent.clone();
        let torrent = torrents.add(start_options(opened), options).await?;
        for peer in link.peers() {
            if let Err(e) = torrent.connect(peer) {
                tracing::debug!("peer {peer} of the magnet link: {}", e.report());
            }
        }
        Ok(torrent)
    }

    /// Finds the import in the catalog or creates it, and plans what to fetch.
    async fn open(
        &self,
        metainfo: Vec<u8>,
        meta: Metainfo,
        link_select: Option<&str>,
    ) -> Result<OpenTorrentImport> {
        tokio::select! {
            opened = self.find_or_create(metainfo, meta, link_select) => opened,
            () = self.cancel.cancelled() => Err(Error::new(Kind::Cancelled, "stopped")),
        }
    }

    async fn find_or_create(
        &self,
        metainfo: Vec<u8>,
        mut meta: Metainfo,
        link_select: Option<&str>,
    ) -> Result<OpenTorrentImport> {
        check_memory(&meta, &self.engine.config)?;
        self.claim_torrent(meta.info_hash_v1, meta.info_hash_v2).await?;
        // The same torrent in another storage is another import.
        let catalog = &self.catalog();
        let known = catalog.find_by_info_hash(meta.info_hash_v1, meta.info_hash_v2).await?;
        let known = known.into_iter().find(|row| row.storage == self.storage.name);
        if let Some(row) = &known {
            use_recorded_names(catalog, row, &mut meta).await?;
        }
        let selected = select_files(self.request.select.as_deref(), link_select, &meta.files)?;
        let row = match known {
            Some(row) => self.resume_import(row, selected.clone()).await?,
            None => {
                let free = self.storage.backend.free_space().await?;
                let needed = bytes_to_store(&meta, selected.as_deref());
                check_free_space(&self.storage.name, free, needed)?;
                catalog.create_import(self.new_import(&metainfo, &meta, selected.clone())).await?
            }
        };
        self.claim_import(&row.id).await?;
        let catalog = &self.catalog();
        let store = self.engine.open_store(&row, &self.storage).await?;
        check_partial_uploads(catalog, &store).await?;
        for text in &meta.notes {
            let id = Some(row.id.to_string());
            self.events.send(Event::Notice { id, text: text.clone() });
        }
        let plan = Plan::new(&meta, selected.as_deref(), &store);
        Ok(OpenTorrentImport { row, metainfo, meta, store, plan })
    }

    fn new_import(
        &self,
        metainfo: &[u8],
        meta: &Metainfo,
        selected: Option<Vec<u32>>,
    ) -> NewImport {
        NewImport {
            name: meta.name.clone(),
            source: self.request.source.clone(),
            info_hash_v1: meta.info_hash_v1,
            info_hash_v2: meta.info_hash_v2,
            len: meta.len,
            storage: self.storage.name.clone(),
            chunk_len: self.storage.chunk_len(self.engine.config.memory.0),
            layout: self.request.layout,
            metainfo: metainfo.to_vec(),
            files: file_rows(meta),
            selected,
            source_record: None,
        }
    }

    /// Prepares an existing import to be resumed, with the selection and layout of this request.
    pub(super) async fn resume_import(
        &self,
        row: ImportRow,
        selected: Option<Vec<u32>>,
    ) -> Result<ImportRow> {
        self.claim_import(&row.id).await?;
        check_not_removing(&row)?;
        let catalog = self.catalog();
        if row.selected != selected {
            catalog.set_selected(&row.id, selected).await?;
        }
        let layout = resumed_layout(self.request.layout, &row);
        if row.layout != layout {
            catalog.set_layout(&row.id, layout).await?;
        }
        catalog.get(&row.id).await
    }
}

/// Renames the files of a torrent as its import in the catalog has them.
pub(super) async fn use_recorded_names(
    catalog: &Catalog,
    row: &ImportRow,
    meta: &mut Metainfo,
) -> Result<()> {
    meta.rename_files(catalog.files(&row.id).await?.into_iter().map(|file| file.path));
    Ok(())
}

/// The layout of an existing import after this request. `Chunks` is the default and may not have been chosen by the
/// user, so it changes nothing: whole files are never turned back into chunks.
pub(super) fn resumed_layout(requested: LayoutKind, existing: &ImportRow) -> LayoutKind {
    match requested {
        LayoutKind::Files => LayoutKind::Files,
        LayoutKind::Chunks => existing.layout,
    }
}

/// Sets the priority of unselected pieces to 0. A magnet link is added to the session before its files are known.
fn deselect_unwanted(torrent: &Torrent, plan: &Plan) -> Result<()> {
    let unwanted: Vec<u32> =
        (0u32..).zip(&plan.wanted_pieces).filter(|(_, wanted)| !**wanted).map(|(p, _)| p).collect();
    if unwanted.is_empty() { Ok(()) } else { torrent.prioritize(&unwanted, 0) }
}

/// Refuses a torrent whose pieces are too long to be verified in memory.
pub(super) fn check_memory(meta: &Metainfo, config: &Config) -> Result<()> {
    let piece = u64::from(meta.piece_length);
    let longest = Budget::new(config.memory.0).incoming().mark(Mark::LongestPiece);
    if piece <= longest as u64 {
        return Ok(());
    }
    let needed = (piece * 2).next_multiple_of(16 << 20);
    let text = format!(
        "pieces of {} do not fit into the memory budget of {}",
        ByteSize(piece),
        config.memory
    );
    Err(Error::new(Kind::InvalidInput, text)
        .hint(hint!["raise it with ", Setting::Memory.with(format_args!("{}MiB", needed >> 20)),]))
}

pub(super) fn check_not_removing(row: &ImportRow) -> Result<()> {
    if row.state != ImportState::Removing {
        return Ok(());
    }
    let text = format!("import {} of this torrent is being removed", row.id);
    Err(Error::new(Kind::Unavailable, text).hint(hint![
        "complete the removal with ",
        Operation::RemoveLeftovers,
        " first",
    ]))
}

/// Refuses an import that does not fit. `free` is the free space that the storage reports, where it does.
pub(super) fn check_free_space(storage: &str, free: Option<u64>, len: u64) -> Result<()> {
    let Some(free) = free.filter(|free| *free < len) else { return Ok(()) };
    let text = format!(
        "storage {storage:?} has {} free, the import needs {}",
        ByteSize(free),
        ByteSize(len)
    );
    Err(Error::new(Kind::NoSpace, text).hint(hint![
        "free some space, select files with ",
        Setting::Select,
        ", or use another ",
        Setting::Storage,
    ]))
}
