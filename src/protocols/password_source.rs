//! Passwords for logins without one, as in `sftp://me@host/`. A configured password applies to all of them; otherwise
//! the user is prompted.

use std::{collections::HashMap, fmt, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use crate::{
    config::Secret,
    error::{Error, Kind, Result},
    hints::{Operation, Setting, hint},
};

/// Prompts for the password of a user at a host (`bob at files.example`).
pub type PasswordPrompt = Arc<dyn Fn(String) -> BoxFuture<'static, Result<String>> + Send + Sync>;

/// Source of passwords. Cheap to clone; all clones share one state.
#[derive(Clone, Default)]
pub struct PasswordSource {
    configured: Option<Secret>,
    prompt: Option<PasswordPrompt>,
    /// Answers by user and host, so that each is prompted for once.
    answers: Arc<Mutex<HashMap<(String, String), Secret>>>,
}

impl fmt::Debug for PasswordSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordSource")
            .field("configured", &self.configured)
            .finish_non_exhaustive()
    }
}

impl PasswordSource {
    /// `configured` applies to every user without a password. `prompt` asks the user.
    #[must_use]
    pub fn new(configured: Option<Secret>, prompt: Option<PasswordPrompt>) -> Self {
        Self { configured, prompt, answers: Arc::default() }
    }

    /// The configured password for all users.
    #[must_use]
    pub fn configured(&self) -> Option<Secret> {
        self.configured.clone()
    }

    /// Whether a prompt is possible.
    #[must_use]
    pub fn can_prompt(&self) -> bool {
        self.prompt.is_some()
    }

    /// The password of `user` at `host`. Waits for the answer to a prompt.
    ///
    /// # Errors
    /// `Unauthenticated` if no password is configured and no prompt is possible; the error of the prompt.
    pub async fn password_for(&self, user: &str, host: &str) -> Result<String> {
        if let Some(configured) = &self.configured {
            return configured.reveal();
        }
        let Some(prompt) = &self.prompt else {
            let text = format!("no password for {user:?} at {host}");
            return Err(Error::new(Kind::Unauthenticated, text).hint(hint![
                "set ",
                Setting::Password,
                ", use a netrc file (",
                Setting::Netrc,
                "), or ",
                Operation::AnswerPrompt,
            ]));
        };
        // The lock allows one prompt at a time.
        let mut answers = self.answers.lock().await;
        let key = (user.to_owned(), host.to_owned());
        if let Some(known) = answers.get(&key) {
            return known.reveal();
        }
        let password = prompt(format!("{user} at {host}")).await?;
        answers.insert(key, Secret::Text(password.clone()));
        Ok(password)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn each_user_is_prompted_for_once_and_only_without_a_configured_password() {
        let prompts = Arc::new(AtomicU32::new(0));
        let prompt: PasswordPrompt = {
            let prompts = Arc::clone(&prompts);
            Arc::new(move |login| {
                prompts.fetch_add(1, Ordering::Relaxed);
                Box::pin(async move { Ok(format!("of {login}")) })
            })
        };
        let passwords = PasswordSource::new(None, Some(Arc::clone(&prompt)));
        for _ in 0..2 {
            assert_eq!(passwords.password_for("bob", "h").await.unwrap(), "of bob at h");
        }
        assert_eq!(passwords.password_for("eve", "h").await.unwrap(), "of eve at h");
        assert_eq!(prompts.load(Ordering::Relaxed), 2);
        let configured = PasswordSource::new(Some(Secret::Text("hunter2".into())), Some(prompt));
        assert_eq!(configured.password_for("bob", "h").await.unwrap(), "hunter2");
        assert_eq!(prompts.load(Ordering::Relaxed), 2);
        assert!(!format!("{configured:?}").contains("hunter2"));
        let refused = PasswordSource::default().password_for("bob", "h").await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unauthenticated);
        assert!(refused.typed_hint().unwrap().names_setting(Setting::Password));
    }
}
