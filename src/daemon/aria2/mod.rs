//! aria2's RPC interface: JSON-RPC over HTTP and WebSocket at `/jsonrpc`, and XML-RPC at `/rpc`.
//!
//! The path of a call: `http.rs` or `socket.rs` reads it within bounds, `envelope.rs` or `xml.rs` parses it, `call.rs`
//! checks its token and its number, and a room of methods (`add.rs`, `control.rs`, `show.rs`, `globals.rs`) turns it into
//! a call of the queue. `status.rs` and `options.rs` are the pure mapping between the queue's words and aria2's: a GID is
//! the id of a download, and every value is a string. `notify.rs` turns events into notifications for sockets.
//!
//! Each call proves a token by itself (`"token:SECRET"`), as aria2's do, or by `Authorization: Bearer`. No cookie and no
//! Basic login counts here, so that no page can use those of its visitor.
//!
//! Refused: foreign origins, except for browser extensions; calls that change something by GET, and JSONP; programs,
//! proxies, files and folders in options; a free `dir` or `gid`; shutdown; more calls in one request than [`MAX_CALLS`].

mod add;
mod call;
mod control;
mod envelope;
mod globals;
mod http;
mod notify;
mod options;
mod params;
mod show;
mod socket;
mod status;
mod xml;

use std::{collections::VecDeque, sync::Arc};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{content::Contents, state::ApiState};
use crate::queue::{Download, DownloadId};

/// Most calls in one request, batches and multicalls taken together.
const MAX_CALLS: usize = 1000;
/// Removed downloads that are still shown as such.
const MAX_REMOVED: usize = 1000;
/// Most sockets.
const MAX_SOCKETS: usize = 64;
/// Requests with a large body that are read at once. Their token is in the body, so every client can send one.
const MAX_LARGE_BODIES: usize = 2;

/// The routes of the dialect.
pub(super) fn router(state: &ApiState) -> Router {
    let json = post(http::post).get(http::get).options(http::preflight);
    Router::new()
        .route("/jsonrpc", json)
        .route("/rpc", post(http::xml).options(http::preflight))
        .route("/jsonrpc/", get(http::get).post(http::post))
        .layer(DefaultBodyLimit::disable())
        .with_state(Aria2::new(state))
}

/// What all requests of the dialect share.
#[derive(Debug, Clone)]
struct Aria2(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: ApiState,
    contents: Contents,
    /// The latest last.
    removed: Mutex<VecDeque<Arc<Download>>>,
    session_id: String,
    sockets: Arc<Semaphore>,
    large_bodies: Semaphore,
}

impl Aria2 {
    fn new(state: &ApiState) -> Self {
        let half = || DownloadId::random().map_or_else(|_| "0".repeat(16), |id| id.to_string());
        Self(Arc::new(Shared {
            state: state.clone(),
            contents: Contents::default(),
            removed: Mutex::default(),
            session_id: format!("{}{}00000000", half(), half()),
            sockets: Arc::new(Semaphore::new(MAX_SOCKETS)),
            large_bodies: Semaphore::new(MAX_LARGE_BODIES),
        }))
    }

    fn state(&self) -> &ApiState {
        &self.0.state
    }
}
