//! `export`: writes an import to plain files, bit for bit. A file appears under its name only when it is complete.
//!
//! Each file is read through a verifying [`ReadStream`] into a temp file ([`TempFile`]) and renamed. A file that exists
//! with the same bytes counts as done, so an interrupted export can be repeated. A file with other bytes is left alone,
//! except with `overwrite`. A file that cannot be written does not stop the others; failures are reported at the end.
//!
//! Refused: a path that leaves the target folder, and two files of the import whose names the target treats as equal.

mod target;
mod temp_file;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use tokio_util::sync::CancellationToken;

use self::{
    target::{Target, TargetEntry, is_file_of},
    temp_file::{TempFile, same_bytes},
};
use super::read::VerifyingReader;
use crate::{
    engine::{
        Engine, ExportOptions, ExportSummary, ProgressFn, ReadStream,
        plan::{file_row, selected_files},
    },
    error::{Error, Kind, Result},
    hints::{Operation, Setting, hint},
    torrents::metainfo::File,
};

/// Number of failures that are reported in full. Further ones are only counted.
const MAX_REPORTED_FAILURES: usize = 10;

/// Why a file was not exported.
enum Failure {
    /// Concerns this file only.
    File(Error),
    /// Ends the export: other files would fail too.
    All(Error),
}

impl Failure {
    /// From an error of reading storage.
    fn read(error: Error) -> Self {
        match error.kind() {
            kind if kind.is_object_specific() => Self::File(error),
            _ => Self::All(error),
        }
    }

    /// From an error of writing to the target.
    fn write(error: Error) -> Self {
        match error.kind() {
            Kind::NoSpace => Self::All(error.hint(hint![
                "free some space there, and run ",
                Operation::Same,
                " again",
            ])),
            kind if kind.is_retryable() => Self::All(error),
            _ => Self::File(error),
        }
    }
}

impl Engine {
    /// Writes the selected files of an import to `dir/<its name>[/…]`. Existing files with other bytes are
    /// left alone, except with [`ExportOptions::overwrite`]. Files that could not be written are in the
    /// summary; all others are complete.
    ///
    /// # Errors
    /// Only errors that end the export: `NoSpace`, `Cancelled`, a storage that does not answer, a
    /// target that is not a folder.
    pub async fn export(
        &self,
        import_ref: &str,
        dir: &Path,
        options: ExportOptions,
        progress: ProgressFn,
        cancel: CancellationToken,
    ) -> Result<ExportSummary> {
        let row = self.catalog.find(import_ref).await?;
        let all = self.files_of(&row).await?;
        let files: Vec<_> = selected_files(&all, row.selected.as_deref()).collect();
        let target = Target::open(dir, &all.iter().map(file_row).collect::<Vec<_>>()).await?;
        let reader = self.open_verifying(&row).await?;
        let total = files.iter().map(|file| len(file)).sum();
        let mut export = Export {
            reader,
            target,
            options,
            cancel,
            progress: Box::new(move |done| progress(done, total)),
            done: 0,
            folders: BTreeSet::new(),
            summary: ExportSummary::default(),
        };
        export.summary.renamed = export.target.renamed_paths().map(str::to_owned).collect();
        for file in files {
            export.export_entry(file).await?;
        }
        export.folders.iter().try_for_each(|dir| temp_file::sync_folder(dir))?;
        Ok(export.summary)
    }
}

fn len(file: &File) -> u64 {
    file.range.end - file.range.start
}

/// A running export.
struct Export {
    reader: VerifyingReader,
    target: Target,
    options: ExportOptions,
    cancel: CancellationToken,
    progress: Box<dyn Fn(u64) + Send + Sync>,
    done: u64,
    /// Folders with new names.
    folders: BTreeSet<PathBuf>,
    summary: ExportSummary,
}

