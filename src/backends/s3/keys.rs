//! The region and the keys that requests are signed with: as given, or where AWS tools look for them.
//!
//! Both go into headers, and the signer panics on what no header can hold. So white space at their ends is taken off (a
//! secret from a file or a pipe has a line end) and anything else of the kind is an error that names it, without its
//! value.

use std::{error::Error as StdError, fmt};

use aws_config::{
    default_provider::{credentials::DefaultCredentialsChain, region::DefaultRegionChain},
    profile::ProfileFileCredentialsProvider,
};
use aws_credential_types::provider::{ProvideCredentials, error::CredentialsError, future};
use aws_sdk_s3::config::{Credentials, Region, SharedCredentialsProvider};

use super::{S3Settings, errors::Place, quirks::Quirks};
use crate::{
    backends::header::{header_text, secret_text},
    error::{Error, Kind, Result},
};

/// The region that requests are signed for: as given, as the place fixes it, as AWS tools find it.
///
/// # Errors
/// `InvalidInput` when there is none, or it cannot be one.
pub(super) async fn region(
    settings: &S3Settings,
    quirks: &Quirks,
    place: &Place,
) -> Result<Region> {
    let (name, origin) = match (&settings.region, &quirks.region) {
        (Some(given), _) => (given.clone(), "region"),
        (None, Some(fixed)) if quirks.region_is_fixed() => (fixed.clone(), "region"),
        // A server of one's own: no files are read and no metadata service is asked for it.
        (None, Some(usual)) => from_env().unwrap_or_else(|| (usual.clone(), "region")),
        (None, None) => match from_env() {
            Some(found) => found,
            None => (from_files(place).await?, "the region of the AWS profile"),
        },
    };
    let bad = |why: String| Error::new(Kind::InvalidInput, format!("{place}: {why}"));
    let name = header_text(origin, &name).map_err(bad)?;
    // It is between slashes in the signature, and may be a part of a host name.
    if name.contains(['/', ' ', ',']) {
        return Err(bad(format!("{origin} is not the name of a region")));
    }
    Ok(Region::new(name))
}

fn from_env() -> Option<(String, &'static str)> {
    let read = |name| Some((std::env::var(name).ok()?, name));
    let set = |(text, _): &(String, _)| !text.trim().is_empty();
    ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().filter_map(read).find(set)
}

async fn from_files(place: &Place) -> Result<String> {
    let found = DefaultRegionChain::builder().build().region().await;
    found.map(|region| region.to_string()).ok_or_else(|| {
        Error::new(Kind::InvalidInput, format!("no region is given for {place}"))
            .hint("set region of the storage, or AWS_REGION")
    })
}

/// The keys that are given, or where AWS tools look for them; looked for there at the first request.
///
/// # Errors
/// `InvalidInput` when given keys cannot be keys.
pub(super) async fn keys(
    settings: &S3Settings,
    region: &Region,
    place: &Place,
) -> Result<SharedCredentialsProvider> {
    if let (Some(id), Some(secret)) = (&settings.access_key_id, &settings.secret_access_key) {
        let bad = |why: String| {
            Error::new(Kind::InvalidInput, format!("{place}: {why}"))
                .hint("is there a second line, in it or in what its command prints?")
        };
        let id = header_text("access_key_id", id).map_err(bad)?;
        let secret = secret_text("secret_access_key", secret).map_err(bad)?;
        let keys = Credentials::new(id, secret, None, None, "bae storage");
        return Ok(SharedCredentialsProvider::new(keys));
    }
    let chain = DefaultCredentialsChain::builder().region(region.clone()).build().await;
    Ok(SharedCredentialsProvider::new(Checked(chain)))
}

/// Whether there are no keys, neither given nor where AWS tools look for them. Any other trouble with them is none of
/// this.
pub(super) async fn has_no_keys(settings: &S3Settings, quirks: &Quirks, place: &Place) -> bool {
    if settings.access_key_id.is_some() {
        return false;
    }
    let Ok(region) = region(settings, quirks, place).await else { return false };
    let Ok(keys) = keys(settings, &region, place).await else { return false };
    matches!(keys.provide_credentials().await, Err(CredentialsError::CredentialsNotLoaded(_)))
}

/// Why there are no keys, in our words.
#[derive(Debug)]
pub(super) struct KeyTrouble(String);

impl fmt::Display for KeyTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for KeyTrouble {}

/// The keys that AWS tools would find, looked at before they are used.
#[derive(Debug)]
struct Checked(DefaultCredentialsChain);

impl ProvideCredentials for Checked {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            let trouble = |why| CredentialsError::invalid_configuration(KeyTrouble(why));
            if let Some(why) = half_a_pair() {
                return Err(trouble(why));
            }
            match self.0.provide_credentials().await {
                Ok(found) => checked(&found).map_err(trouble),
                Err(e) => Err(match explained(&e).await {
                    Some(why) => trouble(why),
                    None => e,
                }),
            }
        })
    }
}

fn checked(found: &Credentials) -> Result<Credentials, String> {
    let id = header_text("the access key id", found.access_key_id())?;
    let secret = secret_text("the secret access key", found.secret_access_key())?;
    let token = found.session_token().map(|token| header_text("the session token", token));
    Ok(Credentials::new(id, secret, token.transpose()?, found.expiry(), "bae"))
}

/// One of the two variables without the other: other keys than those that were meant might be found.
fn half_a_pair() -> Option<String> {
    let set = |name| std::env::var(name).is_ok_and(|text| !text.trim().is_empty());
    let (id, secret) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
    match (set(id), set(secret) || set("SECRET_ACCESS_KEY")) {
        (true, false) => Some(format!("{id} is set, and {secret} is not")),
        (false, true) => Some(format!("{secret} is set, and {id} is not")),
        _ => None,
    }
}

/// What the SDK does not say, or says of itself.
async fn explained(error: &CredentialsError) -> Option<String> {
    let said = texts(error);
    let name = std::env::var("AWS_PROFILE").ok().filter(|name| !name.trim().is_empty());
    let profile = name
        .as_ref()
        .map_or("the AWS profile".to_owned(), |name| format!("the AWS profile {name:?}"));
    if said.contains("cargo feature") {
        return Some(unsupported(&profile, &said));
    }
    name.as_ref()?;
    // The chain goes on behind a profile that is not there, and tells of the last it asked.
    let alone = ProfileFileCredentialsProvider::builder().build();
    let said = texts(&alone.provide_credentials().await.err()?);
    Some(match said.contains("was not defined") {
        true => format!("{profile} (AWS_PROFILE) is in none of the AWS config files"),
        false => format!("{profile}: {said}"),
    })
}

fn unsupported(profile: &str, said: &str) -> String {
    let what = if said.contains("sso") { "SSO" } else { "a way to sign in" };
    format!(
        "{profile} uses {what} that is not supported: run `aws configure export-credentials --format env`"
    )
}

fn texts(error: &(dyn StdError + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&e| e.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sso_is_named_with_what_to_do() {
        let said = "This behavior requires following cargo feature(s) enabled: sso. In order";
        let why = unsupported("the AWS profile \"work\"", said);
        assert!(why.contains("\"work\" uses SSO") && why.contains("export-credentials"), "{why}");
    }
}
