//! What other programs use: [`Bae`] opens a data folder and starts imports; [`Engine`] has all other operations.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    backends::StorageBackend,
    catalog::LayoutKind,
    config::{Config, Overrides, Profile, ProfileKind, SeedOptions, SessionOptions},
    engine::{
        Access, DownloadOptions, Engine, EngineOptions, FileReader, ImportHandle, ImportInfo,
        ImportRequest, ImportSummary, Streams,
    },
    error::Result,
    events::EventLog,
    protocols::{CustomProtocols, FetchOptions, Protocol},
    units::ByteSize,
};

/// An open data folder with everything that runs in it: one torrent session, the storages, and the imports.
///
/// Clones share it. Dropping all of them loses nothing that is durable; [`Bae::close`] also stores what is verified,
/// and says goodbye to trackers.
///
/// ```no_run
/// # async fn example() -> bae::Result<()> {
/// use bae::{Bae, Profile, ProfileKind, S3Profile};
///
/// let bucket = S3Profile { bucket: "music".into(), ..S3Profile::default() };
/// let storage = Profile::new("m", ProfileKind::S3(Box::new(bucket)));
/// let bae = Bae::builder("/var/lib/player").memory(128 << 20).storage(storage).open().await?;
///
/// let import = bae.import("album.torrent").storage("m").files().start().await?;
/// let imported = import.wait().await?;
/// println!("{} files of {} are in the bucket", imported.files, imported.name);
/// bae.close().await
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Bae {
    engine: Engine,
    /// Imports whose files were opened, and those that are being filled.
    streams: Streams,
    protocols: CustomProtocols,
}

impl Bae {
    /// Settings for opening `data_dir`, which holds the catalog, and the objects of the storage `file`. No config file
    /// and no environment variable is read.
    pub fn builder(data_dir: impl Into<PathBuf>) -> Builder {
        Builder {
            data_dir: data_dir.into(),
            memory: None,
            limit_rate: None,
            session: SessionOptions::default(),
            storages: Vec::new(),
            backends: Vec::new(),
            protocols: Vec::new(),
        }
    }

    /// An import of a torrent file's path or URL, a magnet link, or the URL of a file or folder, into the storage
    /// `file` unless another is set.
    pub fn import(&self, source: impl Into<String>) -> ImportBuilder<'_> {
        let fetch = FetchOptions { custom: self.protocols.clone(), ..FetchOptions::default() };
        let download = DownloadOptions { fetch, ..DownloadOptions::default() };
        let request = ImportRequest::new(source, "file").streams(self.streams.clone());
        ImportBuilder { bae: self, request: ImportRequest { download, ..request } }
    }

    /// Opens a file of an import for reading from any position. `import` is an id, a unique name, or a prefix of an
    /// info-hash; `path` is the file's path in the import.
    ///
    /// While the import runs, reads wait for missing bytes, and these are requested first.
    ///
    /// # Errors
    /// `NotFound` when there is no such import or file; otherwise any error of opening its storage.
    pub async fn open(&self, import: &str, path: &str) -> Result<FileReader> {
        let opened = match self.streams.find(import) {
            Some(opened) => opened,
            None => self.engine.stream(import, &self.streams).await?,
        };
        FileReader::open(opened, path)
    }

    /// All imports, oldest first.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn list(&self) -> Result<Vec<ImportSummary>> {
        self.engine.list().await
    }

    /// The details of an import, with its files.
    ///
    /// # Errors
    /// `NotFound` when there is no such import.
    pub async fn info(&self, import: &str) -> Result<ImportInfo> {
        self.engine.info(import).await
    }

    /// The events of all imports.
    #[must_use]
    pub fn events(&self) -> &EventLog {
        self.engine.events()
    }

    /// All other operations: seeding, export, removal, checks.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Stops everything that runs, within 10 s, and closes the data folder. Verified bytes are stored first.
    ///
    /// # Errors
    /// As [`Engine::close`].
    pub async fn close(self) -> Result<()> {
        self.engine.close().await
    }
}

