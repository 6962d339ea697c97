//! Storages by name, settings that can change, categories, tags, the version.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::downloads::bad_body;
use crate::{
    config::{ActiveLimits, Category, StorageInfo},
    daemon::{
        openapi::{Routes, delete, get, patch, put},
        problem::Problem,
        state::ApiState,
    },
    queue::{Filter, Page, RateLimits},
};

pub(super) fn routes() -> Routes {
    let put_category = put(put_category, "Makes a category, or changes its storage")
        .body::<CategoryBody>()
        .gives_nothing(201)
        .gives_nothing(204);
    let delete_category = delete(delete_category, "Removes a category that a client made");
    Routes::default()
        .at("/version", [get(version, "The version and age of the daemon").gives::<Version>(200)])
        .at("/storages", [get(storages, "Storages by name").gives::<Vec<StorageInfo>>(200)])
        .at(
            "/settings",
            [
                get(settings, "Settings of the queue").gives::<Settings>(200),
                patch(change_settings, "Changes settings of the queue")
                    .body::<SettingsChange>()
                    .gives::<Settings>(200),
            ],
        )
        .at(
            "/categories",
            [get(categories, "Categories by name").gives::<BTreeMap<String, CategoryView>>(200)],
        )
        .at("/categories/{*name}", [put_category, delete_category.gives_nothing(204)])
        .at("/tags", [get(tags, "All tags").gives::<BTreeSet<String>>(200)])
}

#[derive(Debug, Serialize, JsonSchema)]
struct Version {
    version: &'static str,
    /// Number of this API.
    api: u32,
    uptime_seconds: u64,
    downloads: usize,
}

async fn version(State(state): State<ApiState>) -> Json<Version> {
    let page = Page { limit: 0, ..Page::default() };
    Json(Version {
        version: env!("CARGO_PKG_VERSION"),
        api: 1,
        uptime_seconds: state.started().elapsed().as_secs(),
        downloads: state.queue().list(&Filter::default(), page).total,
    })
}

/// The storages that downloads can name. Their locations contain no secrets.
async fn storages(State(state): State<ApiState>) -> Json<Vec<StorageInfo>> {
    Json(state.engine().config().list_storages(std::iter::empty()))
}

/// Settings of the queue.
#[derive(Debug, Serialize, JsonSchema)]
struct Settings {
    rates: RateLimits,
    active: Active,
    memory: u64,
    /// Whether URLs may lead to hosts outside the public network. Only the config file can change it.
    private_hosts: bool,
    default_storage: String,
    dialects: Vec<&'static str>,
}

/// Maximum numbers of active downloads; 0 is no limit.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Active {
    overall: usize,
    per_storage: usize,
    per_host: usize,
}

fn none_if_unlimited(limit: usize) -> usize {
    if limit == usize::MAX { 0 } else { limit }
}

fn unlimited_if_none(limit: usize) -> usize {
    if limit == 0 { usize::MAX } else { limit }
}

async fn settings(State(state): State<ApiState>) -> Json<Settings> {
    let (config, active) = (state.engine().config(), state.queue().active_limits());
    let dialects = state.options().dialects;
    let names = [
        ("qbittorrent", dialects.qbittorrent),
        ("aria2", dialects.aria2),
        ("transmission", dialects.transmission),
        ("subsonic", dialects.subsonic),
        ("webdav", dialects.webdav),
        ("s3", dialects.s3),
    ];
    Json(Settings {
        rates: state.queue().rates(),
        active: Active {
            overall: none_if_unlimited(active.overall),
            per_storage: none_if_unlimited(active.per_storage),
            per_host: none_if_unlimited(active.per_host),
        },
        memory: config.memory.0,
        private_hosts: state.options().private_hosts,
        default_storage: config.queue.storage.clone().unwrap_or(config.default_storage().into()),
        dialects: names.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect(),
    })
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct SettingsChange {
    rates: Option<RateLimits>,
    active: Option<Active>,
}

async fn change_settings(
    State(state): State<ApiState>,
    body: Result<Json<SettingsChange>, JsonRejection>,
) -> Result<Json<Settings>, Problem> {
    let Json(change) = body.map_err(bad_body)?;
    if let Some(rates) = change.rates {
        state.queue().set_rates(rates).await?;
    }
    if let Some(active) = change.active {
        let limits = ActiveLimits {
            overall: unlimited_if_none(active.overall),
            per_storage: unlimited_if_none(active.per_storage),
            per_host: unlimited_if_none(active.per_host),
        };
        state.queue().set_active_limits(limits).await?;
    }
    Ok(settings(State(state)).await)
}

/// A category. Folders are those of the config file.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Category")]
struct CategoryView {
    storage: Option<String>,
    export: Option<std::path::PathBuf>,
    seed_ratio: Option<f64>,
    seed_seconds: Option<u64>,
    tags: Vec<String>,
}

impl From<Category> for CategoryView {
    fn from(category: Category) -> Self {
        Self {
            storage: category.storage,
            export: category.export,
            seed_ratio: category.goal.ratio.filter(|ratio| ratio.is_finite()),
            seed_seconds: category.goal.time.map(|time| time.as_secs()),
            tags: category.tags,
        }
    }
}

async fn categories(State(state): State<ApiState>) -> Json<BTreeMap<String, CategoryView>> {
    let all = state.queue().categories().into_iter();
    Json(all.map(|(name, category)| (name, category.into())).collect())
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct CategoryBody {
    storage: Option<String>,
}

async fn put_category(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    body: Result<Json<CategoryBody>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let Json(CategoryBody { storage }) = body.map_err(bad_body)?;
    match state.queue().category(&name) {
        None => {
            state.queue().create_category(&name, storage).await?;
            Ok(StatusCode::CREATED)
        }
        Some(_) => {
            state.queue().set_category_storage(&name, storage).await?;
            Ok(StatusCode::NO_CONTENT)
        }
    }
}

async fn delete_category(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    state.queue().delete_category(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn tags(State(state): State<ApiState>) -> Json<BTreeSet<String>> {
    Json(state.queue().tags())
}
