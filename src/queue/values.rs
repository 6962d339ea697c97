//! Values of the whole queue that clients change: rate limits, numbers of active downloads, tags, categories.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Change, Queue,
    add::check_tag,
    categories::{ClientCategory, check_storage_name},
    download::{DownloadId, RateLimits},
    filter::{Filter, Page},
};
use crate::{
    catalog::Catalog,
    config::{ActiveLimits, Category},
    error::{Error, Kind, Result},
};

#[derive(Debug, Clone)]
pub(super) struct Values {
    /// `None` until a client sets them: then those of the config hold.
    pub(super) rates: Option<RateLimits>,
    pub(super) active: ActiveLimits,
    pub(super) tags: BTreeSet<String>,
    pub(super) categories: BTreeMap<String, ClientCategory>,
}

const RATES: &str = "rates";
const ACTIVE: &str = "active";
const TAGS: &str = "tags";
const CATEGORIES: &str = "categories";
/// Most tags, and most categories.
const MAX_NAMES: usize = 10_000;

impl Values {
    pub(super) async fn read(catalog: &Catalog, configured: ActiveLimits) -> Result<Self> {
        let active: Option<(usize, usize, usize)> = read(catalog, ACTIVE).await?;
        let active = active.map(|(overall, per_storage, per_host)| ActiveLimits {
            overall,
            per_storage,
            per_host,
        });
        Ok(Self {
            rates: read(catalog, RATES).await?,
            active: active.unwrap_or(configured),
            tags: read(catalog, TAGS).await?.unwrap_or_default(),
            categories: read(catalog, CATEGORIES).await?.unwrap_or_default(),
        })
    }
}

pub(super) async fn read<T: DeserializeOwned>(catalog: &Catalog, name: &str) -> Result<Option<T>> {
    let Some(text) = catalog.queue_value(name).await? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| {
        let text = format!("the queue's {name} in the catalog are malformed");
        Error::new(Kind::Corrupt, text).because(e)
    })
}

