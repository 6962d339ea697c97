//! Maps Drive's refusals to error kinds and hints, in one table.

use serde::Deserialize;

use crate::{
    backends::unfit::is_html,
    error::{Error, Kind},
};

/// A parsed refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) kind: Kind,
    /// Google's message and reason.
    pub(super) text: String,
    hint: Option<&'static str>,
}

#[derive(Deserialize, Default)]
struct Answer {
    #[serde(default)]
    error: Body,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Body {
    message: String,
    errors: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    reason: String,
}

impl Refusal {
    /// Parses an answer's status and the start of its body.
    pub(super) fn read(status: u16, body: &[u8]) -> Self {
        // Google sends HTML pages for server errors, but not for invalid requests.
        if matches!(status, 400 | 404 | 405) && is_html(&String::from_utf8_lossy(body)) {
            let text = format!("this is not Google Drive: a web page came (status {status})");
            return Self { kind: Kind::InvalidInput, text, hint: Some(NOT_DRIVE) };
        }
        let body = serde_json::from_slice::<Answer>(body).unwrap_or_default().error;
        let reason = body.errors.first().map_or("", |e| e.reason.as_str());
        let (kind, hint) = meaning(status, reason, &body.message);
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
fn meaning(status: u16, reason: &str, message: &str) -> (Kind, Option<&'static str>) {
    match reason {
        "rateLimitExceeded" | "userRateLimitExceeded" | "sharingRateLimitExceeded" => {
            return (Kind::RateLimited, None);
        }
        "storageQuotaExceeded" if message.to_lowercase().contains("service account") => {
            return (Kind::NoSpace, Some(NO_ROOM_FOR_SERVICE_ACCOUNTS));
        }
        "authError" if status == 403 => return (Kind::Unauthenticated, Some(SIGN_IN)),
        _ => {}
    }
    let known = REASONS.iter().find(|(known, ..)| *known == reason);
    if let Some((_, kind, hint)) = known {
        return (*kind, Some(hint));
    }
    match status {
        401 => (Kind::Unauthenticated, Some(SIGN_IN)),
        403 => (Kind::PermissionDenied, None),
        404 | 410 => (Kind::NotFound, None),
        409 => (Kind::AlreadyExists, None),
        429 => (Kind::RateLimited, None),
        408 | 500.. => (Kind::Unavailable, None),
        _ => (Kind::Internal, None),
    }
}

/// Hint when another server answers at the endpoint.
pub(super) const NOT_DRIVE: &str = "is the endpoint right, and is there a proxy in between?";

pub(super) const SIGN_IN: &str = "sign in again with `bae storage login NAME`, or give a token that is still good; \
a refresh token of a consent screen in testing ends after 7 days";

const NO_ROOM_FOR_SERVICE_ACCOUNTS: &str = "a service account has no room of its own: make it a member of a shared \
drive and name a folder there, or sign in as a user with `bae storage login NAME`";

/// Hint when the root folder is not found. Usually it exists, but is not visible to bae.
pub(super) const FOLDER_NOT_SEEN: &str = "bae signs in with the scope drive.file and sees only what it made itself: \
leave the folder out and it makes one called bae, or name a folder it made";

type Row = (&'static str, Kind, &'static str);

const REASONS: &[Row] = &[
    (
        "storageQuotaExceeded",
        Kind::NoSpace,
        "make room on Google Drive (its trash counts too), or buy more; bae goes on by itself",
    ),
    ("quotaExceeded", Kind::NoSpace, "make room on Google Drive; bae goes on by itself"),
    (
        "dailyLimitExceeded",
        Kind::NoSpace,
        "the Google Cloud project has used up its day; it goes on tomorrow",
    ),
    (
        "teamDriveFileLimitExceeded",
        Kind::NoSpace,
        "a shared drive holds 500,000 items, its trash among them: empty it or use another",
    ),
    (
        "numChildrenInNonRootLimitExceeded",
        Kind::NoSpace,
        "a folder holds 500,000 items: use another folder",
    ),
    (
        "activeItemCreationLimitExceeded",
        Kind::NoSpace,
        "the account has made as many items as Google allows: use another account",
    ),
    (
        "teamDriveHierarchyTooDeep",
        Kind::InvalidInput,
        "Drive nests folders 100 deep: use the layout chunks for this torrent",
    ),
    (
        "downloadQuotaExceeded",
        Kind::NoSpace,
        "Google has stopped downloads of this file for up to a day; it goes on by itself",
    ),
    (
        "cannotDownloadAbusiveFile",
        Kind::PermissionDenied,
        "Google holds this file for malware or abuse and gives it out to nobody but its owner, on Drive's web page",
    ),
    (
        "insufficientFilePermissions",
        Kind::PermissionDenied,
        "the account may not do this there: in a shared drive it must be content manager",
    ),
    (
        "appNotAuthorizedToFile",
        Kind::PermissionDenied,
        "the file belongs to another app: keep the OAuth client that stored it",
    ),
    (
        "insufficientPermissions",
        Kind::PermissionDenied,
        "the sign-in lacks the scope drive.file: sign in again with `bae storage login NAME`",
    ),
    (
        "accessNotConfigured",
        Kind::PermissionDenied,
        "turn on the Google Drive API in the Google Cloud project of the OAuth client",
    ),
    (
        "domainPolicy",
        Kind::PermissionDenied,
        "the administrator of the domain has to allow the app",
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
        let refusal = Refusal::read(status, body.to_string().as_bytes());
        (refusal.kind, refusal.error("put of a/b"))
    }

    #[test]
    fn reasons_come_before_statuses() {
        for (status, reason, kind) in [
            (403, "rateLimitExceeded", Kind::RateLimited),
            (403, "userRateLimitExceeded", Kind::RateLimited),
            (429, "", Kind::RateLimited),
            (403, "storageQuotaExceeded", Kind::NoSpace),
            (403, "appNotAuthorizedToFile", Kind::PermissionDenied),
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
    fn a_service_account_without_room_is_told_where_there_is_some() {
        let message = "Service Accounts do not have storage quota.";
        let (_, error) = read(403, "storageQuotaExceeded", message);
        assert!(error.hint_text().unwrap().contains("shared drive"));
        assert_eq!(
            error.report(),
            format!("put of a/b on Google Drive: {message} (storageQuotaExceeded)")
        );
    }

    #[test]
    fn a_body_that_is_no_json_leaves_the_status() {
        let refusal = Refusal::read(502, b"<html>Bad Gateway</html>");
        assert_eq!((refusal.kind, refusal.text.as_str()), (Kind::Unavailable, "status 502"));
        let refusal = Refusal::read(404, b"<!doctype html><title>Not here</title>");
        assert_eq!(refusal.kind, Kind::InvalidInput);
    }
}
