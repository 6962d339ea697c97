//! Who we are, proven in the ways that the server takes, in this order: the keys that were named, the password, the keys
//! of the agent, the key files of the user's settings, the usual ones.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use russh::{
    MethodKind, MethodSet,
    client::{AuthResult, Handle, KeyboardInteractiveAuthResponse},
    keys::{
        Error as KeyError, HashAlg, PrivateKeyWithHashAlg,
        agent::{AgentIdentity, client::AgentClient},
        load_secret_key,
    },
};

use super::{address::Address, errors::transport, host_key::HostKey};
use crate::error::{Error, Kind, Result};

/// In `~/.ssh`, where they are there and not encrypted.
const USUAL: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];
/// Servers hang up after six, and the password should be among them.
const AGENT_KEYS: usize = 4;

/// A connection on which we are nobody yet.
pub(super) struct SignIn<'a> {
    handle: &'a mut Handle<HostKey>,
    address: &'a Address,
    /// What the server still takes.
    methods: MethodSet,
    /// What was tried, for the error.
    tried: Vec<String>,
}

/// Signs in, or says what was tried.
///
/// # Errors
/// `Unauthenticated` when nothing was taken; `InvalidInput` for a key file that was named and is none; `Network`.
pub(super) async fn sign_in(
    handle: &mut Handle<HostKey>,
    address: &Address,
    identities: &[PathBuf],
) -> Result<()> {
    let none = handle.authenticate_none(address.user.as_str()).await;
    let methods = match none.map_err(|e| transport(format!("sign in to {address}"), e))? {
        AuthResult::Success => return Ok(()),
        AuthResult::Failure { remaining_methods, .. } => remaining_methods,
    };
    let mut sign_in = SignIn { handle, address, methods, tried: Vec::new() };
    for file in identities {
        let key = load(file).await.map_err(|e| {
            let text = format!("key file {}", file.display());
            let error = Error::new(Kind::InvalidInput, text);
            if matches!(e, KeyError::KeyIsEncrypted) {
                return error.because(e).hint("`ssh-add` gives it to the agent, which is asked");
            }
            error.because(e)
        })?;
        if sign_in.key_file(file, key).await? {
            return Ok(());
        }
    }
    if sign_in.password().await? || sign_in.agent().await? || sign_in.usual_files().await? {
        return Ok(());
    }
    Err(sign_in.refused())
}

type PrivateKey = russh::keys::PrivateKey;

/// On a thread of its own: the file may be on a slow disk, and a key may take a moment to derive.
async fn load(file: &Path) -> Result<PrivateKey, KeyError> {
    let file = file.to_owned();
    let loaded = tokio::task::spawn_blocking(move || load_secret_key(file, None)).await;
    loaded.unwrap_or(Err(KeyError::CouldNotReadKey))
}

