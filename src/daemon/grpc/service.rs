//! The calls of `bae.v1.DownloadService`.

use std::{pin::Pin, sync::Arc};

use futures_core::Stream;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status, Streaming};

use super::{
    MAX_STREAMS, control::Control, ends::Ends, follow::Follow, pb,
    pb::download_service_server::DownloadService, status::status,
};
use crate::{
    daemon::{access::Role, state::ApiState},
    error::{Error, Kind},
    queue::Queue,
};

/// The service. Clones share it.
#[derive(Clone)]
pub(super) struct Service(Arc<Shared>);

struct Shared {
    state: ApiState,
    run: Arc<str>,
    streams: Arc<Semaphore>,
}

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    pub(super) fn new(state: ApiState) -> Self {
        let run = state.run_id().into();
        Self(Arc::new(Shared { state, run, streams: Arc::new(Semaphore::new(MAX_STREAMS)) }))
    }

    pub(super) fn state(&self) -> &ApiState {
        &self.0.state
    }

    pub(super) fn queue(&self) -> &Queue {
        self.0.state.queue()
    }

    /// The run of the daemon: positions of another one have no meaning.
    pub(super) fn run(&self) -> &Arc<str> {
        &self.0.run
    }

    fn stream_slot(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.0.streams).try_acquire_owned().map_err(|_| {
            let text = format!("{MAX_STREAMS} streams are open");
            status(&Error::new(Kind::RateLimited, text))
        })
    }
}

fn answer<T>(result: crate::error::Result<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| status(&error))
}

#[tonic::async_trait]
impl DownloadService for Service {
    async fn start_download(
        &self,
        request: Request<pb::StartDownloadRequest>,
    ) -> Result<Response<pb::StartDownloadResponse>, Status> {
        answer(self.start(request.into_inner()).await)
    }

    async fn pause_download(
        &self,
        request: Request<pb::PauseDownloadRequest>,
    ) -> Result<Response<pb::PauseDownloadResponse>, Status> {
        answer(self.pause(request.into_inner()).await)
    }

    async fn resume_download(
        &self,
        request: Request<pb::ResumeDownloadRequest>,
    ) -> Result<Response<pb::ResumeDownloadResponse>, Status> {
        answer(self.resume(request.into_inner()).await)
    }

    async fn retry_download(
        &self,
        request: Request<pb::RetryDownloadRequest>,
    ) -> Result<Response<pb::RetryDownloadResponse>, Status> {
        answer(self.retry(request.into_inner()).await)
    }

    async fn cancel_download(
        &self,
        request: Request<pb::CancelDownloadRequest>,
    ) -> Result<Response<pb::CancelDownloadResponse>, Status> {
        answer(self.cancel(request.into_inner()).await)
    }

    async fn get_download(
        &self,
        request: Request<pb::GetDownloadRequest>,
    ) -> Result<Response<pb::GetDownloadResponse>, Status> {
        answer(self.get(request.get_ref()))
    }

    async fn list_downloads(
        &self,
        request: Request<pb::ListDownloadsRequest>,
    ) -> Result<Response<pb::ListDownloadsResponse>, Status> {
        answer(self.list(request.into_inner()))
    }

    type StreamProgressStream = Answers<pb::ProgressUpdate>;

    async fn stream_progress(
        &self,
        request: Request<pb::StreamProgressRequest>,
    ) -> Result<Response<Self::StreamProgressStream>, Status> {
        let slot = self.stream_slot()?;
        let ends = Ends::new(self.state(), request.extensions());
        let follow = Follow::new(self.queue(), self.run(), request.get_ref());
        let follow = follow.map_err(|error| status(&error))?;
        let updates = stream::unfold(Some((follow, ends, slot)), |open| async {
            let (mut follow, mut ends, slot) = open?;
            let next = tokio::select! {
                status = ends.wait() => Err(status),
                update = follow.next() => Ok(update?),
            };
            let open = next.is_ok().then_some((follow, ends, slot));
            Some((next, open))
        });
        Ok(Response::new(Box::pin(updates)))
    }

    type ControlStream = Answers<pb::ControlResponse>;

    async fn control(
        &self,
        request: Request<Streaming<pb::ControlRequest>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let slot = self.stream_slot()?;
        let ends = Ends::new(self.state(), request.extensions());
        let role = request.extensions().get::<Role>().copied().unwrap_or(Role::Reader);
        let control = Control::new(self.clone(), role, request.into_inner(), ends);
        let answers = stream::unfold(Some((control, slot)), |open| async {
            let (mut control, slot) = open?;
            let next = control.next().await?;
            let open = next.is_ok().then_some((control, slot));
            Some((next, open))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
