//! Logs in with the methods that the server accepts, in this order: the named keys (from `--identity`, then from the
//! user's SSH settings), the password, the other keys of the agent, and the default key files if no key was named. A
//! key that the agent holds is used through the agent.

use std::{path::PathBuf, sync::Arc};

use russh::{
    MethodKind, MethodSet,
    client::{AuthResult, Handle, KeyboardInteractiveAuthResponse},
    keys::{Error as KeyError, HashAlg, PrivateKeyWithHashAlg, PublicKey},
};

use super::{
    address::Address,
    errors::transport,
    host_key::HostKey,
    identity::{Agent, Identity},
};
use crate::error::{Error, Kind, Result};

/// Default key files in `~/.ssh`. Missing and encrypted ones are skipped.
const USUAL: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// A connection that is not logged in yet.
pub(super) struct SignIn<'a> {
    handle: &'a mut Handle<HostKey>,
    address: &'a Address,
    /// The methods that the server still accepts.
    methods: MethodSet,
    agent: Agent,
    /// Descriptions of what was tried, for the error.
    tried: Vec<String>,
    /// Keys that were tried.
    used: Vec<PublicKey>,
}

/// Logs in, or returns an error that lists what was tried.
///
/// # Errors
/// `Unauthenticated` if the server accepts nothing; `InvalidInput` if a file of `identities` is not a usable key;
/// `Network`.
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
    let agent = Agent::connect().await;
    let (tried, used) = (Vec::new(), Vec::new());
    let mut sign_in = SignIn { handle, address, methods, agent, tried, used };
    for file in identities {
        let identity = Identity::load(file).await;
        let agent_has_it = identity.public.as_ref().is_some_and(|key| sign_in.agent.has(key));
        if let (Err(e), false) = (&identity.private, agent_has_it) {
            return Err(no_key(&identity, e));
        }
        if sign_in.identity(identity).await? {
            return Ok(());
        }
    }
    for file in &address.identities {
        if sign_in.identity(Identity::load(file).await).await? {
            return Ok(());
        }
    }
    if sign_in.password().await? || !address.identities_only && sign_in.agents_keys().await? {
        return Ok(());
    }
    if identities.is_empty() && address.identities.is_empty() && sign_in.usual_files().await? {
        return Ok(());
    }
    Err(sign_in.refused())
}

/// The error for a named file that is not a usable key.
fn no_key(identity: &Identity, e: &KeyError) -> Error {
    let text = format!("key file {}", identity.file.display());
    let error = Error::new(Kind::InvalidInput, text).because(e.to_string());
    match e {
        KeyError::KeyIsEncrypted => error.hint("`ssh-add` gives it to the agent, which is asked"),
        _ => error,
    }
}

impl SignIn<'_> {
    fn takes(&self, method: MethodKind) -> bool {
        self.methods.contains(&method)
    }

    fn lost(&self, e: russh::Error) -> Error {
        transport(format!("sign in to {}", self.address), e)
    }

    /// Whether the login is complete. If it is not, the methods that the server still accepts are stored.
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

    /// The hash of RSA signatures: the best one that the server declares, else SHA-256, which all but very old servers
    /// know.
    async fn rsa_hash(&self, rsa: bool) -> Result<Option<HashAlg>> {
        if !rsa {
            return Ok(None);
        }
        let best = self.handle.best_supported_rsa_hash().await.map_err(|e| self.lost(e))?;
        Ok(best.unwrap_or(Some(HashAlg::Sha256)))
    }

    /// Tries a key once, through the agent if the agent holds it.
    async fn identity(&mut self, identity: Identity) -> Result<bool> {
        let name = format!("the key {}", identity.file.display());
        if let Some(public) = identity.public.filter(|public| self.agent.has(public)) {
            if self.by_agent(public, format!("{name} (by the agent)")).await? {
                return Ok(true);
            }
            return Ok(false);
        }
        match identity.private {
            Ok(key) => self.by_file(key, name).await,
            Err(KeyError::KeyIsEncrypted) => {
                self.tried.push(format!("{name}, which is encrypted and not in the agent"));
                Ok(false)
            }
            // The settings may name a file for all hosts that does not exist on this machine.
            Err(_) => Ok(false),
        }
    }

    /// Whether to try a key: it is new and the server accepts keys. The key is then recorded as tried.
    fn may_use(&mut self, key: &PublicKey) -> bool {
        let known = self.used.iter().any(|used| used.key_data() == key.key_data());
        if known || !self.takes(MethodKind::PublicKey) {
            return false;
        }
        self.used.push(key.clone());
        true
    }

    async fn by_file(&mut self, key: russh::keys::PrivateKey, what: String) -> Result<bool> {
        if !self.may_use(key.public_key()) {
            return Ok(false);
        }
        let hash = self.rsa_hash(key.algorithm().is_rsa()).await?;
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        let answer = self.handle.authenticate_publickey(self.address.user.as_str(), key).await;
        let answer = answer.map_err(|e| self.lost(e))?;
        Ok(self.taken(what, answer))
    }

    async fn by_agent(&mut self, key: PublicKey, what: String) -> Result<bool> {
        if !self.may_use(&key) {
            return Ok(false);
        }
        let hash = self.rsa_hash(key.algorithm().is_rsa()).await?;
        let Some(agent) = self.agent.client() else { return Ok(false) };
        let user = self.address.user.as_str();
        match self.handle.authenticate_publickey_with(user, key, hash, agent).await {
            Ok(answer) => Ok(self.taken(what, answer)),
            // The agent refuses to sign, for example because its owner declined.
            Err(_) if !self.handle.is_closed() => {
                self.tried.push(format!("{what}, with which the agent does not sign"));
                Ok(false)
            }
            Err(_) => Err(self.lost(russh::Error::Disconnect)),
        }
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

    /// Logs in with the password by a prompt of the server: a single question with hidden input.
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
            // A second question is about something else, or it means that the password was wrong.
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

    /// Stops, because the server waits for an answer that we do not have. It accepts no other method until then.
    fn gave_up(&mut self) -> bool {
        self.tried.push("the password".into());
        self.methods = MethodSet::empty();
        false
    }

    async fn agents_keys(&mut self) -> Result<bool> {
        for (key, comment) in self.agent.keys() {
            let fingerprint = key.fingerprint(HashAlg::Sha256);
            let what = format!("the agent's key {fingerprint} ({comment})");
            if self.by_agent(key, what).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn usual_files(&mut self) -> Result<bool> {
        let Some(home) = std::env::home_dir() else { return Ok(false) };
        for file in USUAL.map(|name| home.join(".ssh").join(name)) {
            if self.identity(Identity::load(&file).await).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn refused(self) -> Error {
        let address = self.address;
        let tried = match self.tried.as_slice() {
            [] => "there was nothing to try".to_owned(),
            // Most servers close the connection after a few keys.
            tried if self.handle.is_closed() => {
                format!("it refused {}, and hung up then", tried.join(", "))
            }
            tried => format!("it refused {}", tried.join(", ")),
        };
        let text = format!("sign in to {address} as {:?}", address.user);
        Error::new(Kind::Unauthenticated, text)
            .because(tried)
            .hint("give a password (BAE_PASSWORD, or -u USER to be asked), a key file (--identity FILE), or a key to the agent")
    }
}
