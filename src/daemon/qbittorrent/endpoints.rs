//! The endpoints by name.

use serde_json::json;

use super::{
    API_VERSION, Dialect,
    answer::{Answer, Refusal, json as json_answer, text},
    params::Params,
};
use crate::queue::Move;

/// How an endpoint is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Only by POST.
    pub(super) changes: bool,
    pub(super) needs_admin: bool,
}

/// Endpoints that read, by GET and POST.
const READS: &[&str] = &[
    "app/version",
    "app/webapiVersion",
    "app/buildInfo",
    "app/preferences",
    "app/defaultSavePath",
    "app/cookies",
    "app/networkInterfaceList",
    "app/networkInterfaceAddressList",
    "app/getDirectoryContent",
    "torrents/info",
    "torrents/count",
    "torrents/properties",
    "torrents/trackers",
    "torrents/webseeds",
    "torrents/files",
    "torrents/pieceStates",
    "torrents/pieceHashes",
    "torrents/categories",
    "torrents/tags",
    "torrents/downloadLimit",
    "torrents/uploadLimit",
    "torrents/export",
    "sync/maindata",
    "sync/torrentPeers",
    "transfer/info",
    "transfer/speedLimitsMode",
    "transfer/downloadLimit",
    "transfer/uploadLimit",
    "log/main",
    "log/peers",
    "rss/items",
    "rss/rules",
    "rss/matchingArticles",
    "search/status",
    "search/plugins",
    "torrentcreator/status",
];

/// Endpoints that change something.
const CHANGES: &[&str] = &[
    "app/setPreferences",
    "torrents/add",
    "torrents/delete",
    "torrents/pause",
    "torrents/stop",
    "torrents/resume",
    "torrents/start",
    "torrents/recheck",
    "torrents/reannounce",
    "torrents/topPrio",
    "torrents/bottomPrio",
    "torrents/increasePrio",
    "torrents/decreasePrio",
    "torrents/filePrio",
    "torrents/setDownloadLimit",
    "torrents/setUploadLimit",
    "torrents/setShareLimits",
    "torrents/setLocation",
    "torrents/setSavePath",
    "torrents/setDownloadPath",
    "torrents/rename",
    "torrents/setCategory",
    "torrents/createCategory",
    "torrents/editCategory",
    "torrents/removeCategories",
    "torrents/addTags",
    "torrents/setTags",
    "torrents/removeTags",
    "torrents/createTags",
    "torrents/deleteTags",
    "torrents/setAutoManagement",
    "torrents/toggleSequentialDownload",
    "torrents/toggleFirstLastPiecePrio",
    "torrents/setForceStart",
    "torrents/setSuperSeeding",
    "transfer/setDownloadLimit",
    "transfer/setUploadLimit",
];

/// Endpoints of qBittorrent that have nothing behind them here.
const UNSUPPORTED: &[&str] = &[
    "app/shutdown",
    "app/setCookies",
    "app/sendTestEmail",
    "torrents/addTrackers",
    "torrents/editTracker",
    "torrents/removeTrackers",
    "torrents/addPeers",
    "torrents/addWebSeeds",
    "torrents/editWebSeed",
    "torrents/removeWebSeeds",
    "torrents/renameFile",
    "torrents/renameFolder",
    "torrents/setComment",
    "torrents/setSSLParameters",
    "transfer/setSpeedLimitsMode",
    "transfer/toggleSpeedLimitsMode",
    "transfer/banPeers",
    "rss/addFolder",
    "rss/addFeed",
    "rss/setFeedURL",
    "rss/removeItem",
    "rss/moveItem",
    "rss/markAsRead",
    "rss/refreshItem",
    "rss/setRule",
    "rss/renameRule",
    "rss/removeRule",
    "search/start",
    "search/stop",
    "search/results",
    "search/delete",
    "search/installPlugin",
    "search/uninstallPlugin",
    "search/enablePlugin",
    "search/updatePlugins",
    "torrentcreator/addTask",
    "torrentcreator/torrentFile",
    "torrentcreator/deleteTask",
];

pub(super) fn find(name: &str) -> Option<Endpoint> {
    if READS.contains(&name) {
        // The torrent file has the passkeys of its trackers.
        return Some(Endpoint { changes: false, needs_admin: name == "torrents/export" });
    }
    let is_known = CHANGES.contains(&name) || UNSUPPORTED.contains(&name);
    is_known.then_some(Endpoint { changes: true, needs_admin: true })
}

