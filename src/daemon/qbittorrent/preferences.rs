//! `app/preferences` and `app/setPreferences`.
//!
//! The preferences are what the config says, in the words of qBittorrent. Clients can set the rate limits and the numbers
//! of active downloads. Everything else stays: values that clients send back unchanged are accepted, and none of the
//! others has an effect; one that names a program, a folder, a host or a password is refused.

use serde_json::{Map, Value, json};

use super::{
    Dialect,
    answer::{Answer, Refusal, done, json as json_answer},
    fields::int,
    folders::storage_folder,
    limits,
    params::Params,
};
use crate::{config::ActiveLimits, queue::RateLimits};

/// Beginnings of names whose values only the config file may set.
const REFUSED: [&str; 24] = [
    "autorun",
    "save_path",
    "temp_path",
    "export_dir",
    "scan_dirs",
    "torrent_content_",
    "excluded_file_names",
    "mail_",
    "web_ui_",
    "alternative_webui",
    "proxy_",
    "dyndns_",
    "ssl_",
    "python_executable_path",
    "app_instance_name",
    "bypass_",
    "ip_filter",
    "banned_ips",
    "banned_IPs",
    "announce_ip",
    "current_network_interface",
    "current_interface",
    "add_trackers",
    "rss_",
];

impl Dialect {
    /// The folder of downloads without a category.
    pub(super) fn default_folder(&self) -> String {
        let root = self.api().options().export_root.as_ref();
        root.map_or_else(
            || storage_folder(self.default_storage()),
            |root| root.display().to_string(),
        )
    }

    fn shown_preferences(&self) -> Map<String, Value> {
        let config = self.api().engine().config();
        let (session, goal) = (&config.network.session, self.global_goal());
        let (rates, active) = (self.queue().rates(), self.queue().active_limits());
        let ratio = goal.ratio.filter(|ratio| ratio.is_finite());
        let minutes = goal.time.map_or(-1, limits::minutes);
        let listen = session.listen.iter().flatten().next();
        let port = listen.and_then(|listen| listen.rsplit(':').next()?.parse::<u16>().ok());
        let active_downloads = limit(active);
        let mut shown = fixed_preferences();
        let values = json!({
            "save_path": self.default_folder(),
            "dht": session.dht,
            "pex": session.pex,
            "lsd": session.lsd,
            "upnp": session.upnp,
            "anonymous_mode": false,
            "listen_port": port.unwrap_or(0),
            "max_connec": session.connections,
            "dl_limit": int(rates.download.unwrap_or(0)),
            "up_limit": int(rates.upload.unwrap_or(0)),
            "max_active_downloads": active_downloads,
            "max_active_torrents": active_downloads,
            "max_ratio_enabled": ratio.is_some(),
            "max_ratio": ratio.unwrap_or(-1.0),
            "max_seeding_time_enabled": minutes >= 0,
            "max_seeding_time": minutes,
        });
        if let Value::Object(values) = values {
            shown.extend(values);
        }
        shown
    }

    pub(super) fn preferences(&self) -> Answer {
        Ok(json_answer(&self.shown_preferences()))
    }

    pub(super) async fn set_preferences(&self, params: &Params) -> Answer {
        let text = params.required("json")?;
        let given: Map<String, Value> = serde_json::from_str(text)
            .map_err(|_| Refusal::bad("the parameter json is not a JSON object"))?;
        let shown = self.shown_preferences();
        if let Some(name) = refused(&given, &shown) {
            let text = format!("the preference {name} is set in the config file only");
            return Err(Refusal::bad(text));
        }
        let number = |name: &str| given.get(name).filter(|v| shown.get(name) != Some(*v))?.as_i64();
        let (download, upload) = (number("dl_limit"), number("up_limit"));
        if download.is_some() || upload.is_some() {
            let before = self.queue().rates();
            let rate = |new: Option<i64>, before| match new {
                Some(rate) => u64::try_from(rate).ok().filter(|rate| *rate > 0),
                None => before,
            };
            let rates = RateLimits {
                download: rate(download, before.download),
                upload: rate(upload, before.upload),
            };
            self.queue().set_rates(rates).await?;
        }
        let active = number("max_active_downloads").or(number("max_active_torrents"));
        if let Some(active) = active {
            let overall = usize::try_from(active).ok().filter(|active| *active > 0);
            let before = self.queue().active_limits();
            let limits = ActiveLimits { overall: overall.unwrap_or(usize::MAX), ..before };
            self.queue().set_active_limits(limits).await?;
        }
        Ok(done())
    }
}

/// -1 is no limit.
fn limit(active: ActiveLimits) -> i64 {
    match active.overall {
        usize::MAX => -1,
        limit => int(limit as u64),
    }
}

/// The name of a preference that may not be set, and that the client does not send back as it was.
fn refused<'a>(given: &'a Map<String, Value>, shown: &Map<String, Value>) -> Option<&'a str> {
    let changes = given.iter().filter(|(name, value)| {
        let is_off = matches!(value, Value::Null | Value::Bool(false))
            || value.as_str() == Some("")
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(Map::is_empty)
            || value.as_i64() == Some(0);
        let is_same = match shown.get(*name) {
            Some(shown) => shown == *value,
            None => is_off,
        };
        !is_same
    });
    let mut names = changes.map(|(name, _)| name.as_str());
    names.find(|name| REFUSED.iter().any(|start| name.starts_with(start)))
}

/// What is the same for every bae. `queueing_enabled` lets clients set priorities; a ratio never removes a torrent.
fn fixed_preferences() -> Map<String, Value> {
    serde_json::from_str(include_str!("preferences.json")).expect("a test reads the file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_of(given: Value) -> Option<String> {
        let given = given.as_object().cloned().unwrap_or_default();
        refused(&given, &fixed_preferences()).map(str::to_owned)
    }

    #[test]
    fn no_preference_names_a_program_a_folder_or_a_host() {
        for (name, value) in [
            ("autorun_program", json!("/bin/sh -c id")),
            ("autorun_on_torrent_added_program", json!("id")),
            ("autorun_enabled", json!(true)),
            ("save_path", json!("/etc")),
            ("temp_path_enabled", json!(true)),
            ("scan_dirs", json!({ "/etc": 0 })),
            ("proxy_ip", json!("evil.example")),
            ("web_ui_password", json!("x")),
            ("web_ui_host_header_validation_enabled", json!(false)),
            ("bypass_local_auth", json!(true)),
            ("alternative_webui_path", json!("/etc")),
            ("mail_notification_smtp", json!("evil.example")),
            ("add_trackers", json!("http://evil.example")),
        ] {
            let given = Value::Object([(name.to_owned(), value)].into_iter().collect());
            assert_eq!(refused_of(given).as_deref(), Some(name));
        }
    }

    #[test]
    fn preferences_may_be_sent_back_as_they_are() {
        assert_eq!(refused_of(Value::Object(fixed_preferences())), None);
        assert_eq!(refused_of(json!({ "web_ui_https_enabled": false, "locale": "de" })), None);
        assert_eq!(refused_of(json!({ "mail_notification_sender": "" })), None);
    }

    #[test]
    fn a_test_of_sonarr_passes() {
        let shown = fixed_preferences();
        assert_eq!(shown["max_ratio_act"], 0);
        assert_eq!(shown["queueing_enabled"], true);
        assert_eq!(shown["proxy_password"], "");
    }
}
