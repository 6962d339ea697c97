//! `import`: a torrent found and planned. `fill` does the rest.

use std::{sync::Arc, time::Instant};

use tokio_util::sync::CancellationToken;

use super::{
    App, ImportRequest, SESSION_END, input_budget,
    magnet::Magnet,
    place::Place,
    plan::{Plan, file_rows, selection},
    source::Source,
};
use crate::{
    catalog::{Catalog, ImportRow, ImportState, LayoutKind, NewImport},
    config::Config,
    error::{Error, Kind, Result},
    events::{Event, EventSink, Imported},
    storage::{ImportStore, RangeSet, stream::resume},
    torrents::{
        Origin, Start, Torrent, Torrents, check_interfaces, metadata,
        metainfo::{File, Metainfo, torrent_file},
    },
    units::ByteSize,
};

/// One call of `import`.
pub(super) struct Job<'a> {
    pub(super) app: &'a App,
    pub(super) request: &'a ImportRequest,
    pub(super) place: Arc<Place>,
    pub(super) events: EventSink,
    pub(super) cancel: CancellationToken,
    pub(super) begun: Instant,
}

/// What of an open import does not depend on where its bytes come from.
#[derive(Clone, Copy)]
pub(super) struct Filled<'a> {
    pub(super) row: &'a ImportRow,
    pub(super) store: &'a Arc<ImportStore>,
    pub(super) files: &'a [File],
    /// Bytes to be stored, padding left out.
    pub(super) wanted: &'a RangeSet,
}

impl Opened {
    pub(super) fn import(&self) -> Filled<'_> {
        let Self { row, store, meta, plan, .. } = self;
        Filled { row, store, files: &meta.files, wanted: &plan.wanted }
    }
}

/// An import of a torrent that is known and open, ready to be filled.
pub(super) struct Opened {
    pub(super) row: ImportRow,
    pub(super) metainfo: Vec<u8>,
    pub(super) meta: Metainfo,
    pub(super) store: Arc<ImportStore>,
    pub(super) plan: Plan,
}

impl App {
    /// Brings a torrent in, or the files at a URL. Returns when every wanted byte is durable (with `seed`: when cancelled after that), having
    /// sent [`Event::Imported`].
    ///
    /// # Errors
    /// Whatever is wrong with source, selection or storage, before anything is fetched; `NoSpace` when it cannot fit;
    /// `Network` when nothing arrives for the timeout; `Cancelled` when stopped before the end.
    pub async fn import(
        &self,
        request: ImportRequest,
        events: EventSink,
        cancel: CancellationToken,
    ) -> Result<Imported> {
        let begun = Instant::now();
        check_interfaces(&request.network)?;
        let place = self.place(&request.storage).await?;
        Job { app: self, request: &request, place, events, cancel, begun }.run().await
    }
}

