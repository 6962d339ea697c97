//! Settings of a run: flags, environment and one TOML config file, resolved once at the start.
//!
//! A setting comes from the first of these that has it: the flag, its environment variable `BAE_*` (the argument parser
//! joins these two into [`Overrides`]), the config file, the default. Storage profiles have no flags: their keys come
//! from `BAE_STORAGE_<NAME>_<KEY>`, then from `[storage.NAME]` in the file. A profile is parsed only when it is
//! requested ([`Config::storage`]), so that a mistake in one does not block the others.
//!
//! Rejected are unknown keys (a typing error would otherwise be ignored silently), relative paths in the file (they
//! have no defined base), and secrets in URLs.

mod api;
mod aws;
mod drive_vars;
mod env;
mod feeds;
mod file;
mod ipfs;
mod list;
mod network;
pub mod prices;
mod profile;
mod proxies;
mod queue;
mod secret;
mod secrets_file;
mod seeding;
mod settings;
mod title_pattern;
mod url;
mod write;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

#[cfg(feature = "cli")]
pub(crate) use self::file::parse_rate;
pub use self::{
    api::{ApiOptions, DEFAULT_LISTEN, Dialects, parse_listen},
    env::Env,
    feeds::{FeedOptions, FeedRules, check_url as check_feed_url},
    ipfs::{BlockFormat, IpfsOptions},
    list::StorageInfo,
    network::{
        Encryption, NetworkOptions, Proxy, SessionOptions, TorrentOptions, check_listen,
        check_peer_id_prefix,
    },
    profile::{DriveProfile, Profile, ProfileKind, S3Profile},
    proxies::EnvProxies,
    queue::{ActiveLimits, Category, Hooks, QueueOptions, ScheduleEntry, check_category_name},
    secret::Secret,
    seeding::{CloudBudget, SeedGoal, SeedOptions, check_ratio},
    title_pattern::TitlePattern,
    write::NewStorage,
};
use self::{aws::AwsEndpoint, file::ConfigFile, settings::ProfileSettings};
use crate::{
    error::{Error, Kind, Result},
    hints::{Operation, Setting, hint},
    units::{ByteSize, GIB, MIB},
};

/// Default memory budget.
pub const DEFAULT_MEMORY: ByteSize = ByteSize(128 * MIB);
/// Smallest memory budget that works: two 16 MiB pieces, one being received while the other is stored.
pub const MIN_MEMORY: ByteSize = ByteSize(32 * MIB);

/// Default capacity of the cache folder.
pub const DEFAULT_CACHE: ByteSize = ByteSize(10 * GIB);

/// Settings from flags and environment variables. All are optional, and all override the config file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub data_dir: Option<PathBuf>,
    /// A config file named here must exist; the default one need not.
    pub config: Option<PathBuf>,
    /// The command creates the config file, so that even a named one need not exist.
    pub creates_config: bool,
    pub memory: Option<ByteSize>,
    /// Folder of the on-disk read cache.
    pub cache_dir: Option<PathBuf>,
    /// Maximum bytes in the cache folder.
    pub cache_size: Option<ByteSize>,
    /// Download limit in bytes per second, from peers and servers; 0 removes the file's limit.
    pub limit_rate: Option<u64>,
    /// Zero removes the file's timeout.
    pub timeout: Option<Duration>,
    /// An access token for Google Drive that needs no sign-in.
    pub drive_token: Option<Secret>,
    /// Folder id of the storage `drive`.
    pub drive_folder: Option<String>,
}

