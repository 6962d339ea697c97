//! SFTP: files by SSH, `sftp://user@host/path`.
//!
//! The path of a byte: a few connections for each server and user, the first one made when the first thing is asked;
//! a file is opened, and what was opened is held against what was probed; then reads are asked for far ahead of what was
//! handed on, so that a long way to the server does not matter.
//!
//! [`address`] is what a URL says, with what [`user_config`] says of its host; [`known_hosts`] and [`host_key`] say whether the server is the one that is meant;
//! [`sign_in`] says who we are; [`connection`] is the one way to ask, [`server`] has several; [`body`] is a range, [`folder`] a listing.
//!
//! What it refuses: a server whose key is not known, and more so one whose key is another than it was; to read more of
//! OpenSSH's settings than where a host is and who we are there, or to run its programs.

mod address;
mod body;
mod connection;
mod errors;
mod folder;
mod host_key;
mod known_hosts;
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
use russh_sftp::protocol::FileAttributes;
use url::Url;

use self::{address::Address, body::Body, server::Server, user_config::UserConfig};
use super::{
    ByteStream, FetchOptions, Found, Protocol, Remote, Validator, Wanted, paths::last_part,
};
use crate::error::{Error, Kind, Result};

pub(super) const SCHEMES: &[&str] = &["sftp"];

/// Files and folders of SSH servers.
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
        let attributes = connection.stat(&path).await?;
        let kind = attributes.file_type();
        if kind.is_dir() {
            return folder::list(&connection, url, &path).await.map(Found::Folder);
        }
        // Servers that say nothing of what it is have nothing but files.
        if attributes.permissions.is_some() && !kind.is_file() {
            let text = format!("{path:?} on {} is neither a file nor a folder", connection.address);
            return Err(Error::new(Kind::Unsupported, text));
        }
        Ok(Found::File(Remote { name: Some(last_part(url)), ..remote(url.clone(), &attributes) }))
    }

    async fn open(&self, wanted: &Remote, range: Wanted) -> Result<ByteStream> {
        let path = address::path(&wanted.url)?;
        let lease = self.server(&wanted.url)?.lease().await?;
        let (file, attributes) = lease.connection.open_file(&path).await?;
        let subject = format!("get {path:?} from {}", lease.connection.address);
        let found = remote(wanted.url.clone(), &attributes);
        let differs = |was: bool, what: &str| {
            let changed = || Error::new(Kind::Changed, subject.clone());
            if was {
                Err(changed().because(format!("{what} is another than it was")))
            } else {
                Ok(())
            }
        };
        differs(
            wanted.len.is_some() && found.len.is_some() && wanted.len != found.len,
            "its length",
        )?;
        differs(wanted.validator.is_some() && wanted.validator != found.validator, "its date")?;
        let end = range.end.or(found.len);
        if let Some(len) = found.len.filter(|len| range.start > *len || end > Some(*len)) {
            return Err(Error::new(Kind::Corrupt, subject)
                .because(format!("the file has {len} bytes, and more were asked for")));
        }
        if end.is_some_and(|end| end <= range.start) {
            return Ok(Box::pin(stream::empty()));
        }
        Ok(Body::new(lease, file, subject, range.start, end).stream())
    }
}

/// What a server's attributes of a file tell.
fn remote(url: Url, attributes: &FileAttributes) -> Remote {
    let modified = attributes.mtime.map(u64::from);
    let validator = modified.zip(attributes.size);
    Remote {
        len: attributes.size,
        ranges: true,
        validator: validator.map(|(time, len)| Validator::Modified(time.to_string(), len)),
        modified: modified.and_then(|s| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(s))),
        ..Remote::at(url)
    }
}
