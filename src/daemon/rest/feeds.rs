//! `/feeds`: the feeds of the config file.

use axum::{
    Json,
    extract::{Path, State},
};

use crate::{
    daemon::{
        openapi::{Routes, get, post},
        problem::Problem,
        state::ApiState,
    },
    queue::{FeedView, Preview, Refreshed},
};

pub(super) fn routes() -> Routes {
    let refresh = post(refresh, "Requests a feed now, and adds its new items");
    let preview = get(preview, "Requests a feed now, and says which items would be added");
    Routes::default()
        .at("/feeds", [get(list, "The feeds of the config file").gives::<Vec<FeedView>>(200)])
        .at("/feeds/{name}", [get(show, "A feed").gives::<FeedView>(200)])
        .at("/feeds/{name}/refresh", [refresh.gives::<Refreshed>(200)])
        .at("/feeds/{name}/preview", [preview.gives::<Preview>(200)])
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
