//! Keys: in files, and in the user's agent.

use std::path::{Path, PathBuf};

use russh::keys::{
    Error as KeyError, PrivateKey, PublicKey,
    agent::{AgentIdentity, client::AgentClient},
    decode_secret_key,
};

/// More keys than anybody has.
const MAX_KEYS: usize = 64;

/// A key file.
pub(super) struct Identity {
    pub(super) file: PathBuf,
    /// Also of a private key that is encrypted, and where the file is the public half alone.
    pub(super) public: Option<PublicKey>,
    pub(super) private: Result<PrivateKey, KeyError>,
}

impl Identity {
    /// On a thread of its own: the file may be on a slow disk, and a key may take a moment to derive.
    pub(super) async fn load(file: &Path) -> Self {
        let owned = file.to_owned();
        let loaded = tokio::task::spawn_blocking(move || Self::read(&owned)).await;
        loaded.unwrap_or_else(|_| Self {
            file: file.to_owned(),
            public: None,
            private: Err(KeyError::CouldNotReadKey),
        })
    }

    fn read(file: &Path) -> Self {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) => return Self { file: file.to_owned(), public: None, private: Err(e.into()) },
        };
        let private = decode_secret_key(&text, None);
        let public = match &private {
            Ok(key) => Some(key.public_key().clone()),
            Err(_) => public_half(&text, file),
        };
        Self { file: file.to_owned(), public, private }
    }
}

/// What is not secret of a key: the file may be just that, keys of OpenSSH have it in clear, and it lies beside others.
fn public_half(text: &str, file: &Path) -> Option<PublicKey> {
    if let Ok(public) = PublicKey::from_openssh(text.trim()) {
        return Some(public);
    }
    if let Ok(private) = PrivateKey::from_openssh(text) {
        return Some(private.public_key().clone());
    }
    let mut beside = file.as_os_str().to_owned();
    beside.push(".pub");
    PublicKey::from_openssh(std::fs::read_to_string(beside).ok()?.trim()).ok()
}

type Client = AgentClient<tokio::net::UnixStream>;

/// The user's agent, where there is one that answers.
pub(super) struct Agent {
    client: Option<Client>,
    keys: Vec<(PublicKey, String)>,
}

impl Agent {
    pub(super) async fn connect() -> Self {
        let none = Self { client: None, keys: Vec::new() };
        let Ok(mut client) = AgentClient::connect_env().await else { return none };
        let Ok(identities) = client.request_identities().await else { return none };
        let key = |identity| match identity {
            AgentIdentity::PublicKey { key, comment } => Some((key, comment)),
            _ => None,
        };
        let keys = identities.into_iter().filter_map(key).take(MAX_KEYS).collect();
        Self { client: Some(client), keys }
    }

    pub(super) fn has(&self, key: &PublicKey) -> bool {
        self.keys.iter().any(|(had, _)| had.key_data() == key.key_data())
    }

    /// Its keys, with what their owner calls them.
    pub(super) fn keys(&self) -> Vec<(PublicKey, String)> {
        self.keys.clone()
    }

    pub(super) fn client(&mut self) -> Option<&mut Client> {
        self.client.as_mut()
    }
}
