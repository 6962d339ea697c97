//! Compares the local clock with the server's. Request signatures are valid for 15 minutes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_smithy_types::{DateTime, date_time::Format};

use super::{Outcome, Probe};

/// Difference that causes a warning, in seconds. S3 refuses a signature that is 15 minutes off.
const MUCH: u64 = 5 * 60;
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads the server's clock. `None` when it does not answer: the other probes report that in more detail.
pub(super) async fn probe(server: &str) -> Option<Probe> {
    let client = reqwest::Client::builder()
        .timeout(PATIENCE)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .ok()?;
    // The date is in the headers of any answer, whatever its status.
    let answer = client.head(server).send().await.ok()?;
    let date = answer.headers().get("date")?.to_str().ok()?;
    let theirs = DateTime::from_str(date, Format::HttpDate).ok()?.secs();
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(compare(i64::try_from(ours).ok()?, theirs))
}

fn compare(ours: i64, theirs: i64) -> Probe {
    let apart = ours.abs_diff(theirs);
    let (outcome, hint) = match apart {
        0..MUCH => (Outcome::Ok, None),
        _ => (Outcome::Warn, Some("set this machine's clock, by NTP best".to_owned())),
    };
    let text = match apart {
        // The header has a resolution of 1 s, and takes time to arrive.
        0..5 => "this clock and the server's agree".to_owned(),
        _ => {
            let side = if ours > theirs { "ahead of" } else { "behind" };
            format!("this clock is {} {side} the server's", minutes(apart))
        }
    };
    Probe { name: "clock", outcome, text, hint, kind: None }
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
    fn a_clock_far_off_is_a_warning_that_says_which_way() {
        assert_eq!(compare(1000, 1002).text, "this clock and the server's agree");
        assert_eq!(compare(1000, 1060).outcome, Outcome::Ok);
        let behind = compare(0, 1200);
        assert_eq!(behind.outcome, Outcome::Warn);
        assert_eq!(behind.text, "this clock is 20 min behind the server's");
        assert!(compare(1200, 0).text.contains("ahead of"));
    }
}
