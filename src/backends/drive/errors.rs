//! Maps Drive's refusals to error kinds and hints, in one table.

use serde::Deserialize;

use crate::{
    backends::endpoint_error::is_html_document,
    error::{Error, Kind},
    hints::{Hint, Operation, hint},
};

/// A parsed refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DriveRefusal {
    pub(super) kind: Kind,
    /// Google's message and reason.
    pub(super) text: String,
    hint: Option<Hint>,
}

#[derive(Deserialize, Default)]
struct ErrorBody {
    #[serde(default)]
    error: ErrorDetails,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ErrorDetails {
    message: String,
    errors: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    reason: String,
}

impl DriveRefusal {
    /// Parses an answer's status and the start of its body.
    pub(super) fn read(status: u16, body: &[u8]) -> Self {
        // Google sends HTML pages for server errors, but not for invalid requests.
        if matches!(status, 400 | 404 | 405) && is_html_document(&String::from_utf8_lossy(body)) {
            let text =
                format!("this is not Google Drive: the server sent a web page (status {status})");
            return Self { kind: Kind::InvalidInput, text, hint: Some(NOT_DRIVE.into()) };
        }
        let body = serde_json::from_slice::<ErrorBody>(body).unwrap_or_default().error;
        let reason = body.errors.first().map_or("", |e| e.reason.as_str());
        let (kind, hint) = classify(status, reason, &body.message);
        let text = match (body.message.trim(), reason) {
            ("", _) => format!("status {status}"),
            (message, "") => format!("{message} (status {status})"),
            (message, reason) => format!("{message} ({reason})"),
        };
        Self { kind, text, hint }
    }

