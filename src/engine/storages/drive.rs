//! Opens the backend of a Drive storage.

use std::sync::Arc;

use crate::{
    backends::{
        BackendState, DriveBackend, DriveSettings,
        drive::{Credentials, http_client},
    },
    config::{DriveProfile, Profile, Secret},
    error::{Error, Kind, Result},
    hints::{Operation, hint},
};

/// Opens the backend of a Drive profile. Sends no request.
pub(super) async fn open_drive(
    profile: &Profile,
    drive: &DriveProfile,
    state: Arc<dyn BackendState>,
) -> Result<DriveBackend> {
    let http = http_client()?;
    let (name, keys) = (profile.canonical_name(), drive.clone());
    // A secret may come from a command, which may prompt the user.
    let credentials = tokio::task::spawn_blocking(move || credentials(&name, &keys)).await;
    let credentials = credentials.map_err(|e| {
        Error::new(Kind::Internal, "resolving the secrets of a storage panicked").because(e)
    })?;
    let tokens = credentials?.into_token_source(&http)?;
    let mut settings = DriveSettings { folder: drive.folder.clone(), ..DriveSettings::default() };
    if let Some(endpoint) = &drive.endpoint {
        settings.endpoint = endpoint.clone();
    }
    Ok(DriveBackend::open(http, settings, tokens, state))
}

/// The credentials to use, the most explicit first: an access token, a service account, the user's sign-in.
fn credentials(name: &str, drive: &DriveProfile) -> Result<Credentials> {
    let with_context = |e: Error| e.with_context(format!("storage {name:?}"));
    let reveal = |secret: &Secret| secret.reveal().map_err(with_context);
    if let Some(token) = &drive.token {
        return reveal(token).map(Credentials::Token);
    }
    let token_uri = drive.token_uri.clone();
    if let Some(key) = &drive.service_account {
        return Ok(Credentials::ServiceAccount { key: reveal(key)?, token_uri });
    }
    let login =
        hint!["sign in with ", Operation::StorageLogin.on(name), ", or set BAE_DRIVE_TOKEN",];
    let missing = |what: &str| {
        Error::new(Kind::Unauthenticated, format!("storage {name:?} has no {what}"))
            .hint(login.clone())
    };
    let refresh_token = drive.refresh_token.as_ref().ok_or_else(|| missing("sign-in"))?;
    let client_id = drive.client_id.clone().ok_or_else(|| missing("client_id"))?;
    let client_secret = drive.client_secret.as_ref().ok_or_else(|| missing("client_secret"))?;
    Ok(Credentials::User {
        client_id,
        client_secret: reveal(client_secret)?,
        refresh_token: reveal(refresh_token)?,
        token_uri,
    })
}