/// The resolved settings of one run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of the catalog and of the default storage's objects. Absolute; not created here.
    pub data_dir: PathBuf,
    /// Maximum payload bytes held in memory, over all imports.
    pub memory: ByteSize,
    /// Folder of the on-disk read cache, if one is configured. Absolute.
    pub cache_dir: Option<PathBuf>,
    /// Maximum bytes in the cache folder.
    pub cache_size: ByteSize,
    /// Download limit in bytes per second, from peers and servers.
    pub limit_rate: Option<u64>,
    /// Upload limit in bytes per second, to peers.
    pub upload_limit: Option<u64>,
    /// Give up after this time without data.
    pub timeout: Option<Duration>,
    /// Base for the network flags; includes the two limits above.
    pub network: NetworkOptions,
    /// Base for the seeding flags.
    pub seeding: SeedOptions,
    /// Base for the flags of IPFS.
    pub ipfs: IpfsOptions,
    /// The daemon's network interface.
    pub api: ApiOptions,
    pub queue: QueueOptions,
    /// By name.
    pub feeds: BTreeMap<String, FeedOptions>,
    /// Path of the config file, which may not exist; `None` without a home folder.
    path: Option<PathBuf>,
    profiles: BTreeMap<String, ProfileSettings>,
    /// Profiles of the embedding program. They take precedence.
    embedded: BTreeMap<String, Profile>,
    aws: AwsEndpoint,
    /// The storage used without `--storage`.
    default_storage: String,
    /// Settings from `BAE_DRIVE_*` and the corresponding flags.
    drive: ProfileSettings,
    /// Path of the secrets file; `None` without a config folder.
    secrets_file_path: Option<PathBuf>,
}

impl Config {
    /// Reads the config file and applies `overrides` and the storage variables of `env` over it.
    ///
    /// # Errors
    /// `NotFound` when the file named by `overrides` does not exist; `InvalidInput`, with file and line or the
    /// variable's name, when a setting is not valid.
    pub fn load(overrides: Overrides, env: &Env) -> Result<Self> {
        let default = || Some(env.config_home()?.join("bae/config.toml"));
        let given = overrides.config.as_ref().map(|path| env.absolute_from_cwd(path)).transpose();
        let path = given.map_err(|e| e.with_context("config file"))?.or_else(default);
        let must_exist = overrides.config.is_some() && !overrides.creates_config;
        let mut file = match &path {
            Some(path) if must_exist => ConfigFile::read(path)?,
            Some(path) => ConfigFile::read_if_exists(path)?,
            None => ConfigFile::default(),
        };
        let secrets_file_path =
            path.as_ref().map(|path| path.with_file_name(secrets_file::FILE_NAME));
        if let Some(path) = &secrets_file_path {
            secrets_file::apply_to(&mut file.profiles, path)?;
        }
        Ok(Self { path, secrets_file_path, ..Self::resolve(file, overrides, env)? })
    }

    /// The settings of a program that embeds bae: no config file and no environment variable is read.
    ///
    /// # Errors
    /// `InvalidInput` without a data folder, or when a setting is not valid.
    pub fn embedded(overrides: Overrides) -> Result<Self> {
        let absolute = |dir: PathBuf| std::path::absolute(dir);
        let data_dir = overrides.data_dir.map(absolute).transpose();
        let data_dir = data_dir.map_err(|e| Error::io("data folder", e))?;
        let overrides = Overrides { data_dir, ..overrides };
        Self::resolve(ConfigFile::default(), overrides, &Env::default())
    }

    /// Adds a storage. It replaces one of the same name.
    pub fn embed_storage(&mut self, profile: Profile) {
        self.embedded.insert(profile.canonical_name(), profile);
    }

    /// Saves a secret of a profile for later runs, in a file that only its owner can read. Returns the file's path.
    ///
    /// # Errors
    /// When the file cannot be written, or there is no config folder.
    pub fn save_secret(&self, profile: &str, key: &str, secret: &Secret) -> Result<PathBuf> {
        let path = self.secrets_file_path.as_ref().ok_or_else(|| {
            Error::new(
                Kind::InvalidInput,
                "no config folder: neither HOME nor XDG_CONFIG_HOME is set",
            )
            .hint(hint!["give a config file with ", Setting::ConfigFile])
        })?;
        secrets_file::save(path, profile, key, secret)?;
        Ok(path.clone())
    }

