//! `/estimate`: the objects, requests, memory and price of a download, before it is added.

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
};
use schemars::JsonSchema;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::downloads::{AddRequest, MAX_ADD_BODY, bad_body};
use crate::{
    daemon::{
        openapi::{Routes, post},
        problem::Problem,
        state::ApiState,
    },
    engine::Estimate,
};

pub(super) fn routes() -> Routes {
    let estimate = post(estimate, "Size, objects, requests, memory and cost of a download")
        .body::<AddRequest>()
        .max_body(MAX_ADD_BODY)
        .gives::<EstimateView>(200);
    Routes::default().at("/estimate", [estimate])
}

#[derive(Debug, Serialize, JsonSchema)]
struct EstimateView {
    #[serde(flatten)]
    estimate: Estimate,
    /// Whether the same torrent or URL is in the queue already.
    is_queued: bool,
}

/// The body is that of a request to add. Nothing is added, and no payload is fetched.
async fn estimate(
    State(state): State<ApiState>,
    body: Result<Json<AddRequest>, JsonRejection>,
) -> Result<Json<EstimateView>, Problem> {
    let Json(request) = body.map_err(bad_body)?;
    let mut new = request.into_new()?;
    new.settings.only_public = !state.options().private_hosts;
    let cancel = CancellationToken::new();
    // A client that goes away ends the work.
    let _guard = cancel.clone().drop_guard();
    let (estimate, is_queued) = state.queue().estimate(new, cancel).await?;
    Ok(Json(EstimateView { estimate, is_queued }))
}
