//! What the answer of a gateway means. Gateways say in many ways that they do not have a block. Pure.

use std::time::Duration;

/// The wait after a refusal without `Retry-After`.
const DEFAULT_WAIT: Duration = Duration::from_secs(2);
/// Beginnings of the body of a 500 that mean that the block is not here.
const NOT_HERE: [&str; 4] = [
    "ipld: could not find node",
    "peer does not have",
    "getting pieces containing cid",
    "failed to load root node",
];
/// How much of a body is compared.
pub(super) const BODY_START: usize = 64;

/// The meaning of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The body is the answer.
    Content,
    NotHere,
    /// The gateway wants no further requests for this time.
    Busy(Duration),
    /// The gateway does not know this kind of request.
    UnknownFormat,
    Failed,
}

/// Judges an answer by its status and the beginning of its body.
pub(super) fn judge(status: u16, body_start: &[u8], retry_after: Option<Duration>) -> Verdict {
    let says_not_here = || {
        let body = body_start.trim_ascii_start();
        NOT_HERE.iter().any(|text| body.starts_with(text.as_bytes()))
    };
    match status {
        200 => Verdict::Content,
        // 403, 410 and 451 mean that the gateway refuses this content; another one may not.
        403 | 404 | 410 | 451 => Verdict::NotHere,
        500 if says_not_here() => Verdict::NotHere,
        // Helia's gateway answers 502 for a block that it cannot find. It is retried, as for other gateways.
        408 | 425 | 429 | 502..=504 => Verdict::Busy(retry_after.unwrap_or(DEFAULT_WAIT)),
        400 | 405 | 406 | 415 | 501 => Verdict::UnknownFormat,
        _ => Verdict::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_say_not_here_is_understood() {
        for (status, body) in [
            (404, ""),
            (404, "<html>"),
            (403, ""),
            (410, "denied"),
            (451, ""),
            (500, "ipld: could not find node bafy…"),
            (500, "\npeer does not have CID"),
            (500, "getting pieces containing cid bafy…: not found"),
            (500, "failed to load root node: …"),
        ] {
            assert_eq!(judge(status, body.as_bytes(), None), Verdict::NotHere, "{status} {body}");
        }
    }

    #[test]
    fn other_answers_are_refusals_failures_or_content() {
        assert_eq!(judge(200, b"", None), Verdict::Content);
        assert_eq!(judge(500, b"oops", None), Verdict::Failed);
        assert_eq!(judge(206, b"", None), Verdict::Failed);
        assert_eq!(judge(406, b"", None), Verdict::UnknownFormat);
        let minute = Duration::from_secs(60);
        assert_eq!(judge(429, b"", Some(minute)), Verdict::Busy(minute));
        assert_eq!(judge(502, b"", None), Verdict::Busy(DEFAULT_WAIT));
    }
}