pub(super) async fn read(dialect: &Dialect, name: &str, params: &Params) -> Answer {
    match name {
        "app/version" => dialect.version(),
        "app/webapiVersion" => Ok(text(API_VERSION)),
        "app/buildInfo" => dialect.build_info(),
        "app/preferences" => dialect.preferences(),
        "app/defaultSavePath" => dialect.default_save_path(),
        "torrents/info" => dialect.info(params),
        "torrents/count" => dialect.count(),
        "torrents/properties" => dialect.properties(params).await,
        "torrents/trackers" => dialect.trackers(params).await,
        "torrents/webseeds" => dialect.web_seeds(params).await,
        "torrents/files" => dialect.files(params).await,
        "torrents/pieceStates" => dialect.piece_states(params).await,
        "torrents/pieceHashes" => dialect.piece_hashes(params).await,
        "torrents/categories" => dialect.categories(),
        "torrents/tags" => dialect.tags(),
        "torrents/downloadLimit" => dialect.rates(params, false),
        "torrents/uploadLimit" => dialect.rates(params, true),
        "torrents/export" => dialect.export(params).await,
        "sync/maindata" => dialect.maindata(params).await,
        "sync/torrentPeers" => dialect.torrent_peers(params),
        "transfer/info" => dialect.transfer_info(),
        "transfer/speedLimitsMode" => Ok(text("0")),
        "transfer/downloadLimit" => dialect.rate_limit(false),
        "transfer/uploadLimit" => dialect.rate_limit(true),
        "rss/items" | "rss/rules" | "rss/matchingArticles" => Ok(json_answer(&json!({}))),
        // Lists of what bae does not have. The folders of this machine are not listed either.
        _ => Ok(json_answer(&json!([]))),
    }
}

pub(super) async fn change(dialect: &Dialect, name: &str, params: &Params) -> Answer {
    let Some(action) = name.strip_prefix("torrents/") else {
        return match name {
            "app/setPreferences" => dialect.set_preferences(params).await,
            "transfer/setDownloadLimit" => dialect.set_rate_limit(params, false).await,
            "transfer/setUploadLimit" => dialect.set_rate_limit(params, true).await,
            _ => Err(unsupported()),
        };
    };
    match action {
        "add" => dialect.add(params).await,
        "delete" => dialect.delete(params).await,
        "pause" | "stop" => dialect.stop(params).await,
        "resume" | "start" => dialect.start(params).await,
        "recheck" => dialect.recheck(params).await,
        "topPrio" => dialect.move_to(params, Move::First).await,
        "bottomPrio" => dialect.move_to(params, Move::Last).await,
        "increasePrio" => dialect.move_to(params, Move::Earlier).await,
        "decreasePrio" => dialect.move_to(params, Move::Later).await,
        "filePrio" => dialect.set_file_priority(params).await,
        "setDownloadLimit" => dialect.set_rate(params, false).await,
        "setUploadLimit" => dialect.set_rate(params, true).await,
        "setShareLimits" => dialect.set_share_limits(params).await,
        "setLocation" | "setSavePath" | "setDownloadPath" => dialect.set_location(params),
        "rename" => dialect.rename(params).await,
        "setForceStart" => dialect.set_forced(params).await,
        "toggleSequentialDownload" => dialect.toggle_sequential(params).await,
        // bae announces, manages paths and picks pieces by itself.
        "reannounce" | "setAutoManagement" | "toggleFirstLastPiecePrio" | "setSuperSeeding" => {
            dialect.accept(params)
        }
        _ => change_names(dialect, action, params).await,
    }
}

/// Changes of categories and tags.
async fn change_names(dialect: &Dialect, action: &str, params: &Params) -> Answer {
    match action {
        "setCategory" => dialect.set_category(params).await,
        "createCategory" => dialect.create_category(params).await,
        "editCategory" => dialect.edit_category(params).await,
        "removeCategories" => dialect.remove_categories(params).await,
        "addTags" => dialect.add_tags(params).await,
        "setTags" => dialect.set_tags(params).await,
        "removeTags" => dialect.remove_tags(params).await,
        "createTags" => dialect.create_tags(params).await,
        "deleteTags" => dialect.delete_tags(params).await,
        _ => Err(unsupported()),
    }
}

fn unsupported() -> Refusal {
    Refusal::conflict("bae does not support this")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_endpoint_is_in_one_list() {
        let all: Vec<&str> = [READS, CHANGES, UNSUPPORTED].concat();
        let unique: std::collections::BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(all.len(), unique.len());
        for name in CHANGES.iter().chain(UNSUPPORTED) {
            assert_eq!(find(name), Some(Endpoint { changes: true, needs_admin: true }), "{name}");
        }
        assert!(!find("torrents/info").unwrap().changes);
        assert!(find("torrents/export").unwrap().needs_admin);
        assert_eq!(find("torrents/nonsense"), None);
    }
}
