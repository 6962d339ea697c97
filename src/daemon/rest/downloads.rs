//! `/downloads`: the queue.

use std::collections::BTreeSet;

use axum::{
    Json,
    extract::{Path, Query, State, rejection::JsonRejection},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ETAG, IF_NONE_MATCH, LOCATION},
    },
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::views::DownloadView;
use crate::{
    catalog::LayoutKind,
    daemon::{
        openapi::{Operation, Routes, delete, get, patch, post},
        problem::Problem,
        state::ApiState,
    },
    error::{Error, Kind},
    queue::{
        Change, Download, DownloadId, FetchSettings, Filter, Move, NewDownload, NewSource, Order,
        Page, Priority, RateLimits, SeedLimits, Settings, StateName,
    },
};

/// Longest body of a request to add: a torrent of the largest size in base64.
pub(super) const MAX_ADD_BODY: usize = 64 << 20;
/// Downloads on a page, unless the request says otherwise; and the most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

pub(super) fn routes() -> Routes {
    let view = |operation: Operation| operation.gives::<DownloadView<'_>>(200);
    let add = post(add, "Adds a download, or answers with the one that is there already")
        .header("Idempotency-Key", "A request with the same key within a day adds nothing")
        .body::<AddRequest>()
        .max_body(MAX_ADD_BODY)
        .gives::<DownloadView<'_>>(201);
    let show = get(show, "A download, by id, number, info-hash, id of its import, or name")
        .header("If-None-Match", "The ETag of the version that the client has")
        .gives_nothing(304);
    let update = patch(update, "Changes settings of a download").body::<UpdateRequest>();
    Routes::default()
        .at(
            "/downloads",
            [
                get(list, "The downloads that match")
                    .query::<ListQuery>()
                    .gives::<ListAnswer<'_>>(200),
                view(add),
            ],
        )
        .at(
            "/downloads/{id}",
            [
                view(show),
                view(update),
                delete(remove, "Removes a download").query::<RemoveQuery>().gives_nothing(204),
            ],
        )
        .at("/downloads/{id}/pause", [view(post(pause, "Stops a download and keeps its bytes"))])
        .at("/downloads/{id}/resume", [view(post(resume, "Continues a paused download"))])
        .at("/downloads/{id}/retry", [view(post(retry, "Tries a failed download again"))])
        .at(
            "/downloads/{id}/move",
            [view(
                post(move_to, "Moves a download among those of its priority").body::<MoveBody>(),
            )],
        )
}

/// The body of a request to add a download: `url` or `torrent`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AddRequest {
    /// A URL, a magnet link or an info-hash.
    url: Option<String>,
    /// A torrent file in base64.
    torrent: Option<String>,
    name: Option<String>,
    protocol: Option<String>,
    storage: Option<String>,
    layout: Option<LayoutKind>,
    category: Option<String>,
    tags: BTreeSet<String>,
    priority: Priority,
    start_after: Option<u64>,
    paused: bool,
    first: bool,
    forced: bool,
    sequential: bool,
    select: Option<String>,
    limits: RateLimits,
    seed_limits: SeedLimits,
    fetch: FetchSettings,
}

