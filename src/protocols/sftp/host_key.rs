//! Verifies the server's key with the `known_hosts` files, before the login.
//!
//! An unknown key is accepted only by its fingerprint. A key that differs from the known one is never accepted, because
//! a man in the middle would present such a key.

use std::{path::PathBuf, sync::Arc};

use russh::{
    client::Handler,
    keys::{HashAlg, PublicKey, PublicKeyOrCertificate},
};

use super::{
    address::Address,
    errors::Trouble,
    known_hosts::{Judgement, Known},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::HostKeys,
};

/// Checks the server's key while a connection is opened.
pub(super) struct HostKey {
    address: Address,
    known: Arc<Known>,
    accept: Option<String>,
}

impl HostKey {
    pub(super) fn new(address: &Address, known: Arc<Known>, keys: &HostKeys) -> Self {
        Self { address: address.clone(), known, accept: keys.accept.clone() }
    }

    fn judge(&self, key: &PublicKey) -> Result<()> {
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        let refused = |what: String| Error::new(Kind::Unauthenticated, what);
        let address = &self.address;
        match self.known.judge(key) {
            Judgement::Known => Ok(()),
            Judgement::Unknown if self.accept.as_deref() == Some(&*fingerprint) => Ok(()),
            Judgement::Unknown => {
                let kind = key.algorithm();
                if let Some(accepted) = &self.accept {
                    let text =
                        format!("{address}: its {kind} key is {fingerprint}, not {accepted}");
                    return Err(refused(text).hint(format!(
                        "a server has several keys: what is accepted must be its {kind} key's fingerprint"
                    )));
                }
                let text = format!("{address} is not known: its {kind} key is {fingerprint}");
                Err(refused(text).hint(format!(
                    "compare that with what the server's owner says, then --accept-host-key {fingerprint}"
                )))
            }
            Judgement::Changed(line) => {
                let text = format!("{address} has another key than {line} says: {fingerprint}");
                Err(refused(text).hint(format!(
                    "somebody may be in between; if its owner has changed the key, remove {line}"
                )))
            }
            Judgement::Revoked(line) => {
                let text = format!("the key of {address} is revoked by {line}: {fingerprint}");
                Err(refused(text).hint("its owner must make a new one"))
            }
        }
    }
}

impl Handler for HostKey {
    type Error = Trouble;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Trouble> {
        self.judge(&key.public_key()).map_err(|e| Trouble::Host(Box::new(e)))?;
        Ok(true)
    }
}

/// The entries for a server in the `known_hosts` files of the user and of the system. Missing default files are
/// ignored.
///
/// # Errors
/// If a named file is missing, or if a file cannot be read.
pub(super) async fn known(address: &Address, keys: &HostKeys) -> Result<Known> {
    let mut known = Known::default();
    let files: Vec<PathBuf> = match &keys.known_hosts {
        Some(file) => vec![file.clone()],
        None => {
            let own = std::env::home_dir().map(|home| home.join(".ssh/known_hosts"));
            own.into_iter().chain([PathBuf::from("/etc/ssh/ssh_known_hosts")]).collect()
        }
    };
    for file in files {
        let name = file.display().to_string();
        match tokio::fs::read(&file).await {
            Ok(text) => {
                let text = String::from_utf8_lossy(&text);
                known.read(&name, &text, &address.host, address.port);
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && keys.known_hosts.is_none() => {}
            Err(e) => return Err(Error::io(format!("known hosts in {name}"), e)),
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use russh::keys::parse_public_key_base64;

    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn judge(known: &str, accept: Option<&str>) -> Result<()> {
        let (host, user) = ("h".to_owned(), "u".to_owned());
        let (identities, identities_only) = (Vec::new(), false);
        let address = Address { host, port: 22, user, password: None, identities, identities_only };
        let mut lines = Known::default();
        lines.read("known_hosts", known, "h", 22);
        let keys = HostKeys { known_hosts: None, accept: accept.map(str::to_owned) };
        let key = parse_public_key_base64(KEY).unwrap();
        HostKey::new(&address, Arc::new(lines), &keys).judge(&key)
    }

    #[test]
    fn an_unknown_key_is_refused_with_what_accepts_it() {
        let error = judge("", None).unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated);
        let hint = error.hint_text().unwrap();
        let (_, fingerprint) = hint.split_once("--accept-host-key ").unwrap();
        assert!(fingerprint.starts_with("SHA256:"), "{fingerprint}");
        assert!(error.report().contains(fingerprint), "{}", error.report());
        judge("", Some(fingerprint)).unwrap();
        let other = judge("", Some("SHA256:else")).unwrap_err();
        assert!(other.report().ends_with("not SHA256:else"), "{}", other.report());
    }

    #[test]
    fn a_changed_key_is_refused_whatever_is_accepted() {
        let other =
            "h ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G2sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";
        let unknown = judge("", None).unwrap_err();
        let (_, fingerprint) =
            unknown.hint_text().unwrap().split_once("--accept-host-key ").unwrap();
        let error = judge(other, Some(fingerprint)).unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated);
        assert!(error.report().contains("known_hosts:1"), "{}", error.report());
        assert!(!error.hint_text().unwrap().contains("--accept"));
    }
}
