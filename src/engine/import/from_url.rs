//! `import` of a URL: finds or creates the import in the catalog, and verifies and records the result.
//!
//! [`ImportJob::import_from_url`] compares the files found at the URL with earlier imports of it ([`SourceMatch`]),
//! discards stored bytes that may be of another version, fetches what is missing (the module `fill_from_server`), and
//! verifies the stored bytes against the known checksums.

use std::sync::Arc;

use super::{
    ImportJob, ImportView, check_free_space,
    source::RemoteFiles,
    source_record::{SourceMatch, SourceRecord, has_unknown_len, remote_file_rows},
};
use crate::{
    catalog::{Catalog, FileRow, ImportRow, ImportState, NewImport},
    downloads::{Checksums, ResumePolicy, fetch_sidecar_digest},
    engine::{
        DownloadOptions, ImportRequest, ReadStream,
        plan::{file_of_row, selected_ranges},
        serve::stream::DeadlinesGuard,
    },
    error::{Error, Kind, Result},
    events::{Event, Imported},
    hints::{Setting, hint},
    protocols::Digest,
    redact,
    storage::{
        ImportStore, MAX_GROWN_LEN, RangeSet, files::sequential_upload::check_partial_uploads,
        sweep::delete_freed,
    },
    torrents::metainfo::{File, select},
};

/// An open import of a URL, ready to be filled.
pub(in crate::engine) struct OpenUrlImport {
    pub(in crate::engine) row: ImportRow,
    pub(in crate::engine) store: Arc<ImportStore>,
    pub(in crate::engine) files: Vec<File>,
    pub(in crate::engine) wanted: RangeSet,
    record: SourceRecord,
    /// Whether it grows with what is received, because its length is unknown until the server ends the transfer.
    pub(in crate::engine) grows: bool,
}

impl OpenUrlImport {
    pub(in crate::engine) fn view(&self) -> ImportView<'_> {
        let Self { row, store, files, wanted, .. } = self;
        ImportView { row, store, files, wanted }
    }
}

impl ImportJob {
    pub(super) async fn import_from_url(&self, found: RemoteFiles) -> Result<Imported> {
        refuse_seeding(&self.request)?;
        refuse_checksums_of_folders(&self.request.download, &found)?;
        let opened = self.open_url_import(&found).await?;
        // Reads wait for missing bytes until this is dropped.
        let _readers = self.open_url_stream(&opened).await?;
        let complete = !opened.grows && opened.store.missing(&opened.wanted).is_empty();
        let verified = complete && opened.row.state == ImportState::Imported;
        let streams = found.streams().map(|(path, stream)| (path.to_owned(), Arc::clone(stream)));
        let streams: Vec<_> = streams.collect();
        let (opened, downloaded) =
            if complete { (opened, 0) } else { self.fill_from_server(opened, found).await? };
        if !verified || wants_checksum(&self.request.download) {
            self.verify_stored(&opened).await?;
        }
        // Publishes everything that remains: all files when nothing was fetched or the length was unknown until now.
        self.publish_rest(opened.view()).await?;
        let imported = self.finish(opened.view(), (downloaded, 0)).await?;
        // What was stored is kept, and what is missing from it is reported.
        let missing = streams.iter().find_map(|(path, stream)| stream.summary().error(path));
        missing.map_or(Ok(imported), Err)
    }

    /// Opens the import to players if requested. Without a length its layout changes at the end of the transfer, so
    /// reads of missing bytes fail then.
    async fn open_url_stream(&self, opened: &OpenUrlImport) -> Result<Option<DeadlinesGuard>> {
        match &self.request.streams {
            Some(streams) if opened.grows => {
                self.engine.stream(opened.row.id.as_str(), streams).await.map(|_| None)
            }
            _ => self.open_stream(opened.view()).await,
        }
    }