/// Settings for opening a data folder.
#[derive(Debug)]
#[must_use]
pub struct Builder {
    data_dir: PathBuf,
    memory: Option<u64>,
    limit_rate: Option<u64>,
    session: SessionOptions,
    storages: Vec<Profile>,
    backends: Vec<(String, Arc<dyn StorageBackend>)>,
    protocols: Vec<(String, Arc<dyn Protocol>)>,
}

impl Builder {
    /// The most bytes of payload in memory, at least 32 MiB; 128 MiB by default.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// The most bytes per second from servers and peers together.
    pub fn limit_rate(mut self, bytes: u64) -> Self {
        self.limit_rate = Some(bytes);
        self
    }

    /// The settings of the torrent session.
    pub fn session(mut self, session: SessionOptions) -> Self {
        self.session = session;
        self
    }

    /// Adds a storage, under its name.
    pub fn storage(mut self, profile: Profile) -> Self {
        self.storages.push(profile);
        self
    }

    /// Adds a storage with a backend of this program. Its objects must be found again after a restart. The suite in
    /// the crate's own tests, `backends::conformance`, checks what [`StorageBackend`] requires.
    pub fn backend(mut self, name: &str, backend: impl StorageBackend + 'static) -> Self {
        self.storages.push(Profile::new(name, ProfileKind::Custom));
        self.backends.push((name.to_owned(), Arc::new(backend)));
        self
    }

    /// Adds a protocol of this program for the URLs of `scheme`.
    pub fn protocol(mut self, scheme: &str, protocol: impl Protocol + 'static) -> Self {
        self.protocols.push((scheme.to_owned(), Arc::new(protocol)));
        self
    }

    /// Opens the data folder, and creates it when it does not exist.
    ///
    /// # Errors
    /// `InvalidInput` when the memory is below 32 MiB; `Unavailable` when another process uses the folder;
    /// `Unsupported` when a newer bae created it; otherwise the error of the file system.
    pub async fn open(self) -> Result<Bae> {
        let mut config = Config::embedded(Overrides {
            data_dir: Some(self.data_dir),
            memory: self.memory.map(ByteSize),
            limit_rate: self.limit_rate,
            ..Overrides::default()
        })?;
        self.storages.into_iter().for_each(|profile| config.embed_storage(profile));
        let session = SessionOptions { limit_rate: config.limit_rate, ..self.session };
        let mut options = EngineOptions::new(Access::Write).session(session);
        options.backends.extend(self.backends);
        Ok(Bae {
            streams: Streams::default(),
            engine: Engine::open(config, options).await?,
            protocols: self.protocols.into_iter().collect(),
        })
    }
}

/// An import that has not started yet.
#[derive(Debug)]
#[must_use = "an import begins with `start`"]
pub struct ImportBuilder<'a> {
    bae: &'a Bae,
    request: ImportRequest,
}

impl ImportBuilder<'_> {
    /// The name or URL of the storage.
    pub fn storage(mut self, storage: impl Into<String>) -> Self {
        self.request.storage = storage.into();
        self
    }

    /// Stores each file as an object under its own name, instead of in chunks.
    pub fn files(mut self) -> Self {
        self.request.layout = LayoutKind::Files;
        self
    }

    /// Imports only these files, by number (from 1), range, or glob.
    pub fn select(mut self, files: impl Into<String>) -> Self {
        self.request.select = Some(files.into());
        self
    }

    /// Seeds the torrent after the import, until it is cancelled or a goal is reached.
    pub fn seed(mut self, options: SeedOptions) -> Self {
        (self.request.seed, self.request.seeding) = (true, options);
        self
    }

    /// Gives up when no bytes arrive for so long.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.request.timeout = Some(timeout);
        self
    }

    /// Starts the import. It runs until it ends, also when the handle is dropped.
    ///
    /// # Errors
    /// `NotFound` when there is no such storage; otherwise any error of opening it. Errors of the source are those of
    /// the handle.
    pub async fn start(self) -> Result<ImportHandle> {
        self.bae.engine.start_import(self.request).await
    }
}

