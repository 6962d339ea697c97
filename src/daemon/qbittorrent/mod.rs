//! qBittorrent's Web API v2, for the programs that speak it: Sonarr, Radarr, Lidarr, Prowlarr, autobrr, FlexGet,
//! dashboards, phone apps.
//!
//! It says that it is v5.1.4 with Web API 2.11.4, the last with the login that old and new clients know, and accepts a
//! superset: `pause` and `resume` beside `stop` and `start`, tokens in `Authorization: Bearer` and Basic beside the cookie.
//!
//! The path of a request: [`serve`] knows the caller (`auth.rs`), reads parameters from the query, a form or a multipart
//! form (`params.rs`), and calls an endpoint (`endpoints.rs`). Pure are the mapping of a download to the fields of a torrent
//! (`fields.rs`, `words.rs`, `folders.rs`) and the changes between two answers of `sync/maindata` (`view.rs`).
//!
//! Torrents are listed by their v1 hash, else by v2, and found by v1, v2, and v2 cut to the length of v1. Downloads that are
//! no torrents are not listed.
//!
//! Refused: folders of this machine, in whichever parameter. The path that a client reads is that of the export, or
//! `/bae/STORAGE` for what stays in its storage; the path that it sends must be one of these, or empty. No parameter names
//! a program, a URL of a storage, or a host to send mail to.

mod actions;
mod add;
mod answer;
mod app;
mod auth;
mod categories;
mod content;
mod endpoints;
mod facts;
mod fields;
mod folders;
mod limits;
mod list;
mod params;
mod preferences;
mod properties;
mod server_state;
mod sync;
mod transfer;
mod view;
mod words;

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{Method, StatusCode},
    middleware::from_fn_with_state,
    response::{IntoResponse as _, Response},
    routing::any,
};
use parking_lot::Mutex;

use self::{
    answer::{Answer, Refusal},
    facts::Facts,
    params::{MAX_ADD, Params},
    view::View,
};
use super::{
    access::{Role, guard},
    state::ApiState,
};
use crate::queue::{Download, Filter, Page, Queue};

/// The version of qBittorrent that clients are told.
const APP_VERSION: &str = "v5.1.4";
/// The version of its API.
const API_VERSION: &str = "2.11.4";

/// What the requests of this API share.
#[derive(Clone)]
struct Dialect(Arc<Shared>);

struct Shared {
    api: ApiState,
    facts: Facts,
    view: Mutex<View>,
    /// Free space of the default storage, and when it was looked up.
    free_space: Mutex<Option<(Instant, u64)>>,
}

impl Dialect {
    fn api(&self) -> &ApiState {
        &self.0.api
    }

    fn queue(&self) -> &Queue {
        self.0.api.queue()
    }

    /// All downloads, oldest first.
    fn downloads(&self) -> Vec<Arc<Download>> {
        self.queue().list(&Filter::default(), Page::default()).downloads
    }

    /// All downloads that are torrents, oldest first.
    fn torrents(&self) -> Vec<Arc<Download>> {
        self.downloads().into_iter().filter(|download| download.hashes.is_torrent()).collect()
    }
}

/// The routes of the API, below `/api/v2`.
pub(super) fn router(state: &ApiState) -> Router {
    let shared = Shared {
        api: state.clone(),
        facts: Facts::default(),
        view: Mutex::default(),
        free_space: Mutex::default(),
    };
    Router::new()
        .route("/api/v2/{*endpoint}", any(serve))
        .layer(DefaultBodyLimit::max(MAX_ADD))
        .layer(from_fn_with_state(state.clone(), guard::check_origin))
        .with_state(Dialect(Arc::new(shared)))
}

async fn serve(
    State(dialect): State<Dialect>,
    Path(endpoint): Path<String>,
    request: Request,
) -> Response {
    match answer(&dialect, &endpoint, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn answer(dialect: &Dialect, endpoint: &str, request: Request) -> Answer {
    let is_post = *request.method() == Method::POST;
    if !is_post && !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Refusal::method());
    }
    if let Some(action) = endpoint.strip_prefix("auth/") {
        return auth::serve(dialect.api(), action, request).await;
    }
    let role = auth::role_of(dialect.api(), &request)?;
    let known = endpoints::find(endpoint).ok_or_else(Refusal::no_endpoint)?;
    if known.changes && !is_post {
        return Err(Refusal::method());
    }
    if known.needs_admin && role < Role::Admin {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "the token may only read"));
    }
    dialect.0.facts.follow(dialect);
    let params = Params::read(request).await?;
    match known.changes {
        true => endpoints::change(dialect, endpoint, &params).await,
        false => endpoints::read(dialect, endpoint, &params).await,
    }
}