    fn resolve(mut file: ConfigFile, overrides: Overrides, env: &Env) -> Result<Self> {
        let memory = overrides.memory.or(file.memory).unwrap_or(DEFAULT_MEMORY);
        if memory < MIN_MEMORY {
            return Err(Error::new(
                Kind::InvalidInput,
                format!("memory of {memory} is below the minimum of {MIN_MEMORY}"),
            ));
        }
        let mut network = file.network.resolve()?;
        let session = &mut network.session;
        session.limit_rate = overrides.limit_rate.or(session.limit_rate).or(file.limit_rate);
        session.limit_rate = session.limit_rate.filter(|rate| *rate > 0);
        session.upload_limit = session.upload_limit.or(file.upload_limit).filter(|rate| *rate > 0);

        let api = file.api.resolve(env).map_err(|e| e.with_context("[api] in the config file"))?;
        let (queue, categories, hooks) = (file.queue, file.categories, file.hooks);
        let queue = queue.resolve(categories, hooks, api.export_root.as_deref(), env)?;
        let feeds = feeds::resolve(std::mem::take(&mut file.feeds), api.private_hosts)?;
        let drive = drive_vars::read(&overrides, env);
        let mut profiles = std::mem::take(&mut file.profiles);
        env.add_profiles(&mut profiles)?;
        // A profile that is only in the secrets file has been removed from the config.
        profiles.retain(|_, settings| !settings.is_only_from(secrets_file::FILE_NAME));
        Ok(Self {
            data_dir: data_dir(overrides.data_dir, file.data_dir.as_deref(), env)?,
            memory,
            cache_dir: cache_dir(overrides.cache_dir, file.cache_dir.as_deref(), env)?,
            cache_size: overrides.cache_size.or(file.cache_size).unwrap_or(DEFAULT_CACHE),
            limit_rate: network.session.limit_rate,
            upload_limit: network.session.upload_limit,
            timeout: overrides.timeout.or(file.timeout).filter(|t| !t.is_zero()),
            network,
            seeding: file.seeding.resolve()?,
            ipfs: file.ipfs.resolve(env),
            api,
            queue,
            feeds,
            path: None,
            profiles,
            embedded: BTreeMap::new(),
            aws: AwsEndpoint::of(env),
            default_storage: env.get("BAE_STORAGE").unwrap_or("file").to_owned(),
            drive,
            secrets_file_path: None,
        })
    }

    /// Resolves the value of `--storage`: a profile's name, a URL, or `file`, `s3`, `drive` for the default of a type.
    ///
    /// # Errors
    /// `NotFound` when there is no such profile (the hint lists the existing names); `InvalidInput` when its keys or
    /// the URL are not valid, or when the URL contains a secret.
    pub fn storage(&self, name_or_url: &str) -> Result<Profile> {
        let mut profile = self.configured_storage(name_or_url)?;
        if let ProfileKind::Drive(drive) = &mut profile.kind {
            drive_vars::fill_credentials(drive, &self.drive, self.profiles.iter())?;
        }
        Ok(profile)
    }

    fn configured_storage(&self, name_or_url: &str) -> Result<Profile> {
        if let Some(profile) = self.embedded.get(name_or_url) {
            return Ok(profile.clone());
        }
        if name_or_url.contains(':') {
            return Profile::from_url(name_or_url, &self.aws);
        }
        if let Some(settings) = self.profiles.get(name_or_url) {
            return self.profile(name_or_url, settings);
        }
        match name_or_url {
            "file" => Ok(Profile::local("file", self.data_dir.join("objects"))),
            "drive" if !self.profiles.values().any(|s| s.text("type") == Some("drive")) => {
                match drive_vars::profile(&self.drive)? {
                    Some(profile) => Ok(profile),
                    None => self.only_profile_of(name_or_url),
                }
            }
            "s3" | "drive" => self.only_profile_of(name_or_url),
            _ => Err(self.unknown_storage(name_or_url)),
        }
    }

    /// The storage used where none is named.
    #[must_use]
    pub fn default_storage(&self) -> &str {
        &self.default_storage
    }

