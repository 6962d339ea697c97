//! The commands, of calls and of control streams.

use std::sync::Arc;

use super::{
    convert::{invalid, order, state_name},
    pb,
    service::Service,
};
use crate::{
    error::{Error, Kind, Result},
    queue::{Download, DownloadId, Filter, NewDownload, Page, Queue},
};

/// Downloads in an answer, unless the request says otherwise; and the most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

impl Service {
    pub(super) async fn start(
        &self,
        request: pb::StartDownloadRequest,
    ) -> Result<pb::StartDownloadResponse> {
        let mut new = NewDownload::try_from(request)?;
        new.settings.only_public = !self.state().options().private_hosts;
        let queue = self.queue().clone();
        let added = to_its_end(async move { queue.add(new).await }).await?;
        let download = Some((&*added.download).into());
        Ok(pb::StartDownloadResponse { download, is_new: added.is_new })
    }

    pub(super) async fn pause(
        &self,
        request: pb::PauseDownloadRequest,
    ) -> Result<pb::PauseDownloadResponse> {
        let pause = |queue: Queue, id: DownloadId| async move { queue.pause(&[id]).await };
        let download = Some(self.change(&request.download, pause).await?);
        Ok(pb::PauseDownloadResponse { download })
    }

    pub(super) async fn resume(
        &self,
        request: pb::ResumeDownloadRequest,
    ) -> Result<pb::ResumeDownloadResponse> {
        let resume = |queue: Queue, id: DownloadId| async move { queue.resume(&[id]).await };
        let download = Some(self.change(&request.download, resume).await?);
        Ok(pb::ResumeDownloadResponse { download })
    }

    pub(super) async fn retry(
        &self,
        request: pb::RetryDownloadRequest,
    ) -> Result<pb::RetryDownloadResponse> {
        let retry = |queue: Queue, id: DownloadId| async move { queue.retry(&[id]).await };
        let download = Some(self.change(&request.download, retry).await?);
        Ok(pb::RetryDownloadResponse { download })
    }

    pub(super) async fn cancel(
        &self,
        request: pb::CancelDownloadRequest,
    ) -> Result<pb::CancelDownloadResponse> {
        let id = self.find(&request.download)?.id.clone();
        let (queue, removed) = (self.queue().clone(), id.clone());
        to_its_end(async move { queue.remove(&[removed], request.remove_data).await }).await?;
        Ok(pb::CancelDownloadResponse { id: id.to_string() })
    }

    pub(super) fn get(&self, request: &pb::GetDownloadRequest) -> Result<pb::GetDownloadResponse> {
        let download = self.find(&request.download)?;
        Ok(pb::GetDownloadResponse { download: Some((&*download).into()) })
    }

    pub(super) fn list(
        &self,
        request: pb::ListDownloadsRequest,
    ) -> Result<pb::ListDownloadsResponse> {
        let filter = Filter {
            states: request.states.iter().map(|state| state_name(*state)).collect::<Result<_>>()?,
            category: request.category,
            tag: request.tag,
            storage: request.storage,
            name: request.name,
            ids: Vec::new(),
        };
        let page = Page {
            order: order(request.order)?,
            offset: usize::try_from(request.offset).unwrap_or(usize::MAX),
            limit: request.limit.map_or(PAGE, |limit| limit as usize).min(MAX_PAGE),
        };
        let listed = self.queue().list(&filter, page);
        Ok(pb::ListDownloadsResponse {
            total: listed.total as u64,
            downloads: listed.downloads.iter().map(|download| (&**download).into()).collect(),
            position: Some(pb::Position { run: self.run().to_string(), sequence: listed.revision }),
        })
    }

    fn find(&self, text: &str) -> Result<Arc<Download>> {
        match text.is_empty() {
            true => Err(invalid("the request names no download")),
            false => self.queue().find(text),
        }
    }

    /// Changes the download with this name, and returns what it is then.
    async fn change<F>(
        &self,
        name: &str,
        change: impl FnOnce(Queue, DownloadId) -> F,
    ) -> Result<pb::Download>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let id = self.find(name)?.id.clone();
        to_its_end(change(self.queue().clone(), id.clone())).await?;
        Ok((&*self.queue().get(&id)?).into())
    }
}

/// Does a command in a task of its own: it ends also when the call is dropped meanwhile.
async fn to_its_end<T: Send + 'static>(
    command: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let done = tokio::spawn(command).await;
    done.map_err(|e| Error::new(Kind::Internal, "a command panicked").because(e))?
}
