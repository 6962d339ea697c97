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
    address::SftpAddress,
    errors::ConnectError,
    known_hosts::{KeyVerdict, KnownHostKeys},
};
use crate::{
    error::{Error, Kind, Result},
    hints::{Setting, hint},
    protocols::HostKeyPolicy,
};

/// Checks the server's key while a connection is opened.
pub(super) struct HostKeyVerifier {
    address: SftpAddress,
    known: Arc<KnownHostKeys>,
    accepted_fingerprint: Option<String>,
}

impl HostKeyVerifier {
    pub(super) fn new(
        address: &SftpAddress,
        known: Arc<KnownHostKeys>,
        policy: &HostKeyPolicy,
    ) -> Self {
        let accepted_fingerprint = policy.accepted_fingerprint.clone();
        Self { address: address.clone(), known, accepted_fingerprint }
    }

    fn verify(&self, key: &PublicKey) -> Result<()> {
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        let refused = |text: String| Error::new(Kind::Unauthenticated, text);
        let address = &self.address;
        match self.known.check_key(key) {
            KeyVerdict::Known => Ok(()),
            KeyVerdict::Unknown if self.accepted_fingerprint.as_deref() == Some(&*fingerprint) => {
                Ok(())
            }
            KeyVerdict::Unknown => {
                let kind = key.algorithm();
                if let Some(accepted) = &self.accepted_fingerprint {
                    let text =
                        format!("{address}: its {kind} key is {fingerprint}, not {accepted}");
                    return Err(refused(text).hint(hint![
                        "a server has several keys: ",
                        Setting::AcceptHostKey,
                        format!(" must be the fingerprint of its {kind} key"),
                    ]));
                }
                let text = format!("{address} is not known: its {kind} key is {fingerprint}");
                Err(refused(text).hint(hint![
                    "verify the fingerprint with the server's owner, then pass ",
                    Setting::AcceptHostKey.with(fingerprint),
                ]))
            }
            KeyVerdict::Changed(line) => {
                let text = format!("the key of {address} differs from {line}: it is {fingerprint}");
                Err(refused(text).hint(format!(
                    "this may be a man-in-the-middle attack; if the owner changed the key, remove {line}"
                )))
            }
            KeyVerdict::Revoked(line) => {
                let text = format!("the key of {address} is revoked by {line}: {fingerprint}");
                Err(refused(text).hint("the owner must create a new key"))
            }
        }
    }
}

impl Handler for HostKeyVerifier {
    type Error = ConnectError;

    async fn check_server_key(
        &mut self,
        key: &PublicKeyOrCertificate,
    ) -> Result<bool, ConnectError> {
        self.verify(&key.public_key()).map_err(|e| ConnectError::HostKey(Box::new(e)))?;
        Ok(true)
    }
}

/// The entries for a server in the `known_hosts` files of the user and of the system. Missing default files are
/// ignored.
///
/// # Errors
/// If a named file is missing, or if a file cannot be read.
pub(super) async fn load_known_hosts(
    address: &SftpAddress,
    policy: &HostKeyPolicy,
) -> Result<KnownHostKeys> {
    let mut known = KnownHostKeys::default();
    let files: Vec<PathBuf> = match &policy.known_hosts {
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
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && policy.known_hosts.is_none() => {}
            Err(e) => return Err(Error::io(format!("known hosts in {name}"), e)),
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use russh::keys::parse_public_key_base64;

    use super::*;
    use crate::hints::HintPart;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn verify(known: &str, accept: Option<&str>) -> Result<()> {
        let (host, user) = ("h".to_owned(), "u".to_owned());
        let (identities, identities_only) = (Vec::new(), false);
        let address =
            SftpAddress { host, port: 22, user, password: None, identities, identities_only };
        let mut lines = KnownHostKeys::default();
        lines.read("known_hosts", known, "h", 22);
        let policy =
            HostKeyPolicy { known_hosts: None, accepted_fingerprint: accept.map(str::to_owned) };
        let key = parse_public_key_base64(KEY).unwrap();
        HostKeyVerifier::new(&address, Arc::new(lines), &policy).verify(&key)
    }

    /// The fingerprint that the hint names.
    fn fingerprint_in_hint(error: &Error) -> String {
        let value = |part: &HintPart| match part {
            HintPart::Setting { setting: Setting::AcceptHostKey, value } => value.clone(),
            _ => None,
        };
        error.typed_hint().unwrap().parts().iter().find_map(value).unwrap()
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_option_to_accept_it() {
        let error = verify("", None).unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated);
        let fingerprint = &*fingerprint_in_hint(&error);
        assert!(fingerprint.starts_with("SHA256:"), "{fingerprint}");
        assert!(error.report().contains(fingerprint), "{}", error.report());
        verify("", Some(fingerprint)).unwrap();
        let other = verify("", Some("SHA256:else")).unwrap_err();
        assert!(other.report().ends_with("not SHA256:else"), "{}", other.report());
    }

    #[test]
    fn a_changed_key_is_refused_even_if_accepted() {
        let other =
            "h ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G2sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";
        let unknown = verify("", None).unwrap_err();
        let error = verify(other, Some(&fingerprint_in_hint(&unknown))).unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated);
        assert!(error.report().contains("known_hosts:1"), "{}", error.report());
        assert!(!error.typed_hint().unwrap().names_setting(Setting::AcceptHostKey));
    }
}