impl Job<'_> {
    async fn run(&self) -> Result<Imported> {
        let waits = |why: Option<&str>| self.waits(why);
        let ImportRequest { source, fetch, .. } = self.request;
        let source = tokio::select! {
            source = Source::find(source, fetch, true, &waits) => source?,
            () = self.cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
        };
        tokio::select! {
            asked = self.place.ask(&self.app.catalog) => asked?,
            () = self.cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
        }
        let known = match source {
            Source::Torrent(bytes) => Ok((Metainfo::read(bytes)?, None)),
            Source::Magnet(uri, magnet) => {
                let select = magnet.selected(self.request.select.as_deref())?;
                self.known(&magnet)?.map(|known| (known, select)).ok_or((uri, magnet))
            }
            Source::Files(found) => return self.import_files(found).await,
        };
        match known {
            Ok(((meta, metainfo), select)) => {
                let opened = self.open(metainfo, meta, select.as_deref()).await?;
                if opened.plan.missing().next().is_none() && !self.request.seed {
                    // All of it is here already: nobody needs to be asked for anything.
                    self.open_stream(&opened)?;
                    self.publish_rest(opened.import()).await?;
                    return self.finish(opened.import(), (0, 0)).await;
                }
                let torrents = self.session()?;
                let done = self.fill(&torrents, None, opened).await;
                torrents.stop(SESSION_END).await;
                done
            }
            Err((uri, magnet)) => {
                let torrents = self.session()?;
                let done = self.import_magnet(&torrents, uri, &magnet).await;
                torrents.stop(SESSION_END).await;
                done
            }
        }
    }

    /// A server that is asked what there is has said nothing yet, or is to be asked again.
    fn waits(&self, why: Option<&str>) {
        let text = match why {
            Some(why) => format!("waiting: {why}"),
            None => "waiting for the server's first answer".to_owned(),
        };
        self.events.send(Event::Notice { id: None, text });
    }

    fn session(&self) -> Result<Arc<Torrents>> {
        let App { pressure, pool, .. } = self.app;
        Torrents::start(&self.request.network, Arc::clone(pressure), pool.clone())
    }

    /// The metadata of a magnet that was imported before: nobody is asked for it twice.
    fn known(&self, magnet: &Magnet) -> Result<Option<(Metainfo, Vec<u8>)>> {
        let found = self.app.catalog.find_by_info_hash(magnet.v1, magnet.v2)?;
        let known = found.first().map(|row| self.app.metainfo_of(row)).transpose()?;
        Ok(known.map(|(bytes, meta)| (meta, bytes)))
    }

    async fn import_magnet(
        &self,
        torrents: &Arc<Torrents>,
        uri: String,
        magnet: &Magnet,
    ) -> Result<Imported> {
        let start =
            Start { origin: Origin::Magnet(uri), have: vec![], wanted: vec![], private: false };
        let mut torrent = torrents.add(start).await?;
        let info = metadata(&mut torrent, &self.cancel, self.request.timeout, &self.events).await?;
        let metainfo = torrent_file(&info, &magnet.trackers, &magnet.web_seeds);
        let meta = Metainfo::parse(&metainfo)?;
        let opened = self.open(metainfo, meta, magnet.select.as_deref()).await?;
        leave_out(&torrent, &opened.plan)?;
        self.fill(torrents, Some(torrent), opened).await
    }

    /// Finds the import in the catalog or creates it, and plans what is to be fetched.
    async fn open(
        &self,
        metainfo: Vec<u8>,
        meta: Metainfo,
        by_link: Option<&str>,
    ) -> Result<Opened> {
        tokio::select! {
            opened = self.find_or_create(metainfo, meta, by_link) => opened,
            () = self.cancel.cancelled() => Err(Error::new(Kind::Cancelled, "stopped")),
        }
    }

    async fn find_or_create(
        &self,
        metainfo: Vec<u8>,
        mut meta: Metainfo,
        by_link: Option<&str>,
    ) -> Result<Opened> {
        check_memory(&meta, &self.app.config)?;
        // The same torrent in another storage is another import.
        let catalog = &self.app.catalog;
        let known = catalog.find_by_info_hash(meta.info_hash_v1, meta.info_hash_v2)?;
        let known = known.into_iter().find(|row| row.storage == self.place.name);
        if let Some(row) = &known {
            keep_names(catalog, row, &mut meta)?;
        }
        let selected = selection(self.request.select.as_deref(), by_link, &meta.files)?;
        let row = match known {
            Some(row) => self.take_up(row, selected.clone()).await?,
            None => {
                let room = self.place.backend.free_room().await?;
                check_room(&self.place.name, room, meta.len)?;
                catalog.create_import(self.describe(&metainfo, &meta, selected.clone())).await?
            }
        };
        let store = self.app.open_store(&row, &self.place)?;
        resume(catalog, &store).await?;
        for text in &meta.notes {
            let id = Some(row.id.to_string());
            self.events.send(Event::Notice { id, text: text.clone() });
        }
        let plan = Plan::new(&meta, selected.as_deref(), &store);
        Ok(Opened { row, metainfo, meta, store, plan })
    }

    fn describe(&self, metainfo: &[u8], meta: &Metainfo, selected: Option<Vec<u32>>) -> NewImport {
        NewImport {
            name: meta.name.clone(),
            source: self.request.source.clone(),
            info_hash_v1: meta.info_hash_v1,
            info_hash_v2: meta.info_hash_v2,
            len: meta.len,
            storage: self.place.name.clone(),
            chunk_len: self.place.chunk_len(self.app.config.memory.0),
            layout: self.request.layout,
            metainfo: metainfo.to_vec(),
            files: file_rows(meta),
            selected,
            remote: None,
        }
    }

    /// This import is there: go on with it.
    pub(super) async fn take_up(
        &self,
        row: ImportRow,
        selected: Option<Vec<u32>>,
    ) -> Result<ImportRow> {
        check_not_removing(&row)?;
        if row.selected != selected {
            self.app.catalog.set_selected(&row.id, selected.clone()).await?;
        }
        let layout = layout_of(self.request.layout, &row);
        if row.layout != layout {
            self.app.catalog.set_layout(&row.id, layout).await?;
        }
        Ok(ImportRow { selected, layout, ..row })
    }
}

