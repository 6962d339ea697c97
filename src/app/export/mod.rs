//! `export`: writes an import to plain files, bit for bit. A file appears under its name only when it is complete.
//!
//! Each file is read through a verifying [`ReadStream`] into a temp file ([`Part`]) and renamed. A file that exists
//! with the same bytes counts as done, so an interrupted export can be repeated. A file with other bytes is left alone,
//! except with `overwrite`. A file that cannot be written does not stop the others; failures are reported at the end.
//!
//! Refused: a path that leaves the target folder, and two files of the import whose names the target treats as equal.

mod part;
mod target;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use tokio_util::sync::CancellationToken;

use self::{
    part::{Part, same_bytes},
    target::{Target, Was, is_file_of},
};
use super::{
    App, ExportOrder, ExportSummary, ProgressFn, ReadStream,
    plan::{file_row, files_wanted},
    read::Checked,
};
use crate::{
    error::{Error, Kind, Result},
    torrents::metainfo::File,
};

/// Number of failures that are reported in full. Further ones are only counted.
const TOLD: usize = 10;

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
            kind if kind.is_about_bytes() => Self::File(error),
            _ => Self::All(error),
        }
    }

    /// From an error of writing to the target.
    fn write(error: Error) -> Self {
        match error.kind() {
            Kind::NoSpace => Self::All(error.hint("free some room there, and run it again")),
            kind if kind.is_retryable() => Self::All(error),
            _ => Self::File(error),
        }
    }
}

impl App {
    /// Writes the selected files of an import to `dir/<its name>[/…]`. Existing files with other bytes are
    /// left alone, except with [`ExportOrder::overwrite`]. Files that could not be written are in the
    /// summary; all others are complete.
    ///
    /// # Errors
    /// Only errors that end the export: `NoSpace`, `Cancelled`, a storage that does not answer, a
    /// target that is not a folder.
    pub async fn export(
        &self,
        needle: &str,
        dir: &Path,
        order: ExportOrder,
        progress: ProgressFn,
        cancel: CancellationToken,
    ) -> Result<ExportSummary> {
        let row = self.catalog.find(needle)?;
        let all = self.files_of(&row)?;
        let files: Vec<_> = files_wanted(&all, row.selected.as_deref()).collect();
        let target = Target::open(dir, &all.iter().map(file_row).collect::<Vec<_>>()).await?;
        let reader = self.open_checked(&row).await?;
        let total = files.iter().map(|file| len(file)).sum();
        let mut export = Export {
            reader,
            target,
            order,
            cancel,
            progress: Box::new(move |done| progress(done, total)),
            done: 0,
            folders: BTreeSet::new(),
            summary: ExportSummary::default(),
        };
        export.summary.renamed = export.target.renamed_paths().map(str::to_owned).collect();
        for file in files {
            export.file(file).await?;
        }
        export.folders.iter().try_for_each(|dir| part::sync_folder(dir))?;
        Ok(export.summary)
    }
}

fn len(file: &File) -> u64 {
    file.range.end - file.range.start
}

/// A running export.
struct Export {
    reader: Checked,
    target: Target,
    order: ExportOrder,
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
    async fn file(&mut self, file: &File) -> Result<()> {
        let begun = self.done;
        let exported = match &file.symlink {
            Some(to) => self.link(file, to),
            None => self.bytes(file).await,
        };
        self.done = begun + len(file);
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
                if self.summary.failures.len() < TOLD {
                    self.summary.failures.push(error);
                }
                Ok(())
            }
        }
    }

    async fn bytes(&mut self, file: &File) -> Result<(), Failure> {
        let path = self.target.path(&file.path).map_err(Failure::File)?;
        let found = self.target.look(&path).map_err(Failure::write)?;
        match found {
            Was::Nothing | Was::Link => {}
            Was::File(there) if !self.order.overwrite => {
                let mut stream = ReadStream::new(self.reader.clone(), file.range.clone());
                let same = is_file_of(&there, len(file))
                    && self.uncancelled(same_bytes(&mut stream, &path)).await?;
                if !same {
                    return Err(Failure::File(in_the_way(&path, "another file")));
                }
                self.summary.already += 1;
                self.executable(file, &path);
                return Ok(());
            }
            Was::File(_) => {}
            Was::Folder => return Err(Failure::File(in_the_way(&path, "a folder"))),
        }
        let mut stream = ReadStream::new(self.reader.clone(), file.range.clone());
        let mut part = Part::create(&path, |path| self.target.has(path)).map_err(Failure::write)?;
        while let Some(bytes) =
            self.uncancelled(async { stream.next().await.map_err(Failure::read) }).await?
        {
            part.write(&bytes).map_err(Failure::write)?;
            self.done += bytes.len() as u64;
            (self.progress)(self.done);
        }
        part.finish().map_err(Failure::write)?;
        self.folders.extend(path.parent().map(Path::to_owned));
        self.executable(file, &path);
        Ok(())
    }

    /// Makes a file executable for those who may read it. A failure is only counted: some file
    /// systems have no such mode.
    fn executable(&mut self, file: &File, path: &Path) {
        if !file.executable {
            return;
        }
        if let Err(e) = part::make_executable(path) {
            tracing::debug!("{}", e.report());
            self.summary.modes += 1;
        }
    }

    fn link(&mut self, file: &File, to: &str) -> Result<(), Failure> {
        let path = self.target.path(&file.path).map_err(Failure::File)?;
        let to = self.target.relative(&file.path, to).map_err(Failure::File)?;
        match self.target.look(&path).map_err(Failure::write)? {
            Was::Link if std::fs::read_link(&path).is_ok_and(|there| there == to) => {
                self.summary.already += 1;
                return Ok(());
            }
            Was::File(_) if !self.order.overwrite => {
                return Err(Failure::File(in_the_way(&path, "another file")));
            }
            Was::Folder => return Err(Failure::File(in_the_way(&path, "a folder"))),
            Was::Nothing | Was::Link | Was::File(_) => {}
        }
        target::make_link(&to, &path).map_err(Failure::write)
    }

    async fn uncancelled<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            () = self.cancel.cancelled() => {
                Err(Failure::All(Error::new(Kind::Cancelled, "stopped")
                    .hint("run the same command again to go on from there")))
            }
            done = work => done,
        }
    }
}

fn in_the_way(path: &Path, what: &str) -> Error {
    let text = format!("{} is there already, {what}", path.display());
    let hint = match what {
        "a folder" => "move it away",
        _ => "give --overwrite to put the import's in its place, or export to another folder",
    };
    Error::new(Kind::AlreadyExists, text).hint(hint)
}
