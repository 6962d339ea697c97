//! SFTP: files over SSH, `sftp://user@host/path`.
//!
//! A [`Server`] keeps a few connections for each server and user; the first one is opened for the first request. To
//! open a range, the file is opened on the server and compared with the probed version. [`Body`] then keeps many reads
//! in flight, so that a long round trip does not limit the rate.
//!
//! [`address`] parses URLs and adds the settings of the host from [`user_config`]. [`known_hosts`] and [`host_key`]
//! verify the server. [`sign_in`] logs in, with the keys of [`identity`]. [`packet`] and [`client`] are SFTP itself, on
//! an SSH channel. [`connection`] sends all requests, and [`server`] has several connections. [`body`] streams a range,
//! and [`folder`] lists folders.
//!
//! What it refuses: a server whose key is unknown, unless its fingerprint is given, and always a server whose key has
//! changed. From the settings of OpenSSH only the location of a host and the login are read, and its programs are not
//! run.

mod address;
mod body;
mod client;
mod connection;
mod errors;
mod folder;
mod host_key;
mod identity;
mod known_hosts;
mod packet;
mod server;
mod sign_in;
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
    address::Address,
    body::Body,
    connection::show,
    packet::{Attributes, FileKind},
    server::Server,
    user_config::UserConfig,
};
use super::{
    ByteStream, FetchOptions, Found, Protocol, Remote, Validator, Wanted, paths::file_name,
};
use crate::error::{Error, Kind, Result};

pub(super) const SCHEMES: &[&str] = &["sftp"];

/// The protocol of SFTP URLs: files and folders.
#[derive(Debug)]
pub(super) struct Sftp {
    options: Arc<FetchOptions>,
    config: UserConfig,
    servers: Mutex<HashMap<Address, Arc<Server>>>,
}

pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
    let (options, config) = (Arc::clone(options), UserConfig::read()?);
    Ok(Arc::new(Sftp { options, config, servers: Mutex::default() }))
}

impl Sftp {
    fn server(&self, url: &Url) -> Result<Arc<Server>> {
        let address = Address::of(url, &self.options, &self.config)?;
        let mut servers = self.servers.lock();
        if let Some(server) = servers.get(&address) {
            return Ok(Arc::clone(server));
        }
        let server = Arc::new(Server::new(address.clone(), Arc::clone(&self.options)));
        servers.insert(address, Arc::clone(&server));
        Ok(server)
    }
}

#[async_trait]
impl Protocol for Sftp {
    async fn probe(&self, url: &Url) -> Result<Found> {
        let path = address::path(url)?;
        let connection = self.server(url)?.connection().await?;
        let (attributes, kind) = connection.typed(&path, None).await?;
        match kind {
            FileKind::Folder => {
                return folder::list(&connection, url, &path).await.map(Found::Folder);
            }
            FileKind::File => {}
            _ => {
                let place = &connection.address;
                let text = format!("{} on {place} is neither a file nor a folder", show(&path));
                return Err(Error::new(Kind::Unsupported, text));
            }
        }
        let mut file = Remote { name: file_name(url), ..remote(url.clone(), &attributes) };
        if file.len == Some(0) && !connection.is_empty(&path).await? {
            // The file is generated on request or by the system, as below `/proc`. Its length is unknown until it ends.
            (file.len, file.validator) = (None, None);
        }
        Ok(Found::File(file))
    }

    async fn open(&self, wanted: &Remote, range: Wanted) -> Result<ByteStream> {
        let path = address::path(&wanted.url)?;
        let lease = self.server(&wanted.url)?.lease().await?;
        let (file, attributes) = lease.connection.open_file(&path).await?;
        let subject = format!("get {} from {}", show(&path), lease.connection.address);
        let mut found = remote(wanted.url.clone(), &attributes);
        if difference(wanted, &found).is_some() {
            // Some servers report other attributes of an open file than of its path.
            found = remote(wanted.url.clone(), &lease.connection.stat(&path).await?);
        }
        if let Some(what) = difference(wanted, &found) {
            return Err(Error::new(Kind::Changed, subject)
                .because(format!("{what} is another than it was")));
        }
        if wanted.len.is_none() && found.len == Some(0) {
            found.len = None;
        }
        let end = range.end.or(found.len);
        if let Some(len) = found.len.filter(|len| range.start > *len || end > Some(*len)) {
            return Err(Error::new(Kind::Corrupt, subject)
                .because(format!("the file has {len} bytes, and more were asked for")));
        }
        if end.is_some_and(|end| end <= range.start) {
            return Ok(Box::pin(stream::empty()));
        }
        Ok(Body::new(lease, file, subject, range.start, (end, found.len)).stream())
    }
}

/// What shows that a file is another version than the wanted one.
fn difference(wanted: &Remote, found: &Remote) -> Option<&'static str> {
    if wanted.len.is_some() && found.len.is_some() && wanted.len != found.len {
        return Some("its length");
    }
    (wanted.validator.is_some() && wanted.validator != found.validator).then_some("its date")
}

/// A file with the metadata in the server's attributes.
fn remote(url: Url, attributes: &Attributes) -> Remote {
    let modified = attributes.modified.map(u64::from);
    let validator = modified.zip(attributes.len);
    Remote {
        len: attributes.len,
        ranges: true,
        validator: validator.map(|(time, len)| Validator::Modified(time.to_string(), len)),
        modified: modified.and_then(|s| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(s))),
        ..Remote::at(url)
    }
}
