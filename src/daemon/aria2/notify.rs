//! Events of the log as notifications for sockets. Pure.

use serde_json::{Value, json};

use crate::events::DownloadChanged;

/// All notifications.
pub(super) const NAMES: &[&str] = &[
    "aria2.onDownloadStart",
    "aria2.onDownloadPause",
    "aria2.onDownloadStop",
    "aria2.onDownloadComplete",
    "aria2.onDownloadError",
    "aria2.onBtDownloadComplete",
];

/// What became of a download, for the notification about its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) is_torrent: bool,
    pub(super) is_seeded: bool,
}

/// The notifications for a change. A torrent that is seeded goes on being active: its `onDownloadComplete` is left out.
pub(super) fn notifications(changed: &DownloadChanged, ending: Ending) -> Vec<Value> {
    let names: &[&str] = match changed.state.as_str() {
        "starting" => &["aria2.onDownloadStart"],
        "paused" => &["aria2.onDownloadPause"],
        "removed" => &["aria2.onDownloadStop"],
        "failed" => &["aria2.onDownloadError"],
        "done" if !ending.is_torrent => &["aria2.onDownloadComplete"],
        "done" if ending.is_seeded => &["aria2.onBtDownloadComplete"],
        "done" => &["aria2.onBtDownloadComplete", "aria2.onDownloadComplete"],
        _ => &[],
    };
    let params = json!([{ "gid": changed.download }]);
    let one = |name: &&str| json!({ "jsonrpc": "2.0", "method": name, "params": params });
    names.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_has_the_notification_that_clients_wait_for() {
        let names = |state: &str, ending: Ending| {
            let changed = DownloadChanged {
                download: "00000000000000ab".into(),
                number: 1,
                name: String::new(),
                state: state.into(),
                previous: None,
                import: None,
                error: None,
            };
            let all = notifications(&changed, ending);
            assert!(all.iter().all(|n| n["params"][0]["gid"] == "00000000000000ab"));
            assert!(all.iter().all(|n| n.get("id").is_none()));
            let name = |n: &Value| n["method"].as_str().unwrap().replace("aria2.on", "");
            all.iter().map(name).collect::<Vec<_>>()
        };
        let url = Ending::default();
        assert_eq!(names("starting", url), ["DownloadStart"]);
        assert_eq!(names("paused", url), ["DownloadPause"]);
        assert_eq!(names("removed", url), ["DownloadStop"]);
        assert_eq!(names("failed", url), ["DownloadError"]);
        assert_eq!(names("done", url), ["DownloadComplete"]);
        assert!(names("retrying", url).is_empty() && names("downloading", url).is_empty());
        let seeded = Ending { is_torrent: true, is_seeded: true };
        assert_eq!(names("done", seeded), ["BtDownloadComplete"]);
        let ended = Ending { is_torrent: true, is_seeded: false };
        assert_eq!(names("done", ended), ["BtDownloadComplete", "DownloadComplete"]);
    }
}
