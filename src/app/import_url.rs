//! `import` of a URL: finds or creates the import in the catalog, and verifies and records the result.
//!
//! [`Job::import_files`] compares the files found at the URL with earlier imports of it ([`Likeness`]), forgets stored
//! bytes that may be of another version, fetches what is missing (the module `import_files`), and checks the stored
//! bytes against the known checksums.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    App, BadPiece, FetchOrder, ImportRequest, ReadStream, RepairRequest,
    import::{Filled, Job, check_room},
    plan::{plain_file, ranges_wanted},
    remote::{Likeness, OPEN_LEN, Record, file_rows, has_open_end},
    source::RemoteFiles,
};
use crate::{
    catalog::{Catalog, FileRow, ImportRow, ImportState, NewImport},
    downloads::{Checksums, Resume, beside},
    error::{Error, Kind, Result},
    events::{Event, EventSink, Imported},
    protocols::Digest,
    redact,
    storage::{ImportStore, RangeSet, stream::resume, sweep::delete_freed},
    torrents::{metainfo::File, select},
};

/// An open import of a URL, ready to be filled.
pub(super) struct OpenedFiles {
    pub(super) row: ImportRow,
    pub(super) store: Arc<ImportStore>,
    pub(super) files: Vec<File>,
    pub(super) wanted: RangeSet,
    record: Record,
}

impl OpenedFiles {
    pub(super) fn import(&self) -> Filled<'_> {
        let Self { row, store, files, wanted, .. } = self;
        Filled { row, store, files, wanted }
    }

    /// Whether its length is unknown until the server ends the transfer.
    pub(super) fn has_open_end(&self) -> bool {
        self.row.len == OPEN_LEN && self.record.open_end
    }
}

