//! Methods that show downloads.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Aria2,
    envelope::RpcResult,
    options,
    params::Params,
    status::{Keys, Shown, Status},
};
use crate::{
    daemon::folders::Folders,
    queue::{Download, Filter, Order, Page},
};

/// Most downloads in one list.
const MAX_LIST: usize = 10_000;

impl Aria2 {
    pub(super) async fn tell_status(&self, params: &Params) -> RpcResult {
        let (download, status) = self.find_any(params)?;
        let keys = Keys::new(&params.optional_texts(1)?);
        let mut shown = self.show(&[(download, status)], &keys).await?;
        Ok(shown.pop().unwrap_or_default())
    }

    pub(super) async fn tell_active(&self, params: &Params) -> RpcResult {
        let keys = Keys::new(&params.optional_texts(0)?);
        let active = self.list_where(|status| status == Status::Active);
        let end = active.len().min(MAX_LIST);
        Ok(self.show(&active[..end], &keys).await?.into())
    }

    pub(super) async fn tell_waiting(&self, params: &Params) -> RpcResult {
        let waiting = |status| matches!(status, Status::Waiting | Status::Paused);
        self.tell_page(self.list_where(waiting), params).await
    }

    pub(super) async fn tell_stopped(&self, params: &Params) -> RpcResult {
        let mut stopped = self.list_where(Status::is_stopped);
        // The order in which they stopped.
        stopped.sort_by_key(|(download, _)| (download.finished_at, download.number));
        let removed = self.0.removed.lock().clone();
        stopped.extend(removed.into_iter().map(|download| (download, Status::Removed)));
        self.tell_page(stopped, params).await
    }

    async fn tell_page(&self, all: Vec<(Arc<Download>, Status)>, params: &Params) -> RpcResult {
        let (offset, count) = (params.int(0)?, params.int(1)?);
        let keys = Keys::new(&params.optional_texts(2)?);
        let page: Vec<_> = page_of(all.len(), offset, count).map(|at| all[at].clone()).collect();
        Ok(self.show(&page, &keys).await?.into())
    }

    /// In the order of the queue.
    fn list_where(&self, wanted: impl Fn(Status) -> bool) -> Vec<(Arc<Download>, Status)> {
        let page = Page { order: Order::Queue, ..Page::default() };
        let all = self.state().queue().list(&Filter::default(), page).downloads;
        let with_status = all.into_iter().map(|download| (Status::of(&download), download));
        with_status.filter(|(status, _)| wanted(*status)).map(|(s, d)| (d, s)).collect()
    }

    async fn show(
        &self,
        downloads: &[(Arc<Download>, Status)],
        keys: &Keys,
    ) -> RpcResult<Vec<Value>> {
        let folders = Folders::of(self.state());
        let mut shown = Vec::with_capacity(downloads.len());
        for (download, status) in downloads {
            let content = match keys.need_content() {
                true => self.0.contents.of(self.state(), download).await?,
                false => None,
            };
            let dir = folders.of_download(download);
            let (status, content) = (*status, content.as_deref());
            shown.push(Shown { download, status, content, dir: &dir }.fields(keys));
        }
        Ok(shown)
    }

    pub(super) async fn files(&self, params: &Params) -> RpcResult {
        let (download, status) = self.find_any(params)?;
        let content = self.0.contents.of(self.state(), &download).await?;
        let dir = Folders::of(self.state()).of_download(&download);
        Ok(Shown { download: &download, status, content: content.as_deref(), dir: &dir }.files())
    }

    pub(super) fn uris(&self, params: &Params) -> RpcResult {
        let (download, status) = self.find_any(params)?;
        Ok(Shown { download: &download, status, content: None, dir: "" }.uris())
    }

    /// The addresses of peers are not followed: the list is empty.
    pub(super) fn peers(&self, params: &Params) -> RpcResult {
        self.find_any(params).map(|_| json!([]))
    }

    pub(super) fn servers(&self, params: &Params) -> RpcResult {
        let (download, _) = self.find_any(params)?;
        if download.is_torrent() {
            return Ok(json!([]));
        }
        let (uri, speed) = (download.shown_source(), download.progress.download_rate.to_string());
        let server = json!({ "uri": uri, "currentUri": uri, "downloadSpeed": speed });
        Ok(json!([{ "index": "1", "servers": [server] }]))
    }

    pub(super) fn options(&self, params: &Params) -> RpcResult {
        let (download, _) = self.find_any(params)?;
        Ok(options::shown(&download, &Folders::of(self.state()).of_download(&download)))
    }
}

/// The indices of a page. With a negative offset it begins at the end, from -1, and goes backwards.
fn page_of(len: usize, offset: i64, count: i64) -> Box<dyn Iterator<Item = usize>> {
    let count = usize::try_from(count).unwrap_or(0).min(MAX_LIST);
    match usize::try_from(offset) {
        Ok(offset) => Box::new((0..len).skip(offset).take(count)),
        Err(_) => {
            let skipped = usize::try_from(-(offset.saturating_add(1))).unwrap_or(usize::MAX);
            Box::new((0..len).rev().skip(skipped).take(count))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_offset_counts_from_the_end() {
        let page = |offset, count| page_of(5, offset, count).collect::<Vec<_>>();
        assert_eq!(page(1, 2), [1, 2]);
        assert_eq!(page(-1, 2), [4, 3]);
        assert_eq!(page(-2, 9), [3, 2, 1, 0]);
        assert!(page(9, 1).is_empty() && page(0, -1).is_empty() && page(0, 0).is_empty());
        assert!(page(i64::MIN, i64::MAX).is_empty());
        assert_eq!(page(0, i64::MAX).len(), 5);
    }
}
