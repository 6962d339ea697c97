//! Sources of access tokens. A token is cached in memory, and one caller renews it for all.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::Mutex, time::Instant};
use url::Url;
use yup_oauth2::{ServiceAccountAuthenticator, ServiceAccountKey};

use super::{
    errors::sign_in_again,
    oauth::{self, AccessToken, Grant, TOKEN_URI},
};
use crate::{
    error::{Error, Kind, Result},
    hints::{Operation, hint},
};

/// Supplies access tokens.
#[async_trait]
pub trait TokenSource: Send + Sync + fmt::Debug {
    /// A token that is valid now, and differs from `rejected`, which the server has rejected.
    ///
    /// # Errors
    /// `Unauthenticated` when no token can be had; retryable kinds when the token server cannot be reached.
    async fn token(&self, rejected: Option<&AccessToken>) -> Result<AccessToken>;
}

/// Credentials for Google Drive.
pub enum Credentials {
    /// A ready access token. Valid for at most an hour, and never renewed.
    Token(String),
    /// A refresh token, as `bae storage login` stores it.
    User { client_id: String, client_secret: String, refresh_token: String, token_uri: Option<Url> },
    /// The key file of a service account: its path, or its JSON text.
    ServiceAccount { key: String, token_uri: Option<Url> },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(..)",
            Self::User { .. } => "User(..)",
            Self::ServiceAccount { .. } => "ServiceAccount(..)",
        })
    }
}

impl Credentials {
    /// Makes a token source of these credentials.
    ///
    /// # Errors
    /// `InvalidInput` when the key of a service account cannot be parsed, or a token has invalid characters.
    /// Otherwise the I/O error of reading the key file.
    pub fn into_token_source(self, http: &reqwest::Client) -> Result<Arc<dyn TokenSource>> {
        Ok(match self {
            Self::Token(token) => Arc::new(FixedToken(AccessToken::new(&token)?)),
            Self::User { client_id, client_secret, refresh_token, token_uri } => {
                let token_uri = token_uri.map_or_else(|| Url::parse(TOKEN_URI), Ok);
                let token_uri = token_uri.expect("the built-in address is a URL");
                let http = http.clone();
                Arc::new(CachedTokenSource::new(User {
                    client_id,
                    client_secret,
                    refresh_token,
                    token_uri,
                    http,
                }))
            }
            Self::ServiceAccount { key, token_uri } => {
                let mut key = service_key(&key)?;
                if let Some(uri) = token_uri {
                    key.token_uri = uri.into();
                }
                Arc::new(CachedTokenSource::new(ServiceAccount(key)))
            }
        })
    }
}

fn service_key(path_or_json: &str) -> Result<ServiceAccountKey> {
    let text = if path_or_json.trim_start().starts_with('{') {
        path_or_json.to_owned()
    } else {
        let path = Path::new(path_or_json);
        let context = || format!("service account key {}", path.display());
        std::fs::read_to_string(path).map_err(|e| Error::io(context(), e))?
    };
    // Without serde's message, which may quote the key.
    serde_json::from_str(&text).map_err(|_| {
        Error::new(Kind::InvalidInput, "the service account key is not a JSON key file of Google")
            .hint("set service_account to the path of the downloaded key file, or to its content")
    })
}

/// A configured token that bae cannot renew.
#[derive(Debug)]
struct FixedToken(AccessToken);

#[async_trait]
impl TokenSource for FixedToken {
    async fn token(&self, rejected: Option<&AccessToken>) -> Result<AccessToken> {
        match rejected {
            None => Ok(self.0.clone()),
            Some(_) => Err(Error::new(Kind::Unauthenticated, "Google rejected the access token")
                .hint(hint![
                    "an access token is valid for an hour: set a new one, or sign in with ",
                    Operation::StorageLogin.on("NAME"),
                ])),
        }
    }
}

/// Requests the next token for [`CachedTokenSource`].
#[async_trait]
trait Renew: Send + Sync + fmt::Debug {
    async fn renew(&self) -> Result<Grant>;
}

/// Caches a token until one minute before it expires. The first caller without a valid token renews it while others
/// wait.
#[derive(Debug)]
struct CachedTokenSource<R> {
    renewer: R,
    cached: Mutex<Option<(AccessToken, Instant)>>,
}

/// A token is not used in its last minute, because it must outlast the request.
const RENEWAL_MARGIN: Duration = Duration::from_secs(60);

impl<R: Renew> CachedTokenSource<R> {
    fn new(renewer: R) -> Self {
        Self { renewer, cached: Mutex::new(None) }
    }
}

#[async_trait]
impl<R: Renew> TokenSource for CachedTokenSource<R> {
    async fn token(&self, rejected: Option<&AccessToken>) -> Result<AccessToken> {
        let mut cached = self.cached.lock().await;
        if let Some((token, until)) = &*cached
            && *until > Instant::now()
            && rejected != Some(token)
        {
            return Ok(token.clone());
        }
        let granted = self.renewer.renew().await?;
        let until = Instant::now() + granted.lifetime.saturating_sub(RENEWAL_MARGIN);
        *cached = Some((granted.access_token.clone(), until));
        Ok(granted.access_token)
    }
}