impl Job<'_> {
    pub(super) async fn import_files(&self, found: RemoteFiles) -> Result<Imported> {
        refuse_to_seed_files(self.request)?;
        refuse_checksums_of_folders(&self.request.fetch, &found)?;
        let opened = self.open_files(&found).await?;
        if let Some(streams) = &self.request.streams {
            self.app.stream(opened.row.id.as_str(), streams).await?;
        }
        let complete = !opened.has_open_end() && opened.store.missing(&opened.wanted).is_empty();
        let checked = complete && opened.row.state == ImportState::Imported;
        let (opened, downloaded) =
            if complete { (opened, 0) } else { self.fill_files(opened, found).await? };
        if !checked || checks(&self.request.fetch) {
            self.check_stored(&opened).await?;
        }
        // Publishes everything that remains: all files when nothing was fetched or the length was unknown until now.
        self.publish_rest(opened.import()).await?;
        self.finish(opened.import(), (downloaded, 0)).await
    }

    /// Finds the import in the catalog or creates it. Stored bytes that are not proven to be of the
    /// same files are forgotten.
    async fn open_files(&self, found: &RemoteFiles) -> Result<OpenedFiles> {
        let rows = file_rows(found)?;
        let files: Vec<File> = rows.iter().cloned().map(plain_file).collect();
        let selected = match &self.request.select {
            Some(spec) => Some(select::select(spec, &files)?),
            None => None,
        };
        let catalog = &self.app.catalog;
        let known = begun_before(catalog, self.request, &self.place.name, found)?;
        let recorded = match &known {
            Some((row, _)) => Record::parse(catalog.remote(&row.id)?.as_deref()).checksums()?,
            None => Vec::new(),
        };
        let digests = self.checksums(found, recorded).await?;
        let record = Record::new(found, digests.list());
        let row = match known {
            Some((row, likeness)) => {
                self.forget_unproven(&row, likeness).await?;
                self.take_up(catalog.get(&row.id)?, selected).await?
            }
            None => self.create_files(found, rows, selected).await?,
        };
        catalog.set_remote(&row.id, Some(record.to_json()?)).await?;
        self.reopen(row, record).await
    }

    /// Records a new import of `rows`, the files found, if it fits.
    async fn create_files(
        &self,
        found: &RemoteFiles,
        rows: Vec<FileRow>,
        selected: Option<Vec<u32>>,
    ) -> Result<ImportRow> {
        if !has_open_end(found) {
            let files: Vec<File> = rows.iter().cloned().map(plain_file).collect();
            let room = self.place.backend.free_room().await?;
            let wanted = ranges_wanted(&files, selected.as_deref()).len();
            check_room(&self.place.name, room, wanted)?;
        }
        let new = NewImport {
            name: found.name.clone(),
            source: redact::without_password(&self.request.source),
            len: rows.iter().map(|row| row.len).sum(),
            storage: self.place.name.clone(),
            chunk_len: self.place.chunk_len(self.app.config.memory.0),
            layout: self.request.layout,
            files: rows,
            selected,
            ..NewImport::default()
        };
        self.app.catalog.create_import(new).await
    }

    /// The expected checksums of a single file: from the user and the checksum file next to it, and from the server.
    /// Where this request gives none, those `recorded` by an earlier one stay, except with [`Resume::Fresh`].
    async fn checksums(&self, found: &RemoteFiles, recorded: Vec<Digest>) -> Result<Checksums> {
        let FetchOrder { checksums, beside: looks, effort, resume, .. } = &self.request.fetch;
        match found.files.as_slice() {
            [(_, remote)] => {
                let mut given = checksums.clone();
                if *looks {
                    let tries = effort.max_tries;
                    let digest = beside(&found.protocol, &remote.asked, tries, &self.cancel);
                    given.push(digest.await?);
                }
                if given.is_empty() && *resume != Resume::Fresh {
                    given = recorded;
                }
                Ok(Checksums::new(given.into_iter().chain(remote.digests.iter().cloned())))
            }
            _ => Ok(Checksums::default()),
        }
    }

    /// Opens an import as the catalog has it now.
    pub(super) async fn reopen(&self, row: ImportRow, record: Record) -> Result<OpenedFiles> {
        let files = self.app.files_of(&row)?;
        let store = self.app.open_store(&row, &self.place)?;
        resume(&self.app.catalog, &store).await?;
        let wanted = ranges_wanted(&files, row.selected.as_deref());
        Ok(OpenedFiles { row, store, files, wanted, record })
    }

    /// Records the length of an import whose length was unknown, and reopens it.
    pub(super) async fn close_end(&self, opened: OpenedFiles, len: u64) -> Result<OpenedFiles> {
        let catalog = &self.app.catalog;
        catalog.set_len(&opened.row.id, len).await?;
        let row = catalog.get(&opened.row.id)?;
        self.reopen(row, opened.record).await
    }

    /// Forgets the stored bytes of an import, unless they can be kept.
    async fn forget_unproven(&self, row: &ImportRow, likeness: Likeness) -> Result<()> {
        let keeps = keeps(self.request.fetch.resume, likeness, row);
        let stored = self.app.open_store(row, &self.place)?.stored();
        if keeps || stored.is_empty() {
            return Ok(());
        }
        let text = "what is stored of it is fetched again: the server does not tell whether it is the same".to_owned();
        let id = Some(row.id.to_string());
        self.events.send(Event::Notice { id, text });
        self.forget(row, stored.iter().collect()).await
    }

    async fn forget(&self, row: &ImportRow, ranges: Vec<std::ops::Range<u64>>) -> Result<()> {
        let freed = self.app.catalog.forget_ranges(&row.id, ranges).await?;
        self.app.cache.forget(&row.id);
        delete_freed(&self.app.catalog, &self.place.backend, &row.id, &freed).await
    }

    /// Reads the stored bytes of a single file and verifies them against the known checksums.
    /// Bytes that fail are deleted.
    async fn check_stored(&self, opened: &OpenedFiles) -> Result<()> {
        let checksums = Checksums::new(opened.record.checksums()?);
        let [file] = opened.files.as_slice() else { return Ok(()) };
        if checksums.is_empty() {
            return Ok(());
        }
        let reader = self.app.reader(&opened.store);
        let mut stream = ReadStream::new(reader, file.range.clone());
        let mut check = checksums.check();
        loop {
            let bytes = tokio::select! {
                bytes = stream.next() => bytes?,
                () = self.cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
            };
            let Some(bytes) = bytes else { break };
            check.update(&bytes);
        }
        let name = format!("import {} ({})", opened.row.id, opened.row.name);
        if let Err(e) = check.finish(&name) {
            self.forget(&opened.row, vec![file.range.clone()]).await?;
            let hint = "what was stored of it is gone again; --fresh leaves out a checksum that was given before";
            return Err(e.hint(hint));
        }
        Ok(())
    }
}

