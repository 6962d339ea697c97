//! Compares the local clock with the server's. Request signatures are valid for 15 minutes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_smithy_types::{DateTime, date_time::Format};

use super::{Outcome, ProbeResult};

/// Difference that causes a warning, in seconds. S3 refuses a signature that is 15 minutes off.
const WARN_SECONDS: u64 = 5 * 60;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the server's clock. `None` when it does not answer: the other probes report that in more detail.
pub(super) async fn probe(endpoint: &str) -> Option<ProbeResult> {
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .ok()?;
    // The date is in the headers of any answer, whatever its status.
    let answer = client.head(endpoint).send().await.ok()?;
    let date = answer.headers().get("date")?.to_str().ok()?;
    let server = DateTime::from_str(date, Format::HttpDate).ok()?.secs();
    let local = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(compare(i64::try_from(local).ok()?, server))
}

fn compare(local: i64, server: i64) -> ProbeResult {
    let difference = local.abs_diff(server);
    let (outcome, hint) = match difference {
        0..WARN_SECONDS => (Outcome::Ok, None),
        _ => (Outcome::Warn, Some("set this machine's clock, preferably by NTP".into())),
    };
    let text = match difference {
        // The header has a resolution of 1 s, and takes time to arrive.
        0..5 => "the local clock agrees with the server's".to_owned(),
        _ => {
            let side = if local > server { "ahead of" } else { "behind" };
            format!("the local clock is {} {side} the server's", minutes(difference))
        }
    };
    ProbeResult { name: "clock", outcome, text, hint, kind: None }
}

fn minutes(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        _ => format!("{} min", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_far_off_is_a_warning_with_the_direction() {
        assert_eq!(compare(1000, 1002).text, "the local clock agrees with the server's");
        assert_eq!(compare(1000, 1060).outcome, Outcome::Ok);
        let behind = compare(0, 1200);
        assert_eq!(behind.outcome, Outcome::Warn);
        assert_eq!(behind.text, "the local clock is 20 min behind the server's");
        assert!(compare(1200, 0).text.contains("ahead of"));
    }
}
