//! The REST API, below `/api/v1`. JSON in and out; errors are `application/problem+json`.

mod counts;
mod downloads;
mod estimate;
mod events;
mod feeds;
mod imports;
mod session;
mod system;
mod views;

use axum::{Router, middleware::from_fn_with_state};

pub(crate) use self::views::DownloadView;
use super::{
    access::{guard, require},
    state::ApiState,
};

/// The routes of the REST API, behind the checks of origin and token. Only a login needs no token.
pub(super) fn router(state: &ApiState) -> Router {
    let routes = Router::new()
        .merge(downloads::routes())
        .merge(counts::routes())
        .merge(estimate::routes())
        .merge(feeds::routes())
        .merge(imports::routes())
        .merge(system::routes())
        .merge(events::routes())
        .merge(session::routes())
        .layer(from_fn_with_state(state.clone(), require));
    Router::new()
        .nest("/api/v1", routes.merge(session::open_routes()))
        .layer(from_fn_with_state(state.clone(), guard::check_origin))
        .with_state(state.clone())
}