    /// The error of doing `what`.
    pub(super) fn error(self, what: &str) -> Error {
        let error = Error::new(self.kind, format!("{what} on Google Drive: {}", self.text));
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// The kind and hint of a refusal. A reason that is not listed has the meaning of its status.
fn classify(status: u16, reason: &str, message: &str) -> (Kind, Option<Hint>) {
    match reason {
        "rateLimitExceeded" | "userRateLimitExceeded" | "sharingRateLimitExceeded" => {
            return (Kind::RateLimited, None);
        }
        "storageQuotaExceeded" if message.to_lowercase().contains("service account") => {
            return (Kind::NoSpace, Some(service_account_hint()));
        }
        "authError" if status == 403 => return (Kind::Unauthenticated, Some(sign_in_again())),
        "insufficientPermissions" => return (Kind::PermissionDenied, Some(scope_hint())),
        _ => {}
    }
    let known = REASONS.iter().find(|(known, ..)| *known == reason);
    if let Some((_, kind, hint)) = known {
        return (*kind, Some((*hint).into()));
    }
    match status {
        401 => (Kind::Unauthenticated, Some(sign_in_again())),
        403 => (Kind::PermissionDenied, None),
        404 | 410 => (Kind::NotFound, None),
        409 => (Kind::AlreadyExists, None),
        429 => (Kind::RateLimited, None),
        408 | 500.. => (Kind::Unavailable, None),
        _ => (Kind::Internal, None),
    }
}

/// Hint when another server answers at the endpoint.
pub(super) const NOT_DRIVE: &str =
    "check the endpoint, and whether a proxy intercepts the requests";

pub(super) fn sign_in_again() -> Hint {
    hint![
        "sign in again with ",
        Operation::StorageLogin.on("NAME"),
        ", or set a valid token; a refresh token of a consent screen in testing expires after 7 days",
    ]
}

fn scope_hint() -> Hint {
    hint![
        "the sign-in lacks the scope drive.file: sign in again with ",
        Operation::StorageLogin.on("NAME"),
    ]
}

fn service_account_hint() -> Hint {
    hint![
        "a service account has no Drive storage: make it a member of a shared drive and set a folder there, \
         or sign in as a user with ",
        Operation::StorageLogin.on("NAME"),
    ]
}

/// Hint when the root folder is not found. Usually it exists, but is not visible to bae.
pub(super) const FOLDER_NOT_VISIBLE: &str = "with the scope drive.file bae sees only files that it created: omit the folder \
to create one called bae, or set a folder that bae created";

type Row = (&'static str, Kind, &'static str);

const REASONS: &[Row] = &[
    (
        "storageQuotaExceeded",
        Kind::NoSpace,
        "free space on Google Drive (its trash counts too), or buy more; bae resumes by itself",
    ),
    ("quotaExceeded", Kind::NoSpace, "free space on Google Drive; bae resumes by itself"),
    (
        "dailyLimitExceeded",
        Kind::NoSpace,
        "the daily quota of the Google Cloud project is used up; bae resumes by itself tomorrow",
    ),
    (
        "teamDriveFileLimitExceeded",
        Kind::NoSpace,
        "a shared drive holds 500,000 items including its trash: empty the trash, or use another drive",
    ),
    (
        "numChildrenInNonRootLimitExceeded",
        Kind::NoSpace,
        "a folder holds 500,000 items: use another folder",
    ),
    (
        "activeItemCreationLimitExceeded",
        Kind::NoSpace,
        "the account has created the most items that Google allows: use another account",
    ),
    (
        "teamDriveHierarchyTooDeep",
        Kind::InvalidInput,
        "Drive allows 100 levels of folders: use the layout chunks for this torrent",
    ),
    (
        "downloadQuotaExceeded",
        Kind::NoSpace,
        "Google has blocked downloads of this file for up to a day; bae resumes by itself",
    ),
    (
        "cannotDownloadAbusiveFile",
        Kind::PermissionDenied,
        "Google classifies this file as malware or abuse: only its owner can download it, on Drive's web page",
    ),
    (
        "insufficientFilePermissions",
        Kind::PermissionDenied,
        "the account lacks permission: in a shared drive it must be a content manager",
    ),
    (
        "appNotAuthorizedToFile",
        Kind::PermissionDenied,
        "the file belongs to another app: use the OAuth client that stored it",
    ),
    (
        "accessNotConfigured",
        Kind::PermissionDenied,
        "enable the Google Drive API in the Google Cloud project of the OAuth client",
    ),
    (
        "domainPolicy",
        Kind::PermissionDenied,
        "ask the administrator of the domain to allow the app",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, reason: &str, message: &str) -> (Kind, Error) {
        let body = serde_json::json!({ "error": {
            "code": status, "message": message,
            "errors": [{ "domain": "global", "reason": reason, "message": message }],
        }});
        let refusal = DriveRefusal::read(status, body.to_string().as_bytes());
        (refusal.kind, refusal.error("put of a/b"))
    }

    #[test]
    fn reasons_take_precedence_over_statuses() {
        for (status, reason, kind) in [
            (403, "rateLimitExceeded", Kind::RateLimited),
            (403, "userRateLimitExceeded", Kind::RateLimited),
            (429, "", Kind::RateLimited),
            (403, "storageQuotaExceeded", Kind::NoSpace),
            (403, "appNotAuthorizedToFile", Kind::PermissionDenied),
            (403, "insufficientPermissions", Kind::PermissionDenied),
            (403, "somethingNew", Kind::PermissionDenied),
            (404, "notFound", Kind::NotFound),
            (409, "fileIdInUse", Kind::AlreadyExists),
            (400, "badRequest", Kind::Internal),
            (503, "backendError", Kind::Unavailable),
        ] {
            assert_eq!(read(status, reason, "m").0, kind, "{status} {reason}");
        }
    }

    #[test]
    fn a_service_account_without_storage_gets_a_hint_about_shared_drives() {
        let message = "Service Accounts do not have storage quota.";
        let (_, error) = read(403, "storageQuotaExceeded", message);
        assert!(error.hint_text().unwrap().contains("shared drive"));
        assert_eq!(
            error.report(),
            format!("put of a/b on Google Drive: {message} (storageQuotaExceeded)")
        );
    }

    #[test]
    fn an_error_body_without_json_is_classified_by_status() {
        let refusal = DriveRefusal::read(502, b"<html>Bad Gateway</html>");
        assert_eq!((refusal.kind, refusal.text.as_str()), (Kind::Unavailable, "status 502"));
        let refusal = DriveRefusal::read(404, b"<!doctype html><title>Not here</title>");
        assert_eq!(refusal.kind, Kind::InvalidInput);
    }
}