#[cfg(test)]
mod tests {
    use std::io::SeekFrom;

    use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

    use super::*;
    use crate::{backends::MemoryBackend, error::Kind, events::Event};

    /// Serves one file at any URL.
    #[derive(Debug)]
    struct OneFile(&'static [u8]);

    #[async_trait::async_trait]
    impl Protocol for OneFile {
        async fn probe(&self, url: &url::Url) -> Result<crate::protocols::UrlTarget> {
            let mut file = crate::protocols::RemoteFile::from_url(url.clone());
            (file.len, file.supports_ranges) = (Some(self.0.len() as u64), true);
            Ok(crate::protocols::UrlTarget::File(file))
        }

        async fn open(
            &self,
            _: &crate::protocols::RemoteFile,
            range: crate::protocols::RangeRequest,
        ) -> Result<crate::protocols::ByteStream> {
            let end = range.end.unwrap_or(self.0.len() as u64);
            let bytes =
                &self.0[usize::try_from(range.start).unwrap()..usize::try_from(end).unwrap()];
            Ok(Box::pin(futures_util::stream::iter([Ok(bytes::Bytes::from_static(bytes))])))
        }
    }

    async fn imported(dir: &std::path::Path) -> (Bae, String) {
        let bae = Bae::builder(dir)
            .backend("own", MemoryBackend::new())
            .protocol("one", OneFile(b"0123456789"))
            .open()
            .await
            .unwrap();
        let import = bae.import("one://host/digits.txt").storage("own").start().await.unwrap();
        let id = import.wait().await.unwrap().id;
        (bae, id)
    }

    #[tokio::test]
    async fn a_program_brings_its_own_backend_and_protocol() {
        let dir = tempfile::tempdir().unwrap();
        let (bae, id) = imported(dir.path()).await;
        let listed = bae.list().await.unwrap();
        assert_eq!((listed[0].id.as_str(), listed[0].storage.as_str()), (id.as_str(), "own"));
        assert!(!dir.path().join("objects").exists(), "the bytes are in the program's backend");
        let mut events = bae.events().replay_from(1);
        let is_imported = |event: &Event| matches!(event, Event::Imported(_));
        assert!(std::iter::from_fn(|| events.try_next()).any(|e| is_imported(&e.unwrap().event)));
        bae.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_file_is_read_from_any_position() {
        let dir = tempfile::tempdir().unwrap();
        let (bae, id) = imported(dir.path()).await;
        let mut file = bae.open(&id, "digits.txt").await.unwrap();
        assert_eq!(file.len(), 10);
        let mut two = [0; 2];
        file.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"01");
        assert_eq!(file.seek(SeekFrom::Current(2)).await.unwrap(), 4);
        file.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"45");
        assert_eq!(file.seek(SeekFrom::End(-3)).await.unwrap(), 7);
        let mut rest = String::new();
        file.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "789");
        assert_eq!(file.seek(SeekFrom::Start(20)).await.unwrap(), 20);
        assert_eq!(file.read(&mut two).await.unwrap(), 0, "after the end");
        assert!(file.seek(SeekFrom::Current(-21)).await.is_err());
        assert_eq!(bae.open(&id, "other").await.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(bae.open("nothing", "digits.txt").await.unwrap_err().kind(), Kind::NotFound);
        bae.close().await.unwrap();
    }

    #[tokio::test]
    async fn too_little_memory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let opened = Bae::builder(dir.path()).memory(1 << 20).open().await;
        assert_eq!(opened.unwrap_err().kind(), Kind::InvalidInput);
    }
}
