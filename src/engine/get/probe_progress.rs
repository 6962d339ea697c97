//! Progress events of a probe: the server has not answered yet, or the probe failed and will be retried.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use url::Url;

use super::GetItem;
use crate::{
    downloads::DownloadState,
    events::{Event, EventSink, Fetching},
};

/// The local path of a file before its server has named it: the requested name, or the last part of the URL.
pub(in crate::engine) fn provisional_path(url: &Url, item: &GetItem) -> PathBuf {
    let last = url.path().rsplit('/').next().filter(|last| !last.is_empty());
    let last = last.or_else(|| url.host_str()).unwrap_or_default();
    item.dir.join(item.out.as_deref().unwrap_or(Path::new(last)))
}

/// Reports the probe of one file on one server. Dropping it clears the last report.
pub(in crate::engine) struct ProbeProgress<'a> {
    events: &'a EventSink,
    path: String,
    has_reported: AtomicBool,
}

impl<'a> ProbeProgress<'a> {
    pub(in crate::engine) fn new(url: &Url, item: &GetItem, events: &'a EventSink) -> Self {
        let path = provisional_path(url, item).display().to_string();
        Self { events, path, has_reported: AtomicBool::new(false) }
    }

    /// Reports that there is no answer yet (`None`), or the error before a retry.
    pub(in crate::engine) fn report_waiting(&self, error: Option<&str>) {
        self.has_reported.store(true, Ordering::Relaxed);
        self.send(usize::from(error.is_none()), error.map(str::to_owned));
    }

    fn send(&self, connections: usize, trouble: Option<String>) {
        self.events.send(Event::Fetching(Fetching {
            path: self.path.clone(),
            connections,
            state: DownloadState::Probing,
            trouble,
            ..Fetching::default()
        }));
    }
}

impl Drop for ProbeProgress<'_> {
    fn drop(&mut self) {
        if self.has_reported.load(Ordering::Relaxed) {
            self.send(0, None);
        }
    }
}