    /// Finds the import in the catalog or creates it. Stored bytes that are not proven to be of the
    /// same files are discarded.
    async fn open_url_import(&self, found: &RemoteFiles) -> Result<OpenUrlImport> {
        let rows = remote_file_rows(found)?;
        let files: Vec<File> = rows.iter().cloned().map(file_of_row).collect();
        let selected = match &self.request.select {
            Some(spec) => Some(select::select(spec, &files)?),
            None => None,
        };
        let catalog = &self.engine.catalog;
        let known = find_earlier_import(catalog, &self.request, &self.storage.name, found).await?;
        let recorded = match &known {
            Some((row, _)) => {
                let record = catalog.source_record(&row.id).await?;
                SourceRecord::parse(record.as_deref()).checksums()?
            }
            None => Vec::new(),
        };
        let digests = self.expected_checksums(found, recorded).await?;
        let record = SourceRecord::new(found, digests.list());
        let row = match known {
            Some((row, source_match)) => {
                self.claim_import(&row.id).await?;
                self.discard_unproven(&row, source_match, has_unknown_len(found)).await?;
                self.resume_import(catalog.get(&row.id).await?, selected).await?
            }
            None => self.create_import(found, rows, selected).await?,
        };
        self.claim_import(&row.id).await?;
        self.catalog().set_source_record(&row.id, Some(record.to_json()?)).await?;
        let grows = record.unknown_len && row.state != ImportState::Imported;
        self.reopen(row, record, grows).await
    }

    /// Records a new import of `rows`, the files found, if it fits.
    async fn create_import(
        &self,
        found: &RemoteFiles,
        rows: Vec<FileRow>,
        selected: Option<Vec<u32>>,
    ) -> Result<ImportRow> {
        if !has_unknown_len(found) {
            let files: Vec<File> = rows.iter().cloned().map(file_of_row).collect();
            let free = self.storage.backend.free_space().await?;
            let needed = selected_ranges(&files, selected.as_deref()).len();
            check_free_space(&self.storage.name, free, needed)?;
        }
        let new = NewImport {
            name: found.name.clone(),
            source: redact::without_password(&self.request.source),
            len: rows.iter().map(|row| row.len).sum(),
            storage: self.storage.name.clone(),
            chunk_len: self.storage.chunk_len(self.engine.config.memory.0),
            layout: self.request.layout,
            files: rows,
            selected,
            ..NewImport::default()
        };
        self.catalog().create_import(new).await
    }

    /// The expected checksums of a single file: from the user and the checksum file next to it, and from the server.
    /// Where this request gives none, those `recorded` by an earlier one stay, except with [`ResumePolicy::Never`].
    async fn expected_checksums(
        &self,
        found: &RemoteFiles,
        recorded: Vec<Digest>,
    ) -> Result<Checksums> {
        let DownloadOptions { checksums, sidecar, fetch_limits, resume, .. } =
            &self.request.download;
        match found.files.as_slice() {
            [(_, remote)] => {
                let mut given = checksums.clone();
                if *sidecar {
                    let tries = fetch_limits.max_tries;
                    let digest = fetch_sidecar_digest(
                        &found.protocol,
                        &remote.requested_url,
                        tries,
                        &self.cancel,
                    );
                    given.push(digest.await?);
                }
                if given.is_empty() && *resume != ResumePolicy::Never {
                    given = recorded;
                }
                Ok(Checksums::new(given.into_iter().chain(remote.digests.iter().cloned())))
            }
            _ => Ok(Checksums::default()),
        }
    }

    /// Opens an import as the catalog has it now.
    pub(in crate::engine) async fn reopen(
        &self,
        row: ImportRow,
        record: SourceRecord,
        grows: bool,
    ) -> Result<OpenUrlImport> {
        let mut files = self.engine.files_of(&row).await?;
        let store = match (grows, files.last_mut()) {
            (true, Some(last)) => {
                last.range.end = last.range.start.max(MAX_GROWN_LEN);
                self.engine.open_growing_store(&row, &self.storage).await?
            }
            _ => self.engine.open_store(&row, &self.storage).await?,
        };
        check_partial_uploads(&self.catalog(), &store).await?;
        let wanted = selected_ranges(&files, row.selected.as_deref());
        Ok(OpenUrlImport { row, store, files, wanted, record, grows })
    }

    /// Records the length of an import whose length was unknown, and reopens it.
    pub(super) async fn record_len(
        &self,
        opened: OpenUrlImport,
        len: u64,
    ) -> Result<OpenUrlImport> {
        let catalog = self.catalog();
        catalog.set_len(&opened.row.id, len).await?;
        let row = catalog.get(&opened.row.id).await?;
        self.reopen(row, opened.record, false).await
    }

    /// Discards the stored bytes of an import, unless they can be kept.
    async fn discard_unproven(
        &self,
        row: &ImportRow,
        source_match: SourceMatch,
        unknown_len: bool,
    ) -> Result<()> {
        let keep = keeps_stored(self.request.download.resume, source_match, row, unknown_len);
        let stored = self.engine.open_store(row, &self.storage).await?.durable_ranges();
        if keep || stored.is_empty() {
            return Ok(());
        }
        let text = "the stored bytes are fetched again: they may be of another version".to_owned();
        let id = Some(row.id.to_string());
        self.events.send(Event::Notice { id, text });
        self.discard(row, stored.iter().collect()).await?;
        if unknown_len {
            // It grows again from nothing.
            let catalog = self.catalog();
            catalog.set_len(&row.id, 0).await?;
            catalog.set_state(&row.id, ImportState::Importing).await?;
        }
        Ok(())
    }

