//! SFTP: files over SSH, `sftp://user@host/path`.
//!
//! A [`ConnectionPool`] keeps a few connections for each server and user; the first one is opened for the first
//! request. To open a range, the file is opened on the server and compared with the probed version. [`SftpStream`] then
//! keeps many reads in flight, so that a long round trip does not limit the rate.
//!
//! [`address`] parses URLs and adds the settings of the host from [`user_config`]. [`known_hosts`] and [`host_key`]
//! verify the server. [`login`] logs in, with the keys of [`identity`]. [`packet`] and [`client`] are SFTP itself, on
//! an SSH channel. [`connection`] sends all requests, and [`connection_pool`] has several connections. [`body`] streams
//! a range, and [`folder`] lists folders.
//!
//! What it refuses: a server whose key is unknown, unless its fingerprint is given, and always a server whose key has
//! changed. From the settings of OpenSSH only the location of a host and the login are read, and its programs are not
//! run.

mod address;
mod body;
mod client;
mod connection;
mod connection_pool;
mod errors;
mod folder;
mod host_key;
mod identity;
mod known_hosts;
mod login;
mod packet;
mod user_config;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::stream;
use parking_lot::Mutex;
use url::Url;

use self::{
    address::SftpAddress,
    body::SftpStream,
    connection::quote_path,
    connection_pool::ConnectionPool,
    packet::{Attributes, FileKind},
    user_config::UserConfig,
};
use super::{
    ByteStream, FetchOptions, Protocol, RangeRequest, RemoteFile, UrlTarget, Validator,
    url_paths::last_segment,
};
use crate::error::{Error, Kind, Result};

pub(super) const SCHEMES: &[&str] = &["sftp"];

/// The protocol of SFTP URLs: files and folders.
#[derive(Debug)]
pub(super) struct Sftp {
    options: Arc<FetchOptions>,
    config: UserConfig,
    pools: Mutex<HashMap<SftpAddress, Arc<ConnectionPool>>>,
}

pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
    let (options, config) = (Arc::clone(options), UserConfig::read()?);
    Ok(Arc::new(Sftp { options, config, pools: Mutex::default() }))
}

impl Sftp {
    fn pool(&self, url: &Url) -> Result<Arc<ConnectionPool>> {
        let address = SftpAddress::from_url(url, &self.options, &self.config)?;
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(&address) {
            return Ok(Arc::clone(pool));
        }
        let pool = Arc::new(ConnectionPool::new(address.clone(), Arc::clone(&self.options)));
        pools.insert(address, Arc::clone(&pool));
        Ok(pool)
    }
}

#[async_trait]
impl Protocol for Sftp {
    async fn probe(&self, url: &Url) -> Result<UrlTarget> {
        let path = address::server_path(url)?;
        let connection = self.pool(url)?.connection().await?;
        let (attributes, kind) = connection.stat_with_kind(&path, None).await?;
        match kind {
            FileKind::Folder => {
                return folder::list(&connection, url, &path).await.map(UrlTarget::Folder);
            }
            FileKind::File => {}
            _ => {
                let address = &connection.address;
                let text =
                    format!("{} on {address} is neither a file nor a folder", quote_path(&path));
                return Err(Error::new(Kind::Unsupported, text));
            }
        }
        let mut file =
            RemoteFile { name: last_segment(url), ..remote_file(url.clone(), &attributes) };
        if file.len == Some(0) && !connection.is_empty(&path).await? {
            // The file is generated on request or by the system, as below `/proc`. Its length is unknown until it ends.
            (file.len, file.validator) = (None, None);
        }
        Ok(UrlTarget::File(file))
    }

    async fn open(&self, remote: &RemoteFile, range: RangeRequest) -> Result<ByteStream> {
        let path = address::server_path(&remote.url)?;
        let lease = self.pool(&remote.url)?.lease().await?;
        let (file, attributes) = lease.connection.open_file(&path).await?;
        let subject = format!("get {} from {}", quote_path(&path), lease.connection.address);
        let mut found = remote_file(remote.url.clone(), &attributes);
        if version_difference(remote, &found).is_some() {
            // Some servers report other attributes of an open file than of its path.
            found = remote_file(remote.url.clone(), &lease.connection.stat(&path).await?);
        }
        if let Some(what) = version_difference(remote, &found) {
            return Err(Error::new(Kind::Changed, subject).because(format!("{what} has changed")));
        }
        if remote.len.is_none() && found.len == Some(0) {
            found.len = None;
        }
        let end = range.end.or(found.len);
        if let Some(len) = found.len.filter(|len| range.start > *len || end > Some(*len)) {
            return Err(Error::new(Kind::Corrupt, subject)
                .because(format!("the range exceeds the file, which has {len} bytes")));
        }
        if end.is_some_and(|end| end <= range.start) {
            return Ok(Box::pin(stream::empty()));
        }
        Ok(SftpStream::new(lease, file, subject, range.start, (end, found.len)).stream())
    }
}

/// The property by which a file differs from the probed version.
fn version_difference(probed: &RemoteFile, found: &RemoteFile) -> Option<&'static str> {
    if probed.len.is_some() && found.len.is_some() && probed.len != found.len {
        return Some("its length");
    }
    (probed.validator.is_some() && probed.validator != found.validator).then_some("its date")
}

/// A file with the metadata in the server's attributes.
fn remote_file(url: Url, attributes: &Attributes) -> RemoteFile {
    let modified = attributes.modified.map(u64::from);
    let validator = modified.zip(attributes.len);
    RemoteFile {
        len: attributes.len,
        supports_ranges: true,
        validator: validator.map(|(time, len)| Validator::Modified(time.to_string(), len)),
        modified: modified.and_then(|s| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(s))),
        ..RemoteFile::from_url(url)
    }
}
