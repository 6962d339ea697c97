//! The health service, for anyone: whether the daemon serves, and nothing else.

use std::{pin::Pin, sync::Arc};

use futures_core::Stream;
use futures_util::stream;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health as HealthService,
};

use crate::daemon::state::ApiState;

/// Services with a health. The empty name is the daemon's.
const SERVICES: &[&str] = &["", "bae.v1.DownloadService"];
/// Watches at once: they need no token.
const MAX_WATCHES: usize = 64;

/// The health of the daemon.
pub(super) struct Health {
    state: ApiState,
    watches: Arc<Semaphore>,
}

impl Health {
    pub(super) fn new(state: ApiState) -> Self {
        Self { state, watches: Arc::new(Semaphore::new(MAX_WATCHES)) }
    }

    async fn status_of(&self, service: &str) -> ServingStatus {
        if !SERVICES.contains(&service) {
            return ServingStatus::ServiceUnknown;
        }
        match self.state.answers().await {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl HealthService for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match self.status_of(&request.get_ref().service).await {
            ServingStatus::ServiceUnknown => Err(Status::not_found("no such service")),
            status => Ok(Response::new(response(status))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// The present health, and `NOT_SERVING` when the daemon stops.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let slot = Arc::clone(&self.watches).try_acquire_owned();
        let slot = slot.map_err(|_| Status::resource_exhausted("too many watches are open"))?;
        let now = self.status_of(&request.get_ref().service).await;
        let stop = self.state.stopping();
        let end = stream::once(async move {
            let _slot = slot;
            stop.cancelled().await;
            Ok(response(ServingStatus::NotServing))
        });
        let now = stream::once(async move { Ok(response(now)) });
        Ok(Response::new(Box::pin(stream::StreamExt::chain(now, end))))
    }
}
