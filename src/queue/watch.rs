//! Watch folders: files that appear in a category's folder are added to the queue.
//!
//! `.torrent` files are torrents, `.magnet` files a link, `.txt` files a list of URLs, links and hashes. A file that was
//! added gets the ending `.added`, one that is not usable `.invalid`; so nothing is added twice, and nothing is lost.
//! Folders are read every few seconds: that also works on network drives. A file is taken when its length did not change
//! between two reads.

use std::{
    collections::HashMap,
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Queue,
    add::{NewDownload, NewSource},
    download::Settings,
};
use crate::error::{Error, Kind, Result};

/// Time between two reads of the folders.
const INTERVAL: Duration = Duration::from_secs(2);
/// Largest torrent file.
const MAX_FILE: u64 = 64 << 20;
/// Largest list of URLs.
const MAX_LIST: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Torrent,
    List,
}

impl Queue {
    /// Watches the folders of all categories of the config file.
    pub(super) async fn watch_folders(&self) {
        let folders: Vec<(String, PathBuf)> = self
            .categories()
            .into_iter()
            .filter_map(|(name, category)| Some((name, category.watch?)))
            .collect();
        if folders.is_empty() {
            return;
        }
        let mut seen = HashMap::new();
        let mut unreadable = HashMap::new();
        loop {
            for (category, folder) in &folders {
                match self.look_into(category, folder, &mut seen).await {
                    Ok(()) => drop(unreadable.remove(folder)),
                    Err(e) => {
                        if unreadable.insert(folder.clone(), ()).is_none() {
                            tracing::warn!("watch folder of {category:?}: {}", e.report());
                        }
                    }
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    async fn look_into(
        &self,
        category: &str,
        folder: &Path,
        seen: &mut HashMap<PathBuf, u64>,
    ) -> Result<()> {
        let path = folder.to_owned();
        let found = tokio::task::spawn_blocking(move || list(&path)).await;
        let found = found.map_err(|e| Error::new(Kind::Internal, "a folder").because(e))?;
        let found = found.map_err(|e| Error::io(folder.display().to_string(), e))?;
        seen.retain(|path, _| !path.starts_with(folder) || found.iter().any(|f| f.0 == *path));
        for (path, len, form) in found {
            if seen.insert(path.clone(), len) != Some(len) {
                continue;
            }
            let ending = match self.add_file(category, &path, len, form).await {
                Ok(()) => "added",
                // The file is not the reason: it stays, and is read again.
                Err(e) if e.kind().is_retryable() || e.kind() == Kind::NoSpace => {
                    tracing::warn!("watched file {}: {}", path.display(), e.report());
                    continue;
                }
                Err(e) => {
                    tracing::warn!("watched file {}: {}", path.display(), e.report());
                    "invalid"
                }
            };
            seen.remove(&path);
            if let Err(e) = fs::rename(&path, with_ending(&path, ending)) {
                tracing::warn!("watched file {}: it cannot be renamed: {e}", path.display());
                // It would be added again and again.
                return Err(Error::io(folder.display().to_string(), e));
            }
        }
        Ok(())
    }

    async fn add_file(&self, category: &str, path: &Path, len: u64, form: Form) -> Result<()> {
        let limit = if form == Form::Torrent { MAX_FILE } else { MAX_LIST };
        if len > limit {
            return Err(Error::new(Kind::InvalidInput, format!("the file has {len} bytes")));
        }
        let file = path.to_owned();
        let bytes = tokio::task::spawn_blocking(move || read(&file, limit)).await;
        let bytes = bytes.map_err(|e| Error::new(Kind::Internal, "a file").because(e))?;
        let bytes = bytes.map_err(|e| Error::io("cannot read it", e))?;
        let settings = Settings { category: Some(category.to_owned()), ..Settings::default() };
        if form == Form::Torrent {
            let source = NewSource::Torrent(bytes);
            return self
                .add(NewDownload { source, settings, ..NewDownload::default() })
                .await
                .map(drop);
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::new(Kind::InvalidInput, "the list is not UTF-8"))?;
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut first_failure = None;
        for line in lines {
            let new = NewDownload { settings: settings.clone(), ..NewDownload::link(line) };
            if let Err(e) = self.add(new).await {
                first_failure.get_or_insert(e);
            }
        }
        first_failure.map_or(Ok(()), Err)
    }
}

/// The files of a folder that may be added. Links are left out: the owner of the folder decides what is read.
fn list(folder: &Path) -> io::Result<Vec<(PathBuf, u64, Form)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let form = match ending.to_ascii_lowercase().as_str() {
            "torrent" => Form::Torrent,
            "magnet" | "txt" => Form::List,
            _ => continue,
        };
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() && metadata.len() > 0 {
            found.push((path, metadata.len(), form));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_with_known_endings_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.torrent", "b.TXT", "c.magnet", "d.torrent.added", "e.part", "empty.txt"] {
            let text = if name == "empty.txt" { "" } else { "x" };
            fs::write(dir.path().join(name), text).unwrap();
        }
        fs::create_dir(dir.path().join("dir.torrent")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link.txt")).unwrap();
        let found = list(dir.path()).unwrap();
        let names: Vec<_> =
            found.iter().map(|f| f.0.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.torrent", "b.TXT", "c.magnet"]);
        assert_eq!(with_ending(Path::new("/x/a.txt"), "added"), Path::new("/x/a.txt.added"));
    }
}