    async fn discard(&self, row: &ImportRow, ranges: Vec<std::ops::Range<u64>>) -> Result<()> {
        let freed = self.catalog().punch_holes(&row.id, ranges).await?;
        self.engine.cache.forget(&row.id);
        delete_freed(&self.catalog(), &self.storage.backend, &row.id, &freed).await
    }

    /// Reads the stored bytes of a single file and verifies them against the known checksums.
    /// Bytes that fail are deleted.
    async fn verify_stored(&self, opened: &OpenUrlImport) -> Result<()> {
        let checksums = Checksums::new(opened.record.checksums()?);
        let [file] = opened.files.as_slice() else { return Ok(()) };
        if checksums.is_empty() {
            return Ok(());
        }
        let reader = self.engine.reader(&opened.store);
        let mut stream = ReadStream::new(reader, file.range.clone());
        let mut check = checksums.verifier();
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
            self.discard(&opened.row, vec![file.range.clone()]).await?;
            return Err(e.hint(hint![
                "the stored bytes were deleted; ",
                Setting::Fresh,
                " ignores a checksum that was given before",
            ]));
        }
        Ok(())
    }
}

/// The newest import of this source in this storage that may be of the files found, and how certain that is.
///
/// # Errors
/// `Changed` when there are imports of this source and none matches the files, except with [`ResumePolicy::Never`].
pub(in crate::engine) async fn find_earlier_import(
    catalog: &Catalog,
    request: &ImportRequest,
    storage: &str,
    found: &RemoteFiles,
) -> Result<Option<(ImportRow, SourceMatch)>> {
    if found.is_live() {
        return Ok(None);
    }
    let known = catalog.find_by_source(&redact::without_password(&request.source), storage).await?;
    let any = !known.is_empty();
    for row in known {
        let record = SourceRecord::parse(catalog.source_record(&row.id).await?.as_deref());
        let source_match = record.compare(&catalog.files(&row.id).await?, found);
        if source_match != SourceMatch::Different {
            return Ok(Some((row, source_match)));
        }
    }
    if any && request.download.resume != ResumePolicy::Never {
        let text =
            format!("the file at this URL has changed since it was imported ({})", found.name);
        return Err(Error::new(Kind::Changed, text).hint(hint![
            "give ",
            Setting::Fresh,
            " to import the new version as well",
        ]));
    }
    Ok(None)
}

/// A selection of files without padding, as `--select` has it.
pub(in crate::engine) fn selection_spec(selected: &[u32]) -> String {
    selected.iter().map(|n| (u64::from(*n) + 1).to_string()).collect::<Vec<_>>().join(",")
}

/// Whether the stored bytes of an earlier import are kept.
pub(in crate::engine) fn keeps_stored(
    resume: ResumePolicy,
    source_match: SourceMatch,
    row: &ImportRow,
    unknown_len: bool,
) -> bool {
    match (resume, source_match) {
        (ResumePolicy::Never, _) => false,
        (_, SourceMatch::Proven) => true,
        (ResumePolicy::IfSameLength, _) => !unknown_len || row.state == ImportState::Imported,
        _ => row.state == ImportState::Imported,
    }
}

/// Whether the user requested verification of the stored bytes against a checksum.
pub(in crate::engine) fn wants_checksum(fetch: &DownloadOptions) -> bool {
    !fetch.checksums.is_empty() || fetch.sidecar
}

pub(in crate::engine) fn refuse_checksums_of_folders(
    fetch: &DownloadOptions,
    found: &RemoteFiles,
) -> Result<()> {
    if found.files.len() == 1 || !wants_checksum(fetch) {
        return Ok(());
    }
    Err(Error::new(Kind::InvalidInput, "the URL is a folder, and a checksum is of one file"))
}

pub(in crate::engine) fn refuse_seeding(request: &ImportRequest) -> Result<()> {
    if !request.seed {
        return Ok(());
    }
    let text = "an import from a URL cannot be seeded: it has no swarm";
    Err(Error::new(Kind::InvalidInput, text).hint(hint!["leave out ", Setting::Seed]))
}
