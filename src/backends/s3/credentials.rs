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

use super::{S3Settings, errors::BucketAddress, quirks::Quirks};
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
    address: &BucketAddress,
) -> Result<Region> {
    let (name, origin) = match (&settings.region, &quirks.region) {
        (Some(configured), _) => (configured.clone(), "region"),
        (None, Some(fixed)) if quirks.region_is_fixed() => (fixed.clone(), "region"),
        // The host gives a default, so AWS profile files and the metadata service are not read.
        (None, Some(default)) => region_from_env().unwrap_or_else(|| (default.clone(), "region")),
        (None, None) => match region_from_env() {
            Some(found) => found,
            None => (region_from_profile(address).await?, "the region of the AWS profile"),
        },
    };
    let bad = |why: String| Error::new(Kind::InvalidInput, format!("{address}: {why}"));
    let name = header_text(origin, &name).map_err(bad)?;
    // The region stands between slashes in the signature, and may be part of a host name.
    if name.contains(['/', ' ', ',']) {
        return Err(bad(format!("{origin} is not a valid region name")));
    }
    Ok(Region::new(name))
}

fn region_from_env() -> Option<(String, &'static str)> {
    let read = |name| Some((std::env::var(name).ok()?, name));
    let is_set = |(text, _): &(String, _)| !text.trim().is_empty();
    ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().filter_map(read).find(is_set)
}

async fn region_from_profile(address: &BucketAddress) -> Result<String> {
    let found = DefaultRegionChain::builder().build().region().await;
    found.map(|region| region.to_string()).ok_or_else(|| {
        Error::new(Kind::InvalidInput, format!("no region is set for {address}"))
            .hint("set region of the storage, or AWS_REGION")
    })
}

/// The configured credentials, or a provider that searches where AWS tools do, at the first request.
///
/// # Errors
/// `InvalidInput` when configured credentials are invalid.
pub(super) async fn credentials_provider(
    settings: &S3Settings,
    region: &Region,
    address: &BucketAddress,
) -> Result<SharedCredentialsProvider> {
    if let (Some(id), Some(secret)) = (&settings.access_key_id, &settings.secret_access_key) {
        let bad = |why: String| {
            Error::new(Kind::InvalidInput, format!("{address}: {why}"))
                .hint("check for a second line in it, or in the output of its command")
        };
        let id = header_text("access_key_id", id).map_err(bad)?;
        let secret = secret_text("secret_access_key", secret).map_err(bad)?;
        let keys = Credentials::new(id, secret, None, None, "bae storage");
        return Ok(SharedCredentialsProvider::new(keys));
    }
    let chain = DefaultCredentialsChain::builder().region(region.clone()).build().await;
    Ok(SharedCredentialsProvider::new(CheckedChain(chain)))
}

/// Whether no credentials exist, neither in the settings nor where AWS tools look. False for any other problem with
/// them.
pub(super) async fn has_no_credentials(
    settings: &S3Settings,
    quirks: &Quirks,
    address: &BucketAddress,
) -> bool {
    if settings.access_key_id.is_some() {
        return false;
    }
    let Ok(region) = region(settings, quirks, address).await else { return false };
    let Ok(provider) = credentials_provider(settings, &region, address).await else { return false };
    matches!(provider.provide_credentials().await, Err(CredentialsError::CredentialsNotLoaded(_)))
}

/// Why no credentials are available, worded by bae.
#[derive(Debug)]
pub(super) struct CredentialsProblem(String);

impl fmt::Display for CredentialsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for CredentialsProblem {}

/// Validates the credentials that the AWS search finds, before they are used.
#[derive(Debug)]
struct CheckedChain(DefaultCredentialsChain);

impl ProvideCredentials for CheckedChain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            let problem = |why| CredentialsError::invalid_configuration(CredentialsProblem(why));
            if let Some(why) = incomplete_key_pair() {
                return Err(problem(why));
            }
            match self.0.provide_credentials().await {
                Ok(found) => check_credentials(&found).map_err(problem),
                Err(e) => Err(match explain(&e).await {
                    Some(why) => problem(why),
                    None => e,
                }),
            }
        })
    }
}

fn check_credentials(found: &Credentials) -> Result<Credentials, String> {
    let id = header_text("the access key id", found.access_key_id())?;
    let secret = secret_text("the secret access key", found.secret_access_key())?;
    let token = found.session_token().map(|token| header_text("the session token", token));
    Ok(Credentials::new(id, secret, token.transpose()?, found.expiry(), "bae"))
}

/// Reports when only one of the two variables is set. The search would go on and might find unintended credentials.
fn incomplete_key_pair() -> Option<String> {
    let is_set = |name| std::env::var(name).is_ok_and(|text| !text.trim().is_empty());
    let (id, secret) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
    match (is_set(id), is_set(secret) || is_set("SECRET_ACCESS_KEY")) {
        (true, false) => Some(format!("{id} is set, but {secret} is not")),
        (false, true) => Some(format!("{secret} is set, but {id} is not")),
        _ => None,
    }
}

/// A better explanation, for errors where the SDK names no cause or names its own cargo features.
async fn explain(error: &CredentialsError) -> Option<String> {
    let cause = root_cause(error);
    let name = std::env::var("AWS_PROFILE").ok().filter(|name| !name.trim().is_empty());
    let profile = name
        .as_ref()
        .map_or("the AWS profile".to_owned(), |name| format!("the AWS profile {name:?}"));
    if cause.contains("cargo feature") {
        return Some(unsupported_profile(&profile, &cause));
    }
    name.as_ref()?;
    // The search skips a profile that does not exist and reports the last provider's error, so the profile is read
    // alone.
    let profile_provider = ProfileFileCredentialsProvider::builder().build();
    Some(match profile_provider.provide_credentials().await.err()? {
        CredentialsError::CredentialsNotLoaded(_) => {
            format!(
                "{profile} (AWS_PROFILE) is in none of the AWS config files, or has no credentials"
            )
        }
        e => match root_cause(&e) {
            cause if cause.contains("cargo feature") => unsupported_profile(&profile, &cause),
            cause => format!("{profile}: {cause}"),
        },
    })
}

fn unsupported_profile(profile: &str, cause: &str) -> String {
    let what = if cause.contains("sso") { "SSO" } else { "a sign-in method" };
    format!(
        "{profile} uses {what}, which is not supported: run `aws configure export-credentials --format env`"
    )
}

fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&e| e.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsupported_sso_profile_is_named_with_a_workaround() {
        let cause = "This behavior requires following cargo feature(s) enabled: sso. In order";
        let why = unsupported_profile("the AWS profile \"work\"", cause);
        assert!(why.contains("\"work\" uses SSO") && why.contains("export-credentials"), "{why}");
    }
}
