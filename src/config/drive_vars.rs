//! Google Drive without a profile: `BAE_DRIVE_TOKEN` and similar variables, and two flags that override them.
//!
//! They are the credentials of a `drive://FOLDER` URL, and of a profile without credentials. On their own they define
//! the storage `drive`, unless a profile has this type.

use super::{
    DriveProfile, Env, Overrides, Profile, ProfileKind, Secret, aws::AwsEndpoint,
    settings::ProfileSettings,
};
use crate::{
    error::{Error, Kind, Result},
    hints::Setting,
};

const KEYS: &[&str] = &[
    "folder",
    "token",
    "client_id",
    "client_secret",
    "refresh_token",
    "service_account",
    "endpoint",
    "token_uri",
];

/// The variables and flags as keys of a profile.
pub(super) fn read(overrides: &Overrides, env: &Env) -> ProfileSettings {
    let mut settings = ProfileSettings::default();
    for key in KEYS {
        let variable = format!("BAE_DRIVE_{}", key.to_ascii_uppercase());
        if let Some(value) = env.get(&variable) {
            settings.set(key, value, variable);
        }
    }
    settings.expand_home(|path| env.absolute(path));
    if let Some(folder) = &overrides.drive_folder {
        settings.set("folder", folder, Setting::DriveFolder.to_string());
    }
    if let Some(Secret::Text(token)) = &overrides.drive_token {
        settings.set("token", token, Setting::DriveToken.to_string());
    }
    settings
}

/// The storage defined by the variables alone; `None` when none is set.
pub(super) fn profile(variables: &ProfileSettings) -> Result<Option<Profile>> {
    if !variables.has_any(KEYS) {
        return Ok(None);
    }
    if let Some(folder) = variables.text("folder") {
        // Named by its URL, so that it is found again without the variable.
        let mut profile = Profile::from_url(&format!("drive://{folder}"), &AwsEndpoint::default())?;
        if let ProfileKind::Drive(drive) = &mut profile.kind {
            copy_credentials(drive, &to_drive_profile(variables)?);
        }
        return Ok(Some(profile));
    }
    let mut settings = variables.clone();
    settings.set("type", "drive", "BAE_DRIVE_".into());
    Profile::from_settings("drive", settings).map(Some)
}

/// Adds credentials to `drive` if it has none: those of the variables, else those of the profile with the same folder.
pub(super) fn fill_credentials<'a>(
    drive: &mut DriveProfile,
    variables: &ProfileSettings,
    profiles: impl Iterator<Item = (&'a String, &'a ProfileSettings)>,
) -> Result<()> {
    if has_credentials(drive) {
        return Ok(());
    }
    let from_variables = to_drive_profile(variables)?;
    if has_credentials(&from_variables) {
        copy_credentials(drive, &from_variables);
        return Ok(());
    }
    for (name, settings) in profiles {
        let same = drive.folder.is_some() && settings.text("folder") == drive.folder.as_deref();
        if !same || settings.text("type") != Some("drive") {
            continue;
        }
        if let ProfileKind::Drive(other) = Profile::from_settings(name, settings.clone())?.kind {
            copy_credentials(drive, &other);
            return Ok(());
        }
    }
    Ok(())
}

fn to_drive_profile(variables: &ProfileSettings) -> Result<DriveProfile> {
    let mut settings = variables.clone();
    settings.set("type", "drive", "BAE_DRIVE_".into());
    match Profile::from_settings("drive", settings)?.kind {
        ProfileKind::Drive(drive) => Ok(*drive),
        _ => Err(Error::new(Kind::Internal, "a drive profile of another type")),
    }
}

fn has_credentials(drive: &DriveProfile) -> bool {
    drive.token.is_some() || drive.refresh_token.is_some() || drive.service_account.is_some()
}

fn copy_credentials(drive: &mut DriveProfile, from: &DriveProfile) {
    let DriveProfile { folder: _, client_id, client_secret, refresh_token, token, .. } =
        from.clone();
    (drive.client_id, drive.client_secret) = (client_id, client_secret);
    (drive.refresh_token, drive.token) = (refresh_token, token);
    drive.service_account = from.service_account.clone();
    drive.endpoint = drive.endpoint.take().or_else(|| from.endpoint.clone());
    drive.token_uri = drive.token_uri.take().or_else(|| from.token_uri.clone());
}