/// Calls a torrent's files as its import does.
pub(super) fn keep_names(catalog: &Catalog, row: &ImportRow, meta: &mut Metainfo) -> Result<()> {
    meta.keep_names(catalog.files(&row.id)?.into_iter().map(|file| file.path));
    Ok(())
}

/// What an import that is there already becomes. Chunks are the default, so asking for them may mean nothing; whole
/// files stay what they are anyway.
pub(super) fn layout_of(asked: LayoutKind, known: &ImportRow) -> LayoutKind {
    match asked {
        LayoutKind::Files => LayoutKind::Files,
        LayoutKind::Chunks => known.layout,
    }
}

/// A magnet's torrent was added before it was known what of it is wanted.
fn leave_out(torrent: &Torrent, plan: &Plan) -> Result<()> {
    let unwanted: Vec<u32> =
        (0u32..).zip(&plan.wanted_pieces).filter(|(_, wanted)| !**wanted).map(|(p, _)| p).collect();
    if unwanted.is_empty() { Ok(()) } else { torrent.prioritize(&unwanted, 0) }
}

/// A piece is verified whole, in memory: one that takes more than three quarters of it could not be completed.
pub(super) fn check_memory(meta: &Metainfo, config: &Config) -> Result<()> {
    let piece = u64::from(meta.piece_length);
    if piece <= input_budget(config) / 4 * 3 {
        return Ok(());
    }
    let needed = (piece * 2).next_multiple_of(16 << 20);
    let text = format!(
        "this torrent has pieces of {}, too large for a memory of {}",
        ByteSize(piece),
        config.memory
    );
    Err(Error::new(Kind::InvalidInput, text)
        .hint(format!("give it more with --memory {}MiB", needed >> 20)))
}

pub(super) fn check_not_removing(row: &ImportRow) -> Result<()> {
    if row.state != ImportState::Removing {
        return Ok(());
    }
    let text = format!("import {} of this torrent is being removed", row.id);
    Err(Error::new(Kind::Unavailable, text).hint("finish that with `bae gc --yes` first"))
}

/// `room` is what the storage says is left, where it knows.
pub(super) fn check_room(storage: &str, room: Option<u64>, len: u64) -> Result<()> {
    let Some(room) = room.filter(|room| *room < len) else { return Ok(()) };
    let text = format!(
        "storage {storage:?} has room for {}, this needs {}",
        ByteSize(room),
        ByteSize(len)
    );
    Err(Error::new(Kind::NoSpace, text)
        .hint("free some room, choose files with --select, or use another --storage"))
}
