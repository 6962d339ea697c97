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
    address::SftpAddress,
    errors::ssh_error,
    host_key::HostKeyVerifier,
    identity::{Agent, KeyFile},
};
use crate::{
    error::{Error, Kind, Result},
    hints::{Setting, hint},
};

/// Default key files in `~/.ssh`. Missing and encrypted ones are skipped.
const DEFAULT_KEY_FILES: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// A connection that is not logged in yet.
pub(super) struct LoginAttempt<'a> {
    handle: &'a mut Handle<HostKeyVerifier>,
    address: &'a SftpAddress,
    /// The methods that the server still accepts.
    methods: MethodSet,
    agent: Agent,
    /// Descriptions of what was tried, for the error.
    attempts: Vec<String>,
    /// Keys that were tried.
    tried_keys: Vec<PublicKey>,
}

/// Logs in, or returns an error that lists what was tried.
///
/// # Errors
/// `Unauthenticated` if the server accepts nothing; `InvalidInput` if a file of `identities` is not a usable key;
/// `Network`.
pub(super) async fn log_in(
    handle: &mut Handle<HostKeyVerifier>,
    address: &SftpAddress,
    identities: &[PathBuf],
) -> Result<()> {
    let by_none = handle.authenticate_none(address.user.as_str()).await;
    let methods = match by_none.map_err(|e| ssh_error(format!("log in to {address}"), e))? {
        AuthResult::Success => return Ok(()),
        AuthResult::Failure { remaining_methods, .. } => remaining_methods,
    };
    let agent = Agent::connect().await;
    let (attempts, tried_keys) = (Vec::new(), Vec::new());
    let mut attempt = LoginAttempt { handle, address, methods, agent, attempts, tried_keys };
    for file in identities {
        let key_file = KeyFile::load(file).await;
        let is_in_agent = key_file.public.as_ref().is_some_and(|key| attempt.agent.has(key));
        if let (Err(e), false) = (&key_file.private, is_in_agent) {
            return Err(unusable_key_error(&key_file, e));
        }
        if attempt.try_key_file(key_file).await? {
            return Ok(());
        }
    }
    for file in &address.identities {
        if attempt.try_key_file(KeyFile::load(file).await).await? {
            return Ok(());
        }
    }
    if attempt.try_password().await?
        || !address.identities_only && attempt.try_all_agent_keys().await?
    {
        return Ok(());
    }
    if identities.is_empty()
        && address.identities.is_empty()
        && attempt.try_default_key_files().await?
    {
        return Ok(());
    }
    Err(attempt.refused_error())
}

/// The error for a named file that is not a usable key.
fn unusable_key_error(key_file: &KeyFile, e: &KeyError) -> Error {
    let text = format!("key file {}", key_file.path.display());
    let error = Error::new(Kind::InvalidInput, text).because(e.to_string());
    match e {
        KeyError::KeyIsEncrypted => error.hint("add the key to the agent with `ssh-add`"),
        _ => error,
    }
}