impl Queue {
    pub(super) async fn write_value(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value)
            .map_err(|e| Error::new(Kind::Internal, "cannot encode a value").because(e))?;
        self.catalog().set_queue_value(name, text).await
    }

    /// The rate limits of all downloads and of seeding together, as set by a client or in the config. The bandwidth
    /// schedule overrides them at its times.
    #[must_use]
    pub fn rates(&self) -> RateLimits {
        let config = self.0.engine.config();
        let configured = RateLimits { download: config.limit_rate, upload: config.upload_limit };
        self.0.values.read().rates.unwrap_or(configured)
    }

    /// # Errors
    /// When the catalog cannot be written.
    pub async fn set_rates(&self, rates: RateLimits) -> Result<()> {
        let none_if_zero = |rate: Option<u64>| rate.filter(|rate| *rate > 0);
        let (download, upload) = (none_if_zero(rates.download), none_if_zero(rates.upload));
        let rates = RateLimits { download, upload };
        let _changes = self.0.changes.lock().await;
        self.write_value(RATES, &rates).await?;
        self.0.values.write().rates = Some(rates);
        self.0.wake.notify_one();
        Ok(())
    }

    /// The maximum numbers of active downloads.
    #[must_use]
    pub fn active_limits(&self) -> ActiveLimits {
        self.0.values.read().active
    }

    /// # Errors
    /// When the catalog cannot be written.
    pub async fn set_active_limits(&self, limits: ActiveLimits) -> Result<()> {
        let _changes = self.0.changes.lock().await;
        let ActiveLimits { overall, per_storage, per_host } = limits;
        self.write_value(ACTIVE, &(overall, per_storage, per_host)).await?;
        self.0.values.write().active = limits;
        self.0.wake.notify_one();
        Ok(())
    }

    /// All tags: those that were created, and those of downloads.
    #[must_use]
    pub fn tags(&self) -> BTreeSet<String> {
        let mut tags = self.0.values.read().tags.clone();
        for download in self.0.store.read().all() {
            tags.extend(download.settings.tags.iter().cloned());
        }
        tags
    }

    /// Makes tags known that no download has yet.
    ///
    /// # Errors
    /// `InvalidInput` for a tag that is not usable.
    pub async fn create_tags(&self, tags: &[String]) -> Result<()> {
        tags.iter().try_for_each(|tag| check_tag(tag))?;
        let _changes = self.0.changes.lock().await;
        let mut all = self.0.values.read().tags.clone();
        all.extend(tags.iter().cloned());
        if all.len() > MAX_NAMES {
            return Err(Error::new(Kind::InvalidInput, format!("more than {MAX_NAMES} tags")));
        }
        self.write_value(TAGS, &all).await?;
        self.0.values.write().tags = all;
        self.touch();
        Ok(())
    }

    /// Removes tags, also from all downloads.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn delete_tags(&self, tags: &[String]) -> Result<()> {
        let remove_tags: BTreeSet<String> = tags.iter().cloned().collect();
        let change = Change { remove_tags: remove_tags.clone(), ..Change::default() };
        let listed = self.list(&Filter::default(), Page::default()).downloads;
        let tagged = listed.iter().filter(|d| !d.settings.tags.is_disjoint(&remove_tags));
        let ids: Vec<DownloadId> = tagged.map(|download| download.id.clone()).collect();
        self.update(&ids, &change).await?;
        let _changes = self.0.changes.lock().await;
        let mut all = self.0.values.read().tags.clone();
        all.retain(|tag| !remove_tags.contains(tag));
        self.write_value(TAGS, &all).await?;
        self.0.values.write().tags = all;
        self.touch();
        Ok(())
    }

    /// All categories by name: those of the config file, and those that clients made.
    #[must_use]
    pub fn categories(&self) -> BTreeMap<String, Category> {
        self.0.categories.read().list()
    }

    /// The category with this name.
    #[must_use]
    pub fn category(&self, name: &str) -> Option<Category> {
        self.0.categories.read().get(name)
    }

    /// Makes a category.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not usable; `AlreadyExists`; `NotFound` for an unknown storage.
    pub async fn create_category(&self, name: &str, storage: Option<String>) -> Result<()> {
        self.check_storage(storage.as_deref())?;
        self.change_categories(|categories| {
            if categories.from_clients.len() >= MAX_NAMES {
                let text = format!("more than {MAX_NAMES} categories");
                return Err(Error::new(Kind::InvalidInput, text));
            }
            categories.create(name, ClientCategory { storage })
        })
        .await
    }

    /// Changes the storage of a category that a client made. Downloads that exist stay where they are.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` for a category of the config file.
    pub async fn set_category_storage(&self, name: &str, storage: Option<String>) -> Result<()> {
        self.check_storage(storage.as_deref())?;
        self.change_categories(|categories| {
            categories.client_category(name)?.storage = storage;
            Ok(())
        })
        .await
    }

    /// Removes a category that a client made. Its downloads have none then.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` for a category of the config file.
    pub async fn delete_category(&self, name: &str) -> Result<()> {
        self.0.categories.write().client_category(name)?;
        let filter = Filter { category: Some(name.to_owned()), ..Filter::default() };
        let listed = self.list(&filter, Page::default()).downloads;
        let ids: Vec<DownloadId> = listed.iter().map(|download| download.id.clone()).collect();
        self.update(&ids, &Change { category: Some(None), ..Change::default() }).await?;
        self.change_categories(|categories| {
            categories.client_category(name)?;
            categories.from_clients.remove(name);
            Ok(())
        })
        .await
    }

    async fn change_categories(
        &self,
        change: impl FnOnce(&mut super::categories::Categories) -> Result<()>,
    ) -> Result<()> {
        let _changes = self.0.changes.lock().await;
        let mut categories = self.0.categories.read().clone();
        change(&mut categories)?;
        self.write_value(CATEGORIES, &categories.from_clients).await?;
        *self.0.categories.write() = categories;
        self.touch();
        Ok(())
    }

    fn check_storage(&self, name: Option<&str>) -> Result<()> {
        name.map_or(Ok(()), |name| check_storage_name(self.0.engine.config(), name))
    }

    /// Wakes watchers after a change of tags or categories.
    fn touch(&self) {
        self.0.revision.send_modify(|_| {});
    }
}
