//! Progress events of a probe: the server has not answered yet, or the probe failed and will be retried.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use url::Url;

use super::GetItem;
use crate::{
    downloads::DownloadState,
    events::{Event, EventSink, Fetching},
};

/// Reports the probe of one file on one server. Dropping it clears the last report.
pub(in crate::engine) struct ProbeProgress<'a> {
    events: &'a EventSink,
    /// Provisional local path of the file: the requested name, or the last part of the URL.
    path: String,
    has_reported: AtomicBool,
}

impl<'a> ProbeProgress<'a> {
    pub(in crate::engine) fn new(url: &Url, item: &GetItem, events: &'a EventSink) -> Self {
        let last = url.path().rsplit('/').next().filter(|last| !last.is_empty());
        let last = last.or_else(|| url.host_str()).unwrap_or_default();
        let name = item.out.as_deref().unwrap_or(Path::new(last));
        let path = item.dir.join(name).display().to_string();
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
            state: DownloadState::Probing.as_str(),
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
