//! The REST API, below `/api/v1`. JSON in and out; errors are `application/problem+json`.

mod counts;
mod downloads;
mod estimate;
mod events;
mod feeds;
mod imports;
mod logs;
mod session;
mod system;
mod views;

use axum::{
    Json, Router,
    body::to_bytes,
    extract::{Request, State},
    http::header::CONTENT_TYPE,
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse as _, Response},
};
use serde_json::Value;

#[cfg(feature = "cli")]
pub(crate) use self::views::DownloadView;
use super::{
    access::{guard, require},
    openapi::{self, Routes, get},
    problem::Problem,
    state::ApiState,
};
use crate::error::{Error, Kind};

/// The routes of the REST API, behind the checks of origin and token. Only a login needs no token.
pub(super) fn router(state: &ApiState) -> Router {
    let (closed, open) = routes();
    let closed = closed.layered(|router| router.layer(from_fn_with_state(state.clone(), require)));
    Router::new()
        .nest("/api/v1", closed.merge(open).into_router().layer(from_fn(as_problem)))
        .layer(from_fn_with_state(state.clone(), guard::check_origin))
        .with_state(state.clone())
}

/// The routes below `/api/v1`: those behind a token, and the others.
fn routes() -> (Routes, Routes) {
    let document = get(document, "This document").gives::<serde_json::Map<String, Value>>(200);
    let closed = Routes::default()
        .at("/openapi.json", [document])
        .merge(downloads::routes())
        .merge(counts::routes())
        .merge(estimate::routes())
        .merge(feeds::routes())
        .merge(imports::routes())
        .merge(logs::routes())
        .merge(system::routes())
        .merge(events::routes())
        .merge(session::routes());
    (closed, session::open_routes())
}

/// All routes of the document.
fn all_routes() -> Routes {
    let (closed, open) = routes();
    Routes::default()
        .nest("/api/v1", closed.merge(open))
        .merge(super::router::health_routes())
        .merge(super::metrics::routes())
}

async fn document(State(state): State<ApiState>) -> Json<Value> {
    Json(openapi::document(all_routes().described(), &state.options().base_path))
}

/// Longest text of a refusal.
const MAX_REFUSAL: usize = 4 << 10;

/// Layer: a refusal of the framework, which is plain text, becomes an error like all others.
async fn as_problem(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let (status, headers) = (response.status(), response.headers());
    let content_type = headers.get(CONTENT_TYPE).and_then(|name| name.to_str().ok());
    let is_text = content_type.is_some_and(|name| name.starts_with("text/plain"));
    if !is_text || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let text = to_bytes(response.into_body(), MAX_REFUSAL).await.unwrap_or_default();
    let error = Error::new(Kind::InvalidInput, String::from_utf8_lossy(&text));
    Problem::with_status(status, error).into_response()
}