struct User {
    client_id: String,
    client_secret: String,
    refresh_token: String,
    token_uri: Url,
    http: reqwest::Client,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

#[async_trait]
impl Renew for User {
    async fn renew(&self) -> Result<Grant> {
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", &self.client_id),
            ("client_secret", &self.client_secret),
            ("refresh_token", &self.refresh_token),
        ];
        oauth::request_token(&self.http, &self.token_uri, &form)
            .await?
            .map_err(oauth::OAuthError::into_error)
    }
}

/// OAuth scope of a service account. With `drive.file` an account sees only files that it created, but its folder was
/// created by a user and shared with it. The wider scope still reaches only what is shared with the account.
const SERVICE_SCOPE: &str = "https://www.googleapis.com/auth/drive";

struct ServiceAccount(ServiceAccountKey);

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServiceAccount").field(&self.0.client_email).finish()
    }
}

#[async_trait]
impl Renew for ServiceAccount {
    async fn renew(&self) -> Result<Grant> {
        let account = &self.0.client_email;
        let signer = ServiceAccountAuthenticator::builder(self.0.clone())
            .with_timeout(Duration::from_secs(30))
            .build()
            .await
            .map_err(|e| {
                let text = format!("the private key of service account {account} cannot be used");
                Error::new(Kind::InvalidInput, text).because(e)
            })?;
        let rejected = |e: yup_oauth2::Error| match e {
            yup_oauth2::Error::AuthError(_) => {
                let text = format!("Google rejected service account {account}");
                Error::new(Kind::Unauthenticated, text).because(e).hint(
                    "create a new key for it in the Google Cloud console, and check the clock of this machine",
                )
            }
            e => Error::new(Kind::Network, format!("sign-in of service account {account}"))
                .because(e.to_string()),
        };
        let token = signer.token(&[SERVICE_SCOPE]).await.map_err(rejected)?;
        let text = token.token().ok_or_else(|| {
            Error::new(Kind::Unauthenticated, "the token server returned no token")
                .hint(sign_in_again())
        })?;
        // Google's tokens are valid for an hour. Without a stated lifetime, five minutes are assumed.
        let now = std::time::SystemTime::now();
        let expires_at = token.expiration_time().map(std::time::SystemTime::from);
        let lifetime = expires_at.and_then(|end| end.duration_since(now).ok());
        Ok(Grant {
            access_token: AccessToken::new(text)?,
            lifetime: lifetime.unwrap_or(Duration::from_secs(300)),
            refresh_token: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Debug)]
    struct CountingRenewer(AtomicU32, Duration);

    fn source_with_lifetime(lifetime: Duration) -> CachedTokenSource<CountingRenewer> {
        CachedTokenSource::new(CountingRenewer(AtomicU32::new(0), lifetime))
    }

    #[async_trait]
    impl Renew for CountingRenewer {
        async fn renew(&self) -> Result<Grant> {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let n = self.0.fetch_add(1, Ordering::Relaxed);
            let access_token = AccessToken(format!("t{n}"));
            Ok(Grant { access_token, lifetime: self.1, refresh_token: None })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_callers_renew_a_token_once() {
        let source = source_with_lifetime(Duration::from_secs(3600));
        let request = || source.token(None);
        let (a, b, c, d) = tokio::join!(request(), request(), request(), request());
        for token in [a, b, c, d] {
            assert_eq!(token.unwrap().0, "t0");
        }
        let old = AccessToken("t0".into());
        let request = || source.token(Some(&old));
        let (a, b) = tokio::join!(request(), request());
        assert_eq!((a.unwrap().0.as_str(), b.unwrap().0.as_str()), ("t1", "t1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_a_minute_before_it_expires() {
        let second = Duration::from_secs(1);
        let source = source_with_lifetime(RENEWAL_MARGIN + 10 * second);
        assert_eq!(source.token(None).await.unwrap().0, "t0");
        tokio::time::sleep(9 * second).await;
        assert_eq!(source.token(None).await.unwrap().0, "t0");
        tokio::time::sleep(second).await;
        assert_eq!(source.token(None).await.unwrap().0, "t1");
    }

    #[test]
    fn debug_shows_no_secret() {
        let http = reqwest::Client::new();
        let user = Credentials::User {
            client_id: "id".into(),
            client_secret: "hunter2".into(),
            refresh_token: "hunter2".into(),
            token_uri: None,
        };
        let shown = format!("{user:?} {:?}", Credentials::Token("hunter2".into()));
        let sources = [user, Credentials::Token("hunter2".into())]
            .map(|credentials| format!("{:?}", credentials.into_token_source(&http).unwrap()));
        assert!(!shown.contains("hunter2") && !sources.concat().contains("hunter2"), "{sources:?}");
    }

    #[test]
    fn an_invalid_service_account_key_is_not_quoted() {
        let bad = Credentials::ServiceAccount { key: "{\"hunter2\": 1}".into(), token_uri: None };
        let error = bad.into_token_source(&reqwest::Client::new()).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidInput);
        assert!(!error.report().contains("hunter2"));
    }
}
