//! `export`: an import as plain files, bit for bit. Each file appears under its name only when it is whole.

use std::{
    fs::{self, File},
    io::Write,
    path::{Component, Path, PathBuf},
};

use tokio_util::sync::CancellationToken;

use super::{App, ExportSummary, ProgressFn, ReadStream, plan::files_wanted};
use crate::{
    error::{Error, Kind, Result},
    storage::ImportReader,
    torrents::metainfo,
};

impl App {
    /// Writes the selected files of an import to `dir/<its name>[/…]`, over files of the same name.
    ///
    /// # Errors
    /// `NotFound` when bytes are not stored yet; what the file system says, naming the file.
    pub async fn export(
        &self,
        needle: &str,
        dir: &Path,
        progress: ProgressFn,
        cancel: CancellationToken,
    ) -> Result<ExportSummary> {
        let row = self.catalog.find(needle)?;
        let files = self.files_of(&row)?;
        let files: Vec<_> = files_wanted(&files, row.selected.as_deref()).collect();
        let total = files.iter().map(|f| f.range.end - f.range.start).sum();
        let reader = self.open_reader(&row).await?;
        let mut done = 0;
        for file in &files {
            let target = inside(dir, &file.path)?;
            match &file.symlink {
                Some(to) => link(&target, &file.path, to)?,
                None => {
                    let written = export_file(&reader, file, &target, &cancel, |n| {
                        done += n;
                        progress(done, total);
                    });
                    written.await?;
                }
            }
        }
        Ok(ExportSummary { files: files.len(), bytes: total })
    }
}

async fn export_file(
    reader: &ImportReader,
    file: &metainfo::File,
    target: &Path,
    cancel: &CancellationToken,
    mut progress: impl FnMut(u64),
) -> Result<()> {
    let mut stream = ReadStream::new(reader.clone(), file.range.clone());
    let mut part = Part::create(target)?;
    loop {
        let next = tokio::select! {
            () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
            next = stream.next() => next?,
        };
        let Some(bytes) = next else { break };
        part.write(&bytes)?;
        progress(bytes.len() as u64);
    }
    part.finish(file.executable)
}

/// A file on its way: written beside its place, removed again unless it is finished.
struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl Part {
    fn create(target: &Path) -> Result<Self> {
        let place = |path: &Path, e| Error::io(format!("cannot write {}", path.display()), e);
        let dir = target.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir).map_err(|e| place(dir, e))?;
        // A short name of its own: the file's may have the longest length there is.
        let path = dir.join(format!(".bae-{}.part", std::process::id()));
        let file = File::create(&path).map_err(|e| place(&path, e))?;
        Ok(Self { file, path, target: target.to_owned(), finished: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| self.trouble(e))
    }

    fn finish(mut self, executable: bool) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        if executable {
            let mode = self.file.metadata().map_err(|e| self.trouble(e))?.permissions().mode();
            // Whoever may read it may run it.
            let mode = fs::Permissions::from_mode(mode | (mode & 0o444) >> 2);
            self.file.set_permissions(mode).map_err(|e| self.trouble(e))?;
        }
        fs::rename(&self.path, &self.target).map_err(|e| self.trouble(e))?;
        self.finished = true;
        Ok(())
    }

    fn trouble(&self, e: std::io::Error) -> Error {
        Error::io(format!("cannot write {}", self.target.display()), e)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.finished {
            // What is left of it is a dot file that the next export writes over.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// `path` below `dir`. The torrent's paths were checked when it came; this holds whatever the catalog says.
fn inside(dir: &Path, path: &str) -> Result<PathBuf> {
    let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if !plain || path.is_empty() {
        return Err(Error::new(Kind::Corrupt, format!("file name {path:?} leaves the target")));
    }
    Ok(dir.join(path))
}

/// A symbolic link of the torrent, relative so that the exported folder can be moved.
fn link(target: &Path, path: &str, to: &str) -> Result<()> {
    let place = |e| Error::io(format!("cannot link {}", target.display()), e);
    inside(Path::new(""), to)?;
    let depth = path.split('/').count() - 1;
    let relative: PathBuf = std::iter::repeat_n("..", depth).collect::<PathBuf>().join(to);
    if let Some(dir) = target.parent() {
        fs::create_dir_all(dir).map_err(place)?;
    }
    match fs::remove_file(target) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(place(e)),
        _ => {}
    }
    std::os::unix::fs::symlink(relative, target).map_err(place)
}