async fn add(
    State(state): State<ApiState>,
    headers: HeaderMap,
    body: Result<Json<AddRequest>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(request) = body.map_err(bad_body)?;
    let mut new = request.into_new()?;
    new.settings.only_public = !state.options().private_hosts;
    new.idempotency_key = match headers.get("idempotency-key") {
        Some(key) => Some(key.to_str().map_err(|_| invalid("the idempotency key"))?.to_owned()),
        None => None,
    };
    let added = state.queue().add(new).await?;
    let status = if added.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = (status, Json(DownloadView::from(&*added.download))).into_response();
    let base = &state.options().base_path;
    let location = format!("{base}/api/v1/downloads/{}", added.download.id);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

impl AddRequest {
    pub(super) fn into_new(self) -> Result<NewDownload, Problem> {
        let source = match (self.url, self.torrent) {
            (Some(url), None) => NewSource::Link(url),
            (None, Some(torrent)) => NewSource::Torrent(
                STANDARD
                    .decode(torrent.trim())
                    .map_err(|_| invalid("torrent, which is base64,"))?,
            ),
            _ => {
                let text = "give either url or torrent";
                return Err(Error::new(Kind::InvalidInput, text).into());
            }
        };
        Ok(NewDownload {
            source,
            name: self.name,
            layout: self.layout,
            paused: self.paused,
            first: self.first,
            idempotency_key: None,
            settings: Settings {
                storage: self.storage.unwrap_or_default(),
                category: self.category,
                tags: self.tags,
                priority: self.priority,
                start_after: self.start_after,
                forced: self.forced,
                limits: self.limits,
                seed_limits: self.seed_limits,
                select: self.select,
                sequential: self.sequential,
                protocol: self.protocol,
                fetch: self.fetch,
                ..Settings::default()
            },
        })
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct ListQuery {
    /// States, separated by commas.
    state: Option<String>,
    category: Option<String>,
    tag: Option<String>,
    storage: Option<String>,
    name: Option<String>,
    order: Option<OrderName>,
    offset: usize,
    limit: Option<usize>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum OrderName {
    Added,
    Newest,
    Queue,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Downloads")]
struct ListAnswer<'a> {
    /// Downloads that match, on all pages.
    total: usize,
    offset: usize,
    revision: u64,
    downloads: Vec<DownloadView<'a>>,
}

async fn list(
    State(state): State<ApiState>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|e| Error::new(Kind::InvalidInput, e.body_text()))?;
    let states = query.state.as_deref().unwrap_or_default().split(',');
    let states = states.map(str::trim).filter(|state| !state.is_empty());
    let parse = |text: &str| {
        StateName::parse(text)
            .ok_or_else(|| Error::new(Kind::InvalidInput, format!("no state is called {text:?}")))
    };
    let filter = Filter {
        states: states.map(parse).collect::<Result<_, _>>()?,
        category: query.category,
        tag: query.tag,
        storage: query.storage,
        name: query.name,
        ids: Vec::new(),
    };
    let order = match query.order {
        None | Some(OrderName::Added) => Order::Added,
        Some(OrderName::Newest) => Order::Newest,
        Some(OrderName::Queue) => Order::Queue,
    };
    let limit = query.limit.unwrap_or(PAGE).min(MAX_PAGE);
    let listed = state.queue().list(&filter, Page { order, offset: query.offset, limit });
    let downloads = listed.downloads.iter().map(|download| DownloadView::from(&**download));
    let answer = ListAnswer {
        total: listed.total,
        offset: query.offset,
        revision: listed.revision,
        downloads: downloads.collect(),
    };
    Ok(Json(answer).into_response())
}

async fn show(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let download = state.queue().find(&id)?;
    let etag = format!("\"{}-{}\"", download.id, download.revision);
    let known = headers.get(IF_NONE_MATCH).and_then(|etags| etags.to_str().ok());
    if known.is_some_and(|known| known.split(',').any(|known| known.trim() == etag)) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let mut response = Json(DownloadView::from(&*download)).into_response();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    Ok(response)
}

/// A change; fields that are missing stay. `null` clears a category, start time or selection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct UpdateRequest {
    name: Option<String>,
    #[serde(deserialize_with = "given")]
    category: Option<Option<String>>,
    tags: Option<BTreeSet<String>>,
    priority: Option<Priority>,
    limits: Option<RateLimits>,
    seed_limits: Option<SeedLimits>,
    #[serde(deserialize_with = "given")]
    start_after: Option<Option<u64>>,
    forced: Option<bool>,
    sequential: Option<bool>,
    #[serde(deserialize_with = "given")]
    select: Option<Option<String>>,
}

/// Tells a `null` from a missing field.
fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

async fn update(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    body: Result<Json<UpdateRequest>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(request) = body.map_err(bad_body)?;
    let download = state.queue().find(&id)?;
    let (add_tags, remove_tags) = match request.tags {
        Some(tags) => {
            let removed = download.settings.tags.difference(&tags).cloned().collect();
            (tags, removed)
        }
        None => Default::default(),
    };
    let change = Change {
        name: request.name,
        category: request.category,
        add_tags,
        remove_tags,
        priority: request.priority,
        limits: request.limits,
        seed_limits: request.seed_limits,
        start_after: request.start_after,
        forced: request.forced,
        sequential: request.sequential,
        select: request.select,
        extra: Default::default(),
    };
    state.queue().update(std::slice::from_ref(&download.id), &change).await?;
    answer(&state, &download.id)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct RemoveQuery {
    /// Also removes the import with its stored objects.
    data: bool,
}

async fn remove(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Result<StatusCode, Problem> {
    let download = state.queue().find(&id)?;
    state.queue().remove(std::slice::from_ref(&download.id), query.data).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn pause(state: State<ApiState>, Path(id): Path<String>) -> Result<Response, Problem> {
    let download = state.queue().find(&id)?;
    state.queue().pause(std::slice::from_ref(&download.id)).await?;
    answer(&state, &download.id)
}

async fn resume(state: State<ApiState>, Path(id): Path<String>) -> Result<Response, Problem> {
    let download = state.queue().find(&id)?;
    state.queue().resume(std::slice::from_ref(&download.id)).await?;
    answer(&state, &download.id)
}

async fn retry(state: State<ApiState>, Path(id): Path<String>) -> Result<Response, Problem> {
    let download = state.queue().find(&id)?;
    state.queue().retry(std::slice::from_ref(&download.id)).await?;
    answer(&state, &download.id)
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum MoveRequest {
    First,
    Last,
    Earlier,
    Later,
    #[serde(untagged)]
    To {
        index: usize,
    },
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MoveBody {
    to: MoveRequest,
}

async fn move_to(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    body: Result<Json<MoveBody>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(MoveBody { to }) = body.map_err(bad_body)?;
    let to = match to {
        MoveRequest::First => Move::First,
        MoveRequest::Last => Move::Last,
        MoveRequest::Earlier => Move::Earlier,
        MoveRequest::Later => Move::Later,
        MoveRequest::To { index } => Move::To(index),
    };
    let download = state.queue().find(&id)?;
    state.queue().move_to(std::slice::from_ref(&download.id), to).await?;
    answer(&state, &download.id)
}

fn answer(state: &ApiState, id: &DownloadId) -> Result<Response, Problem> {
    let download: std::sync::Arc<Download> = state.queue().get(id)?;
    Ok(Json(DownloadView::from(&*download)).into_response())
}

fn invalid(what: &str) -> Problem {
    Error::new(Kind::InvalidInput, format!("{what} is malformed")).into()
}

/// A body that is too long, has the wrong type, or is no JSON of the right form.
pub(super) fn bad_body(rejection: JsonRejection) -> Problem {
    let error = Error::new(Kind::InvalidInput, rejection.body_text());
    Problem::with_status(rejection.status(), error)
}
