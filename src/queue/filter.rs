//! Which downloads a list has, and in which order.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    download::{Download, DownloadId},
    state::StateName,
};

/// Conditions that all must hold. `Default` matches everything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Empty matches all.
    pub states: BTreeSet<StateName>,
    /// `Some("")` matches downloads without a category.
    pub category: Option<String>,
    /// `Some("")` matches downloads without tags.
    pub tag: Option<String>,
    pub storage: Option<String>,
    /// A part of the name, in any case.
    pub name: Option<String>,
    /// Empty matches all.
    pub ids: Vec<DownloadId>,
}

impl Filter {
    #[must_use]
    pub fn matches(&self, download: &Download) -> bool {
        let settings = &download.settings;
        let category = settings.category.as_deref().unwrap_or_default();
        let has_tag = |tag: &String| match tag.is_empty() {
            true => settings.tags.is_empty(),
            false => settings.tags.contains(tag),
        };
        let has_name = |part: &String| download.name.to_lowercase().contains(&part.to_lowercase());
        (self.states.is_empty() || self.states.contains(&download.state.name()))
            && self.category.as_ref().is_none_or(|wanted| wanted == category)
            && self.tag.as_ref().is_none_or(has_tag)
            && self.storage.as_ref().is_none_or(|wanted| *wanted == settings.storage)
            && self.name.as_ref().is_none_or(has_name)
            && (self.ids.is_empty() || self.ids.contains(&download.id))
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    #[default]
    Added,
    Newest,
    /// The order in which they are started.
    Queue,
}

/// A part of a list.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    pub order: Order,
    pub offset: usize,
    pub limit: usize,
}

impl Default for Page {
    /// Everything, oldest first.
    fn default() -> Self {
        Self { order: Order::default(), offset: 0, limit: usize::MAX }
    }
}

/// A page of downloads.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Number of downloads that match, on all pages.
    pub total: usize,
    pub revision: u64,
    pub downloads: Vec<Arc<Download>>,
}