impl Export {
    /// # Errors
    /// Only errors that end the export.
    async fn export_entry(&mut self, file: &File) -> Result<()> {
        let done_before = self.done;
        let exported = match &file.symlink {
            Some(to) => self.export_link(file, to),
            None => self.export_file(file).await,
        };
        self.done = done_before + len(file);
        (self.progress)(self.done);
        match exported {
            Ok(()) => {
                self.summary.files += 1;
                self.summary.bytes += len(file);
                Ok(())
            }
            Err(Failure::All(error)) => Err(error),
            Err(Failure::File(error)) => {
                self.summary.failed += 1;
                if self.summary.failures.len() < MAX_REPORTED_FAILURES {
                    self.summary.failures.push(error);
                }
                Ok(())
            }
        }
    }

    async fn export_file(&mut self, file: &File) -> Result<(), Failure> {
        let path = self.target.path(&file.path).map_err(Failure::File)?;
        let found = self.target.entry_at(&path).map_err(Failure::write)?;
        match found {
            TargetEntry::Missing | TargetEntry::Link => {}
            TargetEntry::File(metadata) if !self.options.overwrite => {
                let mut stream = ReadStream::new(self.reader.clone(), file.range.clone());
                let same = is_file_of(&metadata, len(file))
                    && self.unless_cancelled(same_bytes(&mut stream, &path)).await?;
                if !same {
                    return Err(Failure::File(path_taken(&path, "a different file")));
                }
                self.summary.already += 1;
                self.mark_executable(file, &path);
                return Ok(());
            }
            TargetEntry::File(_) => {}
            TargetEntry::Folder => return Err(Failure::File(path_taken(&path, "a folder"))),
        }
        let mut stream = ReadStream::new(self.reader.clone(), file.range.clone());
        let mut temp = TempFile::create(&path, |path| self.target.is_export_file(path))
            .map_err(Failure::write)?;
        while let Some(bytes) =
            self.unless_cancelled(async { stream.next().await.map_err(Failure::read) }).await?
        {
            temp.write(&bytes).map_err(Failure::write)?;
            self.done += bytes.len() as u64;
            (self.progress)(self.done);
        }
        temp.finish().map_err(Failure::write)?;
        self.folders.extend(path.parent().map(Path::to_owned));
        self.mark_executable(file, &path);
        Ok(())
    }

    /// Makes a file executable for those who may read it. A failure is only counted: some file
    /// systems have no such mode.
    fn mark_executable(&mut self, file: &File, path: &Path) {
        if !file.executable {
            return;
        }
        if let Err(e) = temp_file::make_executable(path) {
            tracing::debug!("{}", e.report());
            self.summary.modes += 1;
        }
    }

    fn export_link(&mut self, file: &File, to: &str) -> Result<(), Failure> {
        let path = self.target.path(&file.path).map_err(Failure::File)?;
        let to = self.target.relative(&file.path, to).map_err(Failure::File)?;
        match self.target.entry_at(&path).map_err(Failure::write)? {
            TargetEntry::Link if std::fs::read_link(&path).is_ok_and(|existing| existing == to) => {
                self.summary.already += 1;
                return Ok(());
            }
            TargetEntry::File(_) if !self.options.overwrite => {
                return Err(Failure::File(path_taken(&path, "a different file")));
            }
            TargetEntry::Folder => return Err(Failure::File(path_taken(&path, "a folder"))),
            TargetEntry::Missing | TargetEntry::Link | TargetEntry::File(_) => {}
        }
        target::make_link(&to, &path).map_err(Failure::write)
    }

    async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            () = self.cancel.cancelled() => {
                Err(Failure::All(Error::new(Kind::Cancelled, "stopped")
                    .hint(hint!["run ", Operation::Same, " again to resume"])))
            }
            done = work => done,
        }
    }
}

fn path_taken(path: &Path, what: &str) -> Error {
    let text = format!("{} exists already as {what}", path.display());
    let hint = match what {
        "a folder" => "move or rename the folder".into(),
        _ => hint!["give ", Setting::Overwrite, " to replace it, or export to another folder"],
    };
    Error::new(Kind::AlreadyExists, text).hint(hint)
}
