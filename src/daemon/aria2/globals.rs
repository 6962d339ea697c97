//! Options and figures of the whole queue.

use serde_json::{Map, Value, json};

use super::{
    Aria2,
    envelope::{RpcError, RpcResult},
    options::{rate, text_of},
    params::Params,
    status::Status,
};
use crate::{
    config::ActiveLimits,
    daemon::folders::Folders,
    queue::{Filter, Page, RateLimits},
};

/// The version of aria2 whose methods these are.
const VERSION: &str = "1.37.0";
const DOWNLOADS: &str = "max-concurrent-downloads";
const DOWNLOAD_LIMIT: &str = "max-overall-download-limit";
const UPLOAD_LIMIT: &str = "max-overall-upload-limit";

impl Aria2 {
    pub(super) fn version(&self) -> Value {
        let features =
            ["Async DNS", "BitTorrent", "GZip", "HTTPS", "Message Digest", "SFTP", "XML-RPC"];
        json!({ "version": VERSION, "enabledFeatures": features })
    }

    pub(super) fn global_options(&self) -> Value {
        let queue = self.state().queue();
        let (rates, active) = (queue.rates(), queue.active_limits());
        let rate = |rate: Option<u64>| rate.unwrap_or(0).to_string();
        json!({
            "dir": Folders::of(self.state()).default_folder(),
            DOWNLOADS: active.overall.to_string(),
            DOWNLOAD_LIMIT: rate(rates.download),
            UPLOAD_LIMIT: rate(rates.upload),
            "continue": "true",
            "enable-rpc": "true",
        })
    }

    /// Changes limits. Everything else is a setting of the config file, so that no client can set a program or a path.
    pub(super) async fn change_global_options(&self, params: &Params) -> RpcResult {
        let options = params.options(0)?;
        let queue = self.state().queue();
        let known = self.global_options();
        let (rates, active) = changed(&options, &known, queue.rates(), queue.active_limits())?;
        if rates != queue.rates() {
            queue.set_rates(rates).await?;
        }
        if active != queue.active_limits() {
            queue.set_active_limits(active).await?;
        }
        Ok("OK".into())
    }

    pub(super) fn global_stat(&self) -> Value {
        let all = self.state().queue().list(&Filter::default(), Page::default()).downloads;
        let (mut active, mut waiting, mut stopped) = (0_usize, 0_usize, 0_usize);
        let (mut down, mut up) = (0_u64, 0_u64);
        for download in &all {
            match Status::of(download) {
                Status::Active => active += 1,
                Status::Waiting | Status::Paused => waiting += 1,
                Status::Error | Status::Complete | Status::Removed => stopped += 1,
            }
            down += download.progress.download_rate;
            up += download.progress.upload_rate;
        }
        stopped += self.0.removed.lock().len();
        json!({
            "downloadSpeed": down.to_string(),
            "uploadSpeed": up.to_string(),
            "numActive": active.to_string(),
            "numWaiting": waiting.to_string(),
            "numStopped": stopped.to_string(),
            "numStoppedTotal": stopped.to_string(),
        })
    }
}

/// The limits after a change. An option that has its value already may be given.
fn changed(
    options: &Map<String, Value>,
    known: &Value,
    mut rates: RateLimits,
    mut active: ActiveLimits,
) -> RpcResult<(RateLimits, ActiveLimits)> {
    for (name, value) in options {
        let text = text_of(name, value)?;
        match name.as_str() {
            DOWNLOAD_LIMIT => rates.download = rate(name, &text)?,
            UPLOAD_LIMIT => rates.upload = rate(name, &text)?,
            DOWNLOADS => {
                let count = text.parse::<usize>().ok().filter(|count| *count > 0);
                let malformed = || RpcError::new(format!("{name} is a number from 1 on."));
                active.overall = count.ok_or_else(malformed)?;
            }
            _ if known.get(name).and_then(Value::as_str) == Some(text.as_str()) => {}
            _ => {
                let text = format!("The option {name:?} cannot be changed by a client.");
                return Err(RpcError::new(text));
            }
        }
    }
    Ok((rates, active))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_changes_limits_and_nothing_else() {
        let known = json!({ "dir": "/disk" });
        let change = |options: Value| {
            let options = options.as_object().unwrap();
            changed(options, &known, RateLimits::default(), ActiveLimits::default())
        };
        let options = json!({ DOWNLOAD_LIMIT: "1M", DOWNLOADS: 7, "dir": "/disk" });
        let (rates, active) = change(options).unwrap();
        assert_eq!((rates.download, active.overall), (Some(1 << 20), 7));
        assert_eq!(change(json!({ UPLOAD_LIMIT: "0" })).unwrap().0.upload, None);
        for (name, value) in [
            ("dir", "/etc"),
            ("on-download-complete", "/bin/sh"),
            ("on-download-complete", ""),
            ("log", "/etc/cron.d/x"),
            ("save-session", "/x"),
            ("save-cookies", "/x"),
            ("input-file", "/etc/passwd"),
            ("all-proxy", "http://evil"),
            ("rpc-secret", "x"),
            (DOWNLOADS, "0"),
            (DOWNLOADS, "-1"),
            (DOWNLOAD_LIMIT, "x"),
        ] {
            assert!(change(json!({ name: value })).is_err(), "{name}={value}");
        }
    }
}
