//! Keys in files and in the user's SSH agent.

use std::path::{Path, PathBuf};

use russh::keys::{
    Error as KeyError, PrivateKey, PublicKey,
    agent::{AgentIdentity, client::AgentClient},
    decode_secret_key,
};

/// Maximum number of keys that are taken from the agent.
const MAX_AGENT_KEYS: usize = 64;

/// A key file.
pub(super) struct KeyFile {
    pub(super) path: PathBuf,
    /// Also known for an encrypted private key, and for a file that contains only the public key.
    pub(super) public: Option<PublicKey>,
    pub(super) private: Result<PrivateKey, KeyError>,
}

impl KeyFile {
    /// Loads the file on a blocking thread: the disk may be slow, and deriving a key may take a moment.
    pub(super) async fn load(file: &Path) -> Self {
        let owned = file.to_owned();
        let loaded = tokio::task::spawn_blocking(move || Self::read(&owned)).await;
        loaded.unwrap_or_else(|_| Self {
            path: file.to_owned(),
            public: None,
            private: Err(KeyError::CouldNotReadKey),
        })
    }

    fn read(file: &Path) -> Self {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) => return Self { path: file.to_owned(), public: None, private: Err(e.into()) },
        };
        let private = decode_secret_key(&text, None);
        let public = match &private {
            Ok(key) => Some(key.public_key().clone()),
            Err(_) => find_public_key(&text, file),
        };
        Self { path: file.to_owned(), public, private }
    }
}

/// The public key in the file, in the unencrypted part of an OpenSSH key, or in the `.pub` file next to it.
fn find_public_key(text: &str, file: &Path) -> Option<PublicKey> {
    if let Ok(public) = PublicKey::from_openssh(text.trim()) {
        return Some(public);
    }
    if let Ok(private) = PrivateKey::from_openssh(text) {
        return Some(private.public_key().clone());
    }
    let mut public_file = file.as_os_str().to_owned();
    public_file.push(".pub");
    PublicKey::from_openssh(std::fs::read_to_string(public_file).ok()?.trim()).ok()
}

type Client = AgentClient<tokio::net::UnixStream>;

/// The user's SSH agent, if there is one that answers.
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
        let keys = identities.into_iter().filter_map(key).take(MAX_AGENT_KEYS).collect();
        Self { client: Some(client), keys }
    }

    pub(super) fn has(&self, key: &PublicKey) -> bool {
        self.keys.iter().any(|(agent_key, _)| agent_key.key_data() == key.key_data())
    }

    /// The keys of the agent with their comments.
    pub(super) fn keys(&self) -> Vec<(PublicKey, String)> {
        self.keys.clone()
    }

    pub(super) fn client(&mut self) -> Option<&mut Client> {
        self.client.as_mut()
    }
}
