//! `/feeds`: the feeds of the config file.

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{get, post},
};

use crate::{
    daemon::{problem::Problem, state::ApiState},
    queue::{FeedView, Preview, Refreshed},
};

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/feeds", get(list))
        .route("/feeds/{name}", get(show))
        .route("/feeds/{name}/refresh", post(refresh))
        .route("/feeds/{name}/preview", get(preview))
}

async fn list(State(state): State<ApiState>) -> Json<Vec<FeedView>> {
    Json(state.queue().feeds())
}

async fn show(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<FeedView>, Problem> {
    Ok(Json(state.queue().feed(&name)?))
}

/// Requests the feed now, and adds its new items.
async fn refresh(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Refreshed>, Problem> {
    Ok(Json(state.queue().refresh_feed(&name).await?))
}

/// Requests the feed now, and says which items would be added.
async fn preview(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Preview>, Problem> {
    Ok(Json(state.queue().preview_feed(&name).await?))
}