    /// The names that `--storage` accepts: `file` and all profiles.
    #[must_use]
    pub fn storage_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.profiles.keys().chain(self.embedded.keys()).map(String::as_str).collect();
        if !names.contains(&"file") {
            names.insert(0, "file");
        }
        names
    }

    fn profile(&self, name: &str, settings: &ProfileSettings) -> Result<Profile> {
        let mut settings = settings.clone();
        if settings.text("type").or_else(|| profile::type_from_name(name)) == Some("s3") {
            self.aws.fill_endpoint(&mut settings);
        }
        Profile::from_settings(name, settings)
    }

    fn only_profile_of(&self, kind: &str) -> Result<Profile> {
        let of_kind = |settings: &ProfileSettings| settings.text("type") == Some(kind);
        let found: Vec<_> = self.profiles.iter().filter(|(_, s)| of_kind(s)).collect();
        match found.as_slice() {
            [(name, settings)] => self.profile(name, settings),
            [] => {
                let text = format!("no storage of type {kind:?} is configured");
                Err(Error::new(Kind::NotFound, text).hint(match kind {
                    "s3" => hint![
                        "add one with ",
                        Operation::AddStorage.on("NAME s3://BUCKET"),
                        ", or set BAE_STORAGE_S3_BUCKET",
                    ],
                    _ => hint![
                        "add one with ",
                        Operation::AddStorage.on("NAME drive://FOLDER_ID"),
                        " and ",
                        Operation::StorageLogin.on("NAME"),
                        ", or set BAE_DRIVE_TOKEN",
                    ],
                }))
            }
            several => {
                let names: Vec<_> = several.iter().map(|(name, _)| name.as_str()).collect();
                Err(Error::new(
                    Kind::InvalidInput,
                    format!("several storages have the type {kind:?}"),
                )
                .hint(format!("choose one by name: {}", names.join(", "))))
            }
        }
    }

    fn unknown_storage(&self, name: &str) -> Error {
        let mut hint = format!("storages: {}", self.storage_names().join(", "));
        if name.contains('/') {
            hint.push_str("; write a folder as file:///absolute/path");
        }
        Error::new(Kind::NotFound, format!("unknown storage {name:?}")).hint(hint)
    }
}

fn data_dir(given: Option<PathBuf>, in_file: Option<&Path>, env: &Env) -> Result<PathBuf> {
    if let Some(dir) = given {
        return env.absolute_from_cwd(&dir).map_err(|e| e.with_context("data folder"));
    }
    if let Some(dir) = in_file {
        return env.absolute(dir).map_err(|e| e.with_context("data_dir in the config file"));
    }
    env.data_home().map(|home| home.join("bae")).ok_or_else(|| {
        Error::new(Kind::InvalidInput, "no data folder: neither HOME nor XDG_DATA_HOME is set")
            .hint(hint!["set one with ", Setting::DataDir])
    })
}