/// The newest import of this source in this storage that may be of the files found, and how certain that is.
///
/// # Errors
/// `Changed` when there are imports of this source and none matches the files, except with [`Resume::Fresh`].
pub(super) fn begun_before(
    catalog: &Catalog,
    request: &ImportRequest,
    storage: &str,
    found: &RemoteFiles,
) -> Result<Option<(ImportRow, Likeness)>> {
    let known = catalog.find_by_source(&redact::without_password(&request.source), storage)?;
    let any = !known.is_empty();
    for row in known {
        let record = Record::parse(catalog.remote(&row.id)?.as_deref());
        let likeness = record.likeness(&catalog.files(&row.id)?, found);
        if likeness != Likeness::Other {
            return Ok(Some((row, likeness)));
        }
    }
    if any && request.fetch.resume != Resume::Fresh {
        let text = format!("what is at this URL is not what was imported from it ({})", found.name);
        return Err(Error::new(Kind::Changed, text)
            .hint("give --fresh to import what is there now as well"));
    }
    Ok(None)
}

/// A selection of files without padding, as `--select` has it.
fn numbers(selected: &[u32]) -> String {
    selected.iter().map(|n| (u64::from(*n) + 1).to_string()).collect::<Vec<_>>().join(",")
}

/// Whether the stored bytes of an earlier import are kept.
pub(super) fn keeps(resume: Resume, likeness: Likeness, row: &ImportRow) -> bool {
    match (resume, likeness) {
        (Resume::Fresh, _) => false,
        (_, Likeness::Proven) => true,
        (Resume::Trusting, _) => row.len != OPEN_LEN,
        _ => row.state == ImportState::Imported,
    }
}

/// Whether the user requested verification of the stored bytes against a checksum.
pub(super) fn checks(fetch: &FetchOrder) -> bool {
    !fetch.checksums.is_empty() || fetch.beside
}

pub(super) fn refuse_checksums_of_folders(fetch: &FetchOrder, found: &RemoteFiles) -> Result<()> {
    if found.files.len() == 1 || !checks(fetch) {
        return Ok(());
    }
    Err(Error::new(Kind::InvalidInput, "a checksum is of one file, and this is a folder"))
}

pub(super) fn refuse_to_seed_files(request: &ImportRequest) -> Result<()> {
    if !request.seed {
        return Ok(());
    }
    let text = "what comes from a URL cannot be seeded: there is no swarm for it";
    Err(Error::new(Kind::InvalidInput, text).hint("leave out --seed"))
}

impl App {
    /// As [`App::repair`], for an import of a URL: [`BadPiece::piece`] is the index of a file.
    pub(super) async fn repair_files(
        &self,
        row: ImportRow,
        bad: &[BadPiece],
        request: RepairRequest,
        events: EventSink,
        cancel: CancellationToken,
    ) -> Result<Imported> {
        let files = self.files_of(&row)?;
        let of = |bad: &BadPiece| files.get(bad.piece as usize).map(|file| file.range.clone());
        let freed =
            self.catalog.forget_ranges(&row.id, bad.iter().filter_map(of).collect()).await?;
        self.cache.forget(&row.id);
        let select = row.selected.as_deref().map(numbers);
        let import = ImportRequest { select, ..request.import(&row) };
        let imported = self.import(import, events, cancel).await?;
        let place = self.place_of(&row).await?;
        if let Err(e) = delete_freed(&self.catalog, &place.backend, &row.id, &freed).await {
            tracing::warn!("import {}: {}", row.id, e.report());
        }
        Ok(imported)
    }
}
