//! The region and the credentials that requests are signed with, from the settings or from where AWS tools look.
//!
//! Both go into headers, and the signer panics on characters that no header can hold. So white space at the ends is
//! trimmed (a secret from a file or a pipe ends with a newline), and any other such character is an error. The error
//! names the setting, but not its value.

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

/// The region that requests are signed for. Sources in order: the settings, the service's host name, the AWS
/// configuration. For AWS and for unknown hosts the environment takes precedence over the host name.
///
/// # Errors
/// `InvalidInput` when no region is found, or it is invalid.
pub(super) async fn region(
    settings: &S3Settings,
    quirks: &Quirks,
    place: &Place,
) -> Result<Region> {
    let (name, origin) = match (&settings.region, &quirks.region) {
        (Some(given), _) => (given.clone(), "region"),
        (None, Some(fixed)) if quirks.region_is_fixed() => (fixed.clone(), "region"),
        // The host gives a default, so AWS profile files and the metadata service are not read.
        (None, Some(usual)) => from_env().unwrap_or_else(|| (usual.clone(), "region")),
        (None, None) => match from_env() {
            Some(found) => found,
            None => (from_files(place).await?, "the region of the AWS profile"),
        },
    };
    let bad = |why: String| Error::new(Kind::InvalidInput, format!("{place}: {why}"));
    let name = header_text(origin, &name).map_err(bad)?;
    // The region stands between slashes in the signature, and may be part of a host name.
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

/// The configured credentials, or a provider that searches where AWS tools do, at the first request.
///
/// # Errors
/// `InvalidInput` when configured credentials are invalid.
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

/// Whether no credentials exist, neither in the settings nor where AWS tools look. False for any other problem with
/// them.
pub(super) async fn has_no_keys(settings: &S3Settings, quirks: &Quirks, place: &Place) -> bool {
    if settings.access_key_id.is_some() {
        return false;
    }
    let Ok(region) = region(settings, quirks, place).await else { return false };
    let Ok(keys) = keys(settings, &region, place).await else { return false };
    matches!(keys.provide_credentials().await, Err(CredentialsError::CredentialsNotLoaded(_)))
}

/// Why no credentials are available, worded by bae.
#[derive(Debug)]
pub(super) struct KeyTrouble(String);

impl fmt::Display for KeyTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for KeyTrouble {}

/// Validates the credentials that the AWS search finds, before they are used.
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

/// Reports when only one of the two variables is set. The search would go on and might find unintended credentials.
fn half_a_pair() -> Option<String> {
    let set = |name| std::env::var(name).is_ok_and(|text| !text.trim().is_empty());
    let (id, secret) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
    match (set(id), set(secret) || set("SECRET_ACCESS_KEY")) {
        (true, false) => Some(format!("{id} is set, and {secret} is not")),
        (false, true) => Some(format!("{secret} is set, and {id} is not")),
        _ => None,
    }
}

/// A better explanation, for errors where the SDK names no cause or names its own cargo features.
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
    // The search skips a profile that does not exist and reports the last provider's error, so the profile is read
    // alone.
    let alone = ProfileFileCredentialsProvider::builder().build();
    Some(match alone.provide_credentials().await.err()? {
        CredentialsError::CredentialsNotLoaded(_) => {
            format!("{profile} (AWS_PROFILE) is in none of the AWS config files, or has no keys")
        }
        e => match texts(&e) {
            said if said.contains("cargo feature") => unsupported(&profile, &said),
            said => format!("{profile}: {said}"),
        },
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