impl LoginAttempt<'_> {
    fn accepts(&self, method: MethodKind) -> bool {
        self.methods.contains(&method)
    }

    fn ssh_error(&self, e: russh::Error) -> Error {
        ssh_error(format!("log in to {}", self.address), e)
    }

    /// Whether the login is complete. If it is not, the methods that the server still accepts are stored.
    fn record_answer(&mut self, method: String, answer: AuthResult) -> bool {
        match answer {
            AuthResult::Success => true,
            AuthResult::Failure { remaining_methods, .. } => {
                self.methods = remaining_methods;
                self.attempts.push(method);
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
        let best = self.handle.best_supported_rsa_hash().await.map_err(|e| self.ssh_error(e))?;
        Ok(best.unwrap_or(Some(HashAlg::Sha256)))
    }

    /// Tries a key once, through the agent if the agent holds it.
    async fn try_key_file(&mut self, key_file: KeyFile) -> Result<bool> {
        let name = format!("the key {}", key_file.path.display());
        if let Some(public) = key_file.public.filter(|public| self.agent.has(public)) {
            if self.try_agent_key(public, format!("{name} (by the agent)")).await? {
                return Ok(true);
            }
            return Ok(false);
        }
        match key_file.private {
            Ok(key) => self.try_private_key(key, name).await,
            Err(KeyError::KeyIsEncrypted) => {
                self.attempts.push(format!("{name}, which is encrypted and not in the agent"));
                Ok(false)
            }
            // The settings may name a file for all hosts that does not exist on this machine.
            Err(_) => Ok(false),
        }
    }

    /// Whether to try a key: it is new and the server accepts keys. The key is then recorded as tried.
    fn is_worth_trying(&mut self, key: &PublicKey) -> bool {
        let known = self.tried_keys.iter().any(|used| used.key_data() == key.key_data());
        if known || !self.accepts(MethodKind::PublicKey) {
            return false;
        }
        self.tried_keys.push(key.clone());
        true
    }

    async fn try_private_key(
        &mut self,
        key: russh::keys::PrivateKey,
        method: String,
    ) -> Result<bool> {
        if !self.is_worth_trying(key.public_key()) {
            return Ok(false);
        }
        let hash = self.rsa_hash(key.algorithm().is_rsa()).await?;
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        let answer = self.handle.authenticate_publickey(self.address.user.as_str(), key).await;
        let answer = answer.map_err(|e| self.ssh_error(e))?;
        Ok(self.record_answer(method, answer))
    }

    async fn try_agent_key(&mut self, key: PublicKey, method: String) -> Result<bool> {
        if !self.is_worth_trying(&key) {
            return Ok(false);
        }
        let hash = self.rsa_hash(key.algorithm().is_rsa()).await?;
        let Some(agent) = self.agent.client() else { return Ok(false) };
        let user = self.address.user.as_str();
        match self.handle.authenticate_publickey_with(user, key, hash, agent).await {
            Ok(answer) => Ok(self.record_answer(method, answer)),
            // The agent refuses to sign, for example because its owner declined.
            Err(_) if !self.handle.is_closed() => {
                self.attempts.push(format!("{method}, which the agent did not sign with"));
                Ok(false)
            }
            Err(_) => Err(self.ssh_error(russh::Error::Disconnect)),
        }
    }

    async fn try_password(&mut self) -> Result<bool> {
        let Some(password) = self.address.password.clone() else { return Ok(false) };
        let user = self.address.user.as_str();
        if self.accepts(MethodKind::Password) {
            let answer = self.handle.authenticate_password(user, password.as_str()).await;
            let answer = answer.map_err(|e| self.ssh_error(e))?;
            if self.record_answer("the password".into(), answer) {
                return Ok(true);
            }
        }
        if self.accepts(MethodKind::KeyboardInteractive) {
            return self.try_keyboard_interactive(user, &password).await;
        }
        Ok(false)
    }

    /// Logs in with the password by a prompt of the server: a single question with hidden input.
    async fn try_keyboard_interactive(&mut self, user: &str, password: &str) -> Result<bool> {
        use KeyboardInteractiveAuthResponse as Answer;
        let started = self.handle.authenticate_keyboard_interactive_start(user, None).await;
        let mut answer = started.map_err(|e| self.ssh_error(e))?;
        let mut password_sent = false;
        loop {
            let prompts = match answer {
                Answer::Success => return Ok(true),
                Answer::Failure { remaining_methods, partial_success } => {
                    let answer = AuthResult::Failure { remaining_methods, partial_success };
                    return Ok(self.record_answer("the password".into(), answer));
                }
                Answer::InfoRequest { prompts, .. } => prompts,
            };
            // A second question is about something else, or it means that the password was wrong.
            let replies = match prompts.as_slice() {
                [] => Vec::new(),
                [prompt] if !prompt.echo && !password_sent => {
                    password_sent = true;
                    vec![password.to_owned()]
                }
                _ => return Ok(self.stop_at_unknown_prompt()),
            };
            let next = self.handle.authenticate_keyboard_interactive_respond(replies).await;
            answer = next.map_err(|e| self.ssh_error(e))?;
        }
    }

    /// Stops, because the server waits for an answer that we do not have. It accepts no other method until then.
    fn stop_at_unknown_prompt(&mut self) -> bool {
        self.attempts.push("the password".into());
        self.methods = MethodSet::empty();
        false
    }

    async fn try_all_agent_keys(&mut self) -> Result<bool> {
        for (key, comment) in self.agent.keys() {
            let fingerprint = key.fingerprint(HashAlg::Sha256);
            let method = format!("the agent's key {fingerprint} ({comment})");
            if self.try_agent_key(key, method).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn try_default_key_files(&mut self) -> Result<bool> {
        let Some(home) = std::env::home_dir() else { return Ok(false) };
        for file in DEFAULT_KEY_FILES.map(|name| home.join(".ssh").join(name)) {
            if self.try_key_file(KeyFile::load(&file).await).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn refused_error(self) -> Error {
        let address = self.address;
        let cause = match self.attempts.as_slice() {
            [] => "there was no login method to try".to_owned(),
            // Most servers close the connection after a few keys.
            attempts if self.handle.is_closed() => {
                format!("the server refused {}, and closed the connection", attempts.join(", "))
            }
            attempts => format!("the server refused {}", attempts.join(", ")),
        };
        let text = format!("log in to {address} as {:?}", address.user);
        Error::new(Kind::Unauthenticated, text).because(cause).hint(hint![
            "set a password (",
            Setting::Password,
            ", or ",
            Setting::User.with("USER"),
            " for a prompt) or a key file (",
            Setting::Identity.with("FILE"),
            "), or add a key to the agent",
        ])
    }
}
