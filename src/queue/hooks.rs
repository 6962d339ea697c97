//! Hooks and webhooks: what is called when a download is done or has failed.
//!
//! A hook is a program with arguments from the config file. It is started without a shell, and the facts are in its
//! environment: no name of a torrent is ever part of a command. A webhook gets the facts as JSON, and is tried again for
//! a while. Both are best effort: one that runs when the process ends is not called again.

use std::{process::Stdio, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{process::Command, sync::Semaphore, time::timeout};
use url::Url;

use super::{Queue, download::Download, state::StateName};
use crate::{config::Hooks, redact, torrents::close_files_on_exec};

/// A hook that runs longer is ended.
const HOOK_TIMEOUT: Duration = Duration::from_secs(3600);
/// Hooks that run at once. Further ones wait.
const MAX_HOOKS: usize = 4;
/// Time for one request to a webhook.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(15);
/// Delays between the tries of a webhook.
const WEBHOOK_DELAYS: [u64; 5] = [1, 5, 30, 120, 600];

/// The facts of a download.
#[derive(Debug, Clone, Serialize)]
struct Facts {
    event: &'static str,
    id: String,
    number: u64,
    name: String,
    state: &'static str,
    storage: String,
    category: Option<String>,
    tags: Vec<String>,
    source: String,
    info_hash: Option<String>,
    import: Option<String>,
    bytes: Option<u64>,
    /// Where the files were exported to.
    path: Option<String>,
    error: Option<String>,
}

/// Calls hooks, a few at a time.
#[derive(Debug)]
pub(super) struct HookRunner {
    hooks: Hooks,
    slots: Arc<Semaphore>,
}

impl HookRunner {
    pub(super) fn new(hooks: Hooks) -> Self {
        Self { hooks, slots: Arc::new(Semaphore::new(MAX_HOOKS)) }
    }
}

impl Queue {
    /// Calls the hooks for a download that has come to its end.
    pub(super) fn call_hooks(&self, download: &Download) {
        let hooks = &self.0.hooks.hooks;
        let (event, argv) = match download.state.name() {
            StateName::Done => ("complete", &hooks.on_complete),
            StateName::Failed => ("error", &hooks.on_error),
            _ => return,
        };
        let facts = Facts::of(download, event);
        if let Some(argv) = argv.clone() {
            let (facts, slots) = (facts.clone(), Arc::clone(&self.0.hooks.slots));
            tokio::spawn(async move {
                let Ok(_slot) = slots.acquire().await else { return };
                run_hook(&argv, &facts).await;
            });
        }
        for url in hooks.webhooks.clone() {
            tokio::spawn(call_webhook(url, facts.clone()));
        }
    }
}

impl Facts {
    fn of(download: &Download, event: &'static str) -> Self {
        Self {
            event,
            id: download.id.to_string(),
            number: download.number,
            name: download.name.clone(),
            state: download.state.name().as_str(),
            storage: download.settings.storage.clone(),
            category: download.settings.category.clone(),
            tags: download.settings.tags.iter().cloned().collect(),
            source: download.shown_source(),
            info_hash: download.hashes.text(),
            import: download.import.clone(),
            bytes: download.progress.bytes,
            path: download.exported.as_ref().map(|path| path.display().to_string()),
            error: download.state.error().map(|error| error.message.clone()),
        }
    }

    /// The environment of a hook. A value cannot contain NUL.
    fn variables(&self) -> Vec<(&'static str, String)> {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let values = [
            ("BAE_EVENT", self.event.to_owned()),
            ("BAE_DOWNLOAD", self.id.clone()),
            ("BAE_NAME", self.name.clone()),
            ("BAE_STATE", self.state.to_owned()),
            ("BAE_DOWNLOAD_STORAGE", self.storage.clone()),
            ("BAE_DOWNLOAD_CATEGORY", text(&self.category)),
            ("BAE_TAGS", self.tags.join(",")),
            ("BAE_SOURCE", self.source.clone()),
            ("BAE_INFO_HASH", text(&self.info_hash)),
            ("BAE_IMPORT", text(&self.import)),
            ("BAE_BYTES", self.bytes.map(|bytes| bytes.to_string()).unwrap_or_default()),
            ("BAE_PATH", text(&self.path)),
            ("BAE_ERROR", text(&self.error)),
        ];
        values.into_iter().map(|(name, value)| (name, value.replace('\0', "\u{fffd}"))).collect()
    }
}

async fn run_hook(argv: &[String], facts: &Facts) {
    let Some((program, arguments)) = argv.split_first() else { return };
    let mut command = Command::new(program);
    command.args(arguments).envs(facts.variables()).stdin(Stdio::null()).kill_on_drop(true);
    for ours in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
        command.env_remove(ours);
    }
    close_files_on_exec();
    let ended = match command.spawn() {
        Ok(mut child) => timeout(HOOK_TIMEOUT, child.wait()).await,
        Err(e) => {
            tracing::warn!("hook {program:?}: it cannot be started: {e}");
            return;
        }
    };
    match ended {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(status)) => tracing::warn!("hook {program:?} for download {}: {status}", facts.id),
        Ok(Err(e)) => tracing::warn!("hook {program:?}: {e}"),
        Err(_) => tracing::warn!("hook {program:?}: it was ended after an hour"),
    }
}

async fn call_webhook(url: Url, facts: Facts) {
    let shown = redact::source(url.as_str());
    // A redirect could lead the facts to another host.
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(WEBHOOK_TIMEOUT)
        .build();
    let client = match client {
        Ok(client) => client,
        Err(e) => {
            tracing::warn!("webhook {shown}: {e}");
            return;
        }
    };
    let mut delays = WEBHOOK_DELAYS.into_iter();
    loop {
        let problem = match client.post(url.clone()).json(&facts).send().await {
            Ok(response) if response.status().is_success() => return,
            Ok(response) => format!("status {}", response.status().as_u16()),
            Err(e) => e.without_url().to_string(),
        };
        let Some(delay) = delays.next() else {
            tracing::warn!("webhook {shown} for download {}: {problem}; given up", facts.id);
            return;
        };
        tracing::info!("webhook {shown} for download {}: {problem}", facts.id);
        tokio::time::sleep(Duration::from_secs(delay)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{State, test_download};

    #[tokio::test]
    async fn names_are_values_and_never_part_of_a_command() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let mut download = test_download(7);
        download.name = "\";touch pwned;\" $(touch pwned)\n-x\0".into();
        download.state = State::Done;
        let script = format!("printf '%s' \"$BAE_NAME\" > {}", out.display());
        let argv = ["/bin/sh".to_owned(), "-c".to_owned(), script];
        run_hook(&argv, &Facts::of(&download, "complete")).await;
        let written = std::fs::read_to_string(&out).unwrap();
        assert_eq!(written, download.name.replace('\0', "\u{fffd}"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