fn cache_dir(given: Option<PathBuf>, in_file: Option<&Path>, env: &Env) -> Result<Option<PathBuf>> {
    if let Some(dir) = given {
        return env.absolute_from_cwd(&dir).map(Some).map_err(|e| e.with_context("cache folder"));
    }
    let absolute = in_file.map(|dir| env.absolute(dir)).transpose();
    absolute.map_err(|e| e.with_context("cache_dir in the config file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: (&str, &str) = ("HOME", "/home/u");

    fn load(toml: &str, overrides: Overrides, env: &[(&str, &str)]) -> Result<Config> {
        let env: Env = env.iter().copied().collect();
        let file = ConfigFile::parse(toml, Path::new("/etc/c.toml"))?;
        Config::resolve(file, overrides, &env)
    }

    #[test]
    fn defaults_apply_without_settings() {
        let config = load("", Overrides::default(), &[HOME]).unwrap();
        assert_eq!(config.data_dir, Path::new("/home/u/.local/share/bae"));
        assert_eq!(config.memory, DEFAULT_MEMORY);
        assert_eq!((config.limit_rate, config.timeout), (None, None));
        assert!(config.network.session.dht && !config.network.session.upnp);
        let file = config.storage("file").unwrap();
        assert_eq!(file.folder(), Path::new("/home/u/.local/share/bae/objects"));
        assert_eq!((file.chunk, file.canonical_name().as_str()), (16 * MIB, "file"));
    }

    #[test]
    fn overrides_take_precedence_over_the_file_and_the_file_over_defaults() {
        let toml = "memory = '64M'\nlimit_rate = 1000\ntimeout = '30s'\ndata_dir = '~/d'\n[network]\ndht = false";
        let file_only = load(toml, Overrides::default(), &[HOME]).unwrap();
        assert_eq!(file_only.memory.0, 64 * MIB);
        assert_eq!(file_only.limit_rate, Some(1000));
        assert_eq!(file_only.network.session.limit_rate, Some(1000));
        assert_eq!(file_only.timeout, Some(Duration::from_secs(30)));
        assert_eq!(file_only.data_dir, Path::new("/home/u/d"));
        assert!(!file_only.network.session.dht);

        let overrides = Overrides {
            memory: Some(ByteSize(48 * MIB)),
            limit_rate: Some(0),
            timeout: Some(Duration::ZERO),
            data_dir: Some("/x".into()),
            ..Overrides::default()
        };
        let over = load(toml, overrides, &[HOME, ("XDG_DATA_HOME", "/xdg")]).unwrap();
        assert_eq!(over.memory.0, 48 * MIB);
        assert_eq!((over.limit_rate, over.timeout), (None, None));
        assert_eq!(over.data_dir, Path::new("/x"));
    }

    #[test]
    fn xdg_folders_take_precedence_over_home_and_relative_ones_are_ignored() {
        let env = [HOME, ("XDG_DATA_HOME", "/xdg")];
        let config = load("", Overrides::default(), &env).unwrap();
        assert_eq!(config.data_dir, Path::new("/xdg/bae"));
        let env = [HOME, ("XDG_DATA_HOME", "xdg")];
        let config = load("", Overrides::default(), &env).unwrap();
        assert_eq!(config.data_dir, Path::new("/home/u/.local/share/bae"));
        assert_eq!(load("", Overrides::default(), &[]).unwrap_err().kind(), Kind::InvalidInput);
    }

    #[test]
    fn a_memory_budget_below_the_minimum_is_rejected() {
        let e = load("memory = '16MiB'", Overrides::default(), &[HOME]).unwrap_err();
        assert_eq!(e.kind(), Kind::InvalidInput);
        assert_eq!(e.report(), "memory of 16 MiB is below the minimum of 32 MiB");
    }

    #[test]
    fn variables_override_a_profile_in_the_file_and_can_define_one() {
        let toml = "[storage.my-music]\ntype = 'local'\npath = '/a'\nchunk = '4MiB'";
        let env = [
            HOME,
            ("BAE_STORAGE", "my-music"),
            ("BAE_STORAGE_MY_MUSIC_PATH", "/b"),
            ("BAE_STORAGE_NAS_TYPE", "local"),
            ("BAE_STORAGE_NAS_PATH", "/nas"),
        ];
        let config = load(toml, Overrides::default(), &env).unwrap();
        let music = config.storage("my-music").unwrap();
        assert_eq!(music.folder(), Path::new("/b"));
        assert_eq!(music.chunk, 4 * MIB);
        assert_eq!(config.storage("nas").unwrap().folder(), Path::new("/nas"));
        assert_eq!(config.storage_names(), ["file", "my-music", "nas"]);
    }

    #[test]
    fn an_unknown_storage_is_not_found_and_the_hint_lists_the_storages() {
        let toml = "[storage.music]\ntype = 'local'\npath = '/a'";
        let config = load(toml, Overrides::default(), &[HOME]).unwrap();
        let e = config.storage("musik").unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
        assert_eq!(e.hint_text().as_deref(), Some("storages: file, music"));
        assert!(config.storage("/srv/x").unwrap_err().hint_text().unwrap().contains("file:///"));
    }

    #[test]
    fn a_type_name_selects_the_only_profile_of_that_type() {
        let toml = "[storage.cloud]\ntype = 's3'\nbucket = 'b'";
        let config = load(toml, Overrides::default(), &[HOME]).unwrap();
        let s3 = config.storage("s3").unwrap();
        assert_eq!(s3.canonical_name(), "cloud");
        let none = config.storage("drive").unwrap_err();
        assert_eq!(none.kind(), Kind::NotFound);
        assert!(none.typed_hint().unwrap().names_operation(Operation::AddStorage));
    }

    #[test]
    fn the_environment_alone_defines_an_s3_storage() {
        let env = [
            HOME,
            ("BAE_STORAGE_S3_BUCKET", "music"),
            ("AWS_ENDPOINT_URL", "http://all"),
            ("AWS_ENDPOINT_URL_S3", "http://s3"),
        ];
        let config = load("", Overrides::default(), &env).unwrap();
        let storage = config.storage("s3").unwrap();
        assert_eq!(
            (storage.canonical_name().as_str(), storage.location().as_str()),
            ("s3", "s3://music?endpoint=http://s3/")
        );
        let toml = "[storage.c]\ntype='s3'\nbucket='b'\nendpoint='http://mine'";
        let config = load(toml, Overrides::default(), &env).unwrap();
        let ProfileKind::S3(s3) = config.storage("c").unwrap().kind else { panic!("not s3") };
        assert_eq!(s3.endpoint.unwrap().as_str(), "http://mine/");
        let bad = [HOME, ("BAE_STORAGE_S3_BUCKET", "b"), ("AWS_ENDPOINT_URL", "nonsense")];
        let config = load("", Overrides::default(), &bad).unwrap();
        assert!(config.storage("s3").unwrap_err().report().contains("(AWS_ENDPOINT_URL)"));
    }

    #[test]
    fn a_drive_url_gets_credentials_from_variables_or_from_the_profile_of_its_folder() {
        let drive = |config: &Config, name: &str| match config.storage(name).unwrap() {
            Profile { kind: ProfileKind::Drive(drive), .. } => drive,
            other => panic!("{other:?}"),
        };
        let toml = "[storage.d]\ntype = 'drive'\nfolder = 'F'\ntoken = 't'";
        let config = load(toml, Overrides::default(), &[HOME]).unwrap();
        assert_eq!(drive(&config, "drive://F").token, Some(Secret::Text("t".into())));
        assert_eq!(drive(&config, "drive://G").token, None);

        let env = [HOME, ("BAE_DRIVE_TOKEN", "env"), ("BAE_DRIVE_FOLDER", "G")];
        let config = load("", Overrides::default(), &env).unwrap();
        assert_eq!(drive(&config, "drive://F").token, Some(Secret::Text("env".into())));
        let by_type = config.storage("drive").unwrap();
        assert_eq!(by_type.canonical_name(), "drive://G");
        let flags =
            Overrides { drive_token: Some(Secret::Text("hunter2".into())), ..Overrides::default() };
        let config = load("", flags, &[HOME, ("BAE_DRIVE_TOKEN", "env")]).unwrap();
        assert_eq!(config.storage("drive").unwrap().canonical_name(), "drive");
        assert_eq!(drive(&config, "drive").token, Some(Secret::Text("hunter2".into())));
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn a_storage_of_the_embedding_program_needs_no_file_and_no_environment() {
        let overrides = Overrides { data_dir: Some("/data".into()), ..Overrides::default() };
        let mut config = Config::embedded(overrides).unwrap();
        let s3 = S3Profile { bucket: "b".into(), ..S3Profile::default() };
        config.embed_storage(Profile::new("m", ProfileKind::S3(Box::new(s3))));
        assert_eq!(config.storage("m").unwrap().location(), "s3://b");
        assert_eq!(config.storage("file").unwrap().folder(), Path::new("/data/objects"));
        assert_eq!(config.storage_names(), ["file", "m"]);
        let drive = Profile::new("d", ProfileKind::Drive(Box::default()));
        assert_eq!(drive.chunk, 32 * MIB);
    }

    #[test]
    fn debug_of_a_config_shows_no_secret() {
        let toml = "[network]\nproxy = 'socks5://u:hunter2@h:1'\n\
                    [storage.c]\ntype='s3'\nbucket='b'\nsecret_access_key='hunter2'";
        let config = load(toml, Overrides::default(), &[HOME]).unwrap();
        let shown = format!("{config:?} {:?}", config.storage("c").unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
