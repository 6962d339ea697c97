//! Passwords for logins without one, as in `sftp://me@host/`. A configured password applies to all of them; otherwise
//! the user is prompted.

use std::{collections::HashMap, fmt, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use crate::{
    config::Secret,
    error::{Error, Kind, Result},
};

/// Prompts for the password of a user at a host (`bob at files.example`).
pub type Ask = Arc<dyn Fn(String) -> BoxFuture<'static, Result<String>> + Send + Sync>;

/// Source of passwords. Cheap to clone; all clones share one state.
#[derive(Clone, Default)]
pub struct Passwords {
    given: Option<Secret>,
    ask: Option<Ask>,
    /// Answers by user and host, so that each is prompted for once.
    asked: Arc<Mutex<HashMap<(String, String), Secret>>>,
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").field("given", &self.given).finish_non_exhaustive()
    }
}

impl Passwords {
    /// `given` applies to every user without a password. `ask` prompts the user.
    #[must_use]
    pub fn new(given: Option<Secret>, ask: Option<Ask>) -> Self {
        Self { given, ask, asked: Arc::default() }
    }

    /// The configured password for all users.
    #[must_use]
    pub fn given(&self) -> Option<Secret> {
        self.given.clone()
    }

    /// Whether a prompt is possible.
    #[must_use]
    pub fn can_ask(&self) -> bool {
        self.ask.is_some()
    }

    /// The password of `user` at `host`. Waits for the answer to a prompt.
    ///
    /// # Errors
    /// `Unauthenticated` if no password is configured and no prompt is possible; the error of the prompt.
    pub async fn of(&self, user: &str, host: &str) -> Result<String> {
        if let Some(given) = &self.given {
            return given.reveal();
        }
        let Some(ask) = &self.ask else {
            let text = format!("no password is given for {user:?} at {host}");
            return Err(Error::new(Kind::Unauthenticated, text).hint(
                "set BAE_PASSWORD, have a netrc file read with --netrc, or run it on a terminal to be asked",
            ));
        };
        // The lock allows one prompt at a time.
        let mut asked = self.asked.lock().await;
        let key = (user.to_owned(), host.to_owned());
        if let Some(known) = asked.get(&key) {
            return known.reveal();
        }
        let password = ask(format!("{user} at {host}")).await?;
        asked.insert(key, Secret::Text(password.clone()));
        Ok(password)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn somebody_is_asked_once_for_each_user_and_only_when_nothing_is_given() {
        let times = Arc::new(AtomicU32::new(0));
        let ask: Ask = {
            let times = Arc::clone(&times);
            Arc::new(move |who| {
                times.fetch_add(1, Ordering::Relaxed);
                Box::pin(async move { Ok(format!("of {who}")) })
            })
        };
        let passwords = Passwords::new(None, Some(Arc::clone(&ask)));
        for _ in 0..2 {
            assert_eq!(passwords.of("bob", "h").await.unwrap(), "of bob at h");
        }
        assert_eq!(passwords.of("eve", "h").await.unwrap(), "of eve at h");
        assert_eq!(times.load(Ordering::Relaxed), 2);
        let given = Passwords::new(Some(Secret::Text("hunter2".into())), Some(ask));
        assert_eq!(given.of("bob", "h").await.unwrap(), "hunter2");
        assert_eq!(times.load(Ordering::Relaxed), 2);
        assert!(!format!("{given:?}").contains("hunter2"));
        let nobody = Passwords::default().of("bob", "h").await.unwrap_err();
        assert_eq!(nobody.kind(), Kind::Unauthenticated);
        assert!(nobody.hint_text().unwrap().contains("BAE_PASSWORD"));
    }
}