impl SignIn<'_> {
    fn takes(&self, method: MethodKind) -> bool {
        self.methods.contains(&method)
    }

    fn lost(&self, e: russh::Error) -> Error {
        transport(format!("sign in to {}", self.address), e)
    }

    /// Whether that was it. Where more is wanted, what is wanted is remembered.
    fn taken(&mut self, what: String, answer: AuthResult) -> bool {
        match answer {
            AuthResult::Success => true,
            AuthResult::Failure { remaining_methods, .. } => {
                self.methods = remaining_methods;
                self.tried.push(what);
                false
            }
        }
    }

    /// How RSA keys sign: as the server says it understands, else the way that all but ancient ones do.
    async fn rsa_hash(&self, rsa: bool) -> Result<Option<HashAlg>> {
        if !rsa {
            return Ok(None);
        }
        let best = self.handle.best_supported_rsa_hash().await.map_err(|e| self.lost(e))?;
        Ok(best.unwrap_or(Some(HashAlg::Sha256)))
    }

    async fn key_file(&mut self, file: &Path, key: PrivateKey) -> Result<bool> {
        if !self.takes(MethodKind::PublicKey) {
            return Ok(false);
        }
        let hash = self.rsa_hash(key.algorithm().is_rsa()).await?;
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        let answer = self.handle.authenticate_publickey(self.address.user.as_str(), key).await;
        let answer = answer.map_err(|e| self.lost(e))?;
        Ok(self.taken(format!("the key {}", file.display()), answer))
    }

    async fn password(&mut self) -> Result<bool> {
        let Some(password) = self.address.password.clone() else { return Ok(false) };
        let user = self.address.user.as_str();
        if self.takes(MethodKind::Password) {
            let answer = self.handle.authenticate_password(user, password.as_str()).await;
            let answer = answer.map_err(|e| self.lost(e))?;
            if self.taken("the password".into(), answer) {
                return Ok(true);
            }
        }
        if self.takes(MethodKind::KeyboardInteractive) {
            return self.prompts(user, &password).await;
        }
        Ok(false)
    }

    /// Some servers ask for the password as if somebody sat there: one question, which does not show what is typed.
    async fn prompts(&mut self, user: &str, password: &str) -> Result<bool> {
        use KeyboardInteractiveAuthResponse as Answer;
        let started = self.handle.authenticate_keyboard_interactive_start(user, None).await;
        let mut answer = started.map_err(|e| self.lost(e))?;
        let mut given = false;
        loop {
            let prompts = match answer {
                Answer::Success => return Ok(true),
                Answer::Failure { remaining_methods, partial_success } => {
                    let answer = AuthResult::Failure { remaining_methods, partial_success };
                    return Ok(self.taken("the password".into(), answer));
                }
                Answer::InfoRequest { prompts, .. } => prompts,
            };
            // A second question is not about the password, or about one that was wrong.
            let replies = match prompts.as_slice() {
                [] => Vec::new(),
                [one] if !one.echo && !given => {
                    given = true;
                    vec![password.to_owned()]
                }
                _ => return Ok(self.gave_up()),
            };
            let next = self.handle.authenticate_keyboard_interactive_respond(replies).await;
            answer = next.map_err(|e| self.lost(e))?;
        }
    }

    /// The server waits for an answer that nobody has, and takes nothing else until then.
    fn gave_up(&mut self) -> bool {
        self.tried.push("the password".into());
        self.methods = MethodSet::empty();
        false
    }

    async fn agent(&mut self) -> Result<bool> {
        if !self.takes(MethodKind::PublicKey) {
            return Ok(false);
        }
        // No agent, or one that does not answer, is no key.
        let Ok(mut agent) = AgentClient::connect_env().await else { return Ok(false) };
        let identities = agent.request_identities().await.unwrap_or_default();
        for identity in identities.into_iter().take(AGENT_KEYS) {
            let AgentIdentity::PublicKey { key, comment } = identity else { continue };
            let hash = self.rsa_hash(key.algorithm().is_rsa()).await?;
            let user = self.address.user.as_str();
            let answer = self.handle.authenticate_publickey_with(user, key, hash, &mut agent).await;
            let what = format!("the agent's key {comment:?}");
            match answer {
                Ok(answer) => {
                    if self.taken(what, answer) {
                        return Ok(true);
                    }
                }
                // The agent does not sign, which its owner may have told it.
                Err(_) if !self.handle.is_closed() => {}
                Err(_) => return Err(self.lost(russh::Error::Disconnect)),
            }
            if !self.takes(MethodKind::PublicKey) {
                break;
            }
        }
        Ok(false)
    }

    async fn usual_files(&mut self) -> Result<bool> {
        let home = std::env::home_dir();
        let usual =
            home.into_iter().flat_map(|home| USUAL.map(|name| home.join(".ssh").join(name)));
        for file in self.address.identities.iter().cloned().chain(usual) {
            let Ok(key) = load(&file).await else { continue };
            if self.key_file(&file, key).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn refused(self) -> Error {
        let address = self.address;
        let tried = match self.tried.as_slice() {
            [] => "there was nothing to try".to_owned(),
            tried => format!("it refused {}", tried.join(", ")),
        };
        let text = format!("sign in to {address} as {:?}", address.user);
        Error::new(Kind::Unauthenticated, text)
            .because(tried)
            .hint("give a password (BAE_PASSWORD, or -u USER to be asked), a key file (--identity FILE), or a key to the agent")
    }
}
