//! `/imports`: what is stored.

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    api::file_response,
    daemon::{
        openapi::{Routes, delete, get},
        problem::Problem,
        state::ApiState,
    },
    engine::{FileInfo, ImportInfo, ImportSummary, StoredMap},
    error::{Error, Kind},
};

/// Imports on a page, unless the request says otherwise; and the most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

pub(super) fn routes() -> Routes {
    let remove = delete(remove, "Removes an import with its stored objects, and its download")
        .query::<RemoveQuery>()
        .gives_nothing(202)
        .gives_nothing(204);
    let content = get(content, "The bytes of a file, or a range of them")
        .header("Range", "The bytes to send")
        .gives_type(200, "*/*")
        .gives_type(206, "*/*")
        .gives_nothing(304)
        .gives_nothing(412)
        .gives_nothing(416);
    Routes::default()
        .at("/imports", [get(list, "What is stored").query::<PageQuery>().gives::<ImportList>(200)])
        .at("/imports/{id}", [get(info, "An import").gives::<ImportInfo>(200), remove])
        .at("/imports/{id}/files", [get(files, "Files of an import").gives::<Vec<FileInfo>>(200)])
        .at(
            "/imports/{id}/map",
            [get(map, "Which parts are stored").query::<MapQuery>().gives::<StoredMap>(200)],
        )
        .at("/imports/{id}/content/{*path}", [content])
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct PageQuery {
    offset: usize,
    limit: Option<usize>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Imports")]
struct ImportList {
    /// Imports on all pages.
    total: usize,
    offset: usize,
    imports: Vec<ImportSummary>,
}

async fn list(
    State(state): State<ApiState>,
    Query(query): Query<PageQuery>,
) -> Result<Json<ImportList>, Problem> {
    let imports = state.engine().list().await?;
    let (total, offset) = (imports.len(), query.offset);
    let limit = query.limit.unwrap_or(PAGE).min(MAX_PAGE);
    let imports = imports.into_iter().skip(offset).take(limit).collect();
    Ok(Json(ImportList { total, offset, imports }))
}

async fn info(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<ImportInfo>, Problem> {
    Ok(Json(state.engine().info(&id).await?))
}

async fn files(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Vec<FileInfo>>, Problem> {
    Ok(Json(state.engine().info(&id).await?.files))
}

/// Cells of a map, unless the request says otherwise; and the most.
const CELLS: usize = 128;
const MAX_CELLS: usize = 1024;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct MapQuery {
    cells: Option<usize>,
}

/// Which parts of an import are stored.
async fn map(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    Query(query): Query<MapQuery>,
) -> Result<Json<StoredMap>, Problem> {
    let cells = query.cells.unwrap_or(CELLS).clamp(1, MAX_CELLS);
    Ok(Json(state.engine().stored_map(&id, cells).await?))
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct RemoveQuery {
    /// Leaves the objects in the storage.
    keep_objects: bool,
}

/// Removes an import; its download, too, if it has one.
async fn remove(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Result<StatusCode, Problem> {
    let info = state.engine().info(&id).await?.summary;
    if let Some(download) = state.queue().by_import(&info.id) {
        if query.keep_objects {
            let text = "the import belongs to a download";
            return Err(Error::new(Kind::Unavailable, text)
                .hint("remove the download first, without its data")
                .into());
        }
        state.queue().remove(std::slice::from_ref(&download.id), true).await?;
        return Ok(StatusCode::ACCEPTED);
    }
    state.engine().remove(&info.id, query.keep_objects).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The bytes of a file, or a range of them; also while the import is being filled.
async fn content(
    State(state): State<ApiState>,
    Path((id, path)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let import = state.streamed(&id).await?;
    let no_file = || Error::new(Kind::NotFound, format!("import {id} has no file {path:?}"));
    let file = import.files().iter().find(|file| file.path == path).ok_or_else(no_file)?;
    let answer = file_response(&import, file, request.method(), request.headers()).await?;
    let mut response = answer.map(Body::new).into_response();
    // A stored page must not run as a part of this one.
    let sandbox = axum::http::HeaderValue::from_static("sandbox; default-src 'none'");
    response.headers_mut().insert(axum::http::header::CONTENT_SECURITY_POLICY, sandbox);
    Ok(response)
}
