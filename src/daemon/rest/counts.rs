//! `/downloads/counts`: how many downloads each filter of the list would show.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    daemon::{
        openapi::{Routes, get},
        state::ApiState,
    },
    queue::{Filter, Page, Seeding, StateName},
};

pub(super) fn routes() -> Routes {
    let counts = get(counts, "How many downloads there are by state, category and storage");
    Routes::default().at("/downloads/counts", [counts.gives::<Counts>(200)])
}

/// Downloads in the queue, by what a list can be filtered by.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct Counts {
    total: usize,
    states: BTreeMap<StateName, usize>,
    /// The empty name counts downloads without a category.
    categories: BTreeMap<String, usize>,
    storages: BTreeMap<String, usize>,
    seeding: usize,
    /// Rates of all of them, in bytes per second.
    download_rate: u64,
    upload_rate: u64,
    revision: u64,
}

async fn counts(State(state): State<ApiState>) -> Json<Counts> {
    let listed = state.queue().list(&Filter::default(), Page::default());
    let mut counts = Counts { total: listed.total, revision: listed.revision, ..Counts::default() };
    for download in &listed.downloads {
        let (settings, progress) = (&download.settings, &download.progress);
        *counts.states.entry(download.state.name()).or_default() += 1;
        count(&mut counts.categories, settings.category.as_deref().unwrap_or_default());
        count(&mut counts.storages, &settings.storage);
        counts.seeding += usize::from(download.seeding == Seeding::Active);
        counts.download_rate += progress.download_rate;
        counts.upload_rate += progress.upload_rate;
    }
    Json(counts)
}

fn count(counts: &mut BTreeMap<String, usize>, name: &str) {
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => drop(counts.insert(name.to_owned(), 1)),
    }
}
