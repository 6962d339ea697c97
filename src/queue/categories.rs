//! Categories: those of the config file, and those that clients of an API made. The latter have a name and perhaps a
//! storage, but no folder: only the config file names folders.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    config::{Category, Config, check_category_name},
    error::{Error, Kind, Result},
};

/// A category that a client made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ClientCategory {
    pub(super) storage: Option<String>,
}

/// All categories, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Categories {
    from_config: BTreeMap<String, Category>,
    pub(super) from_clients: BTreeMap<String, ClientCategory>,
}

impl Categories {
    pub(super) fn new(from_config: BTreeMap<String, Category>) -> Self {
        Self { from_config, from_clients: BTreeMap::new() }
    }

    pub(super) fn get(&self, name: &str) -> Option<Category> {
        let client = |client: &ClientCategory| Category {
            storage: client.storage.clone(),
            ..Category::default()
        };
        self.from_config.get(name).cloned().or_else(|| self.from_clients.get(name).map(client))
    }

    pub(super) fn list(&self) -> BTreeMap<String, Category> {
        let names = self.from_config.keys().chain(self.from_clients.keys());
        names.filter_map(|name| Some((name.clone(), self.get(name)?))).collect()
    }

    /// # Errors
    /// `InvalidInput` for a bad name; `AlreadyExists`.
    pub(super) fn create(&mut self, name: &str, category: ClientCategory) -> Result<()> {
        check_category_name(name)?;
        if self.get(name).is_some() {
            let text = format!("category {name:?} exists already");
            return Err(Error::new(Kind::AlreadyExists, text));
        }
        self.from_clients.insert(name.to_owned(), category);
        Ok(())
    }

    /// # Errors
    /// `NotFound`; `PermissionDenied` for a category of the config file.
    pub(super) fn client_category(&mut self, name: &str) -> Result<&mut ClientCategory> {
        if self.from_config.contains_key(name) {
            let text = format!("category {name:?} is defined in the config file");
            return Err(Error::new(Kind::PermissionDenied, text).hint("change it there"));
        }
        self.from_clients.get_mut(name).ok_or_else(|| unknown(name))
    }
}

pub(super) fn unknown(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("no category {name:?}"))
}

/// Checks that `name` is the name of a storage, and no URL.
///
/// # Errors
/// `InvalidInput` for a URL or path; `NotFound` for an unknown name.
pub(super) fn check_storage_name(config: &Config, name: &str) -> Result<()> {
    if config.storage_names().contains(&name) {
        return Ok(());
    }
    if name.contains([':', '/', '\\', '{']) {
        let text = "a storage is chosen by its name, not by a URL or path";
        return Err(Error::new(Kind::InvalidInput, text));
    }
    let names = config.storage_names().join(", ");
    Err(Error::new(Kind::NotFound, format!("unknown storage {name:?}"))
        .hint(format!("storages: {names}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_changes_only_its_own_categories() {
        let config = [("tv".to_owned(), Category::default())].into();
        let mut categories = Categories::new(config);
        categories.create("mine", ClientCategory::default()).unwrap();
        for (name, kind) in [
            ("tv", Kind::AlreadyExists),
            ("mine", Kind::AlreadyExists),
            ("../x", Kind::InvalidInput),
        ] {
            let e = categories.create(name, ClientCategory::default()).unwrap_err();
            assert_eq!(e.kind(), kind, "{name}");
        }
        assert_eq!(categories.client_category("tv").unwrap_err().kind(), Kind::PermissionDenied);
        assert_eq!(categories.client_category("x").unwrap_err().kind(), Kind::NotFound);
        categories.client_category("mine").unwrap().storage = Some("b".into());
        assert_eq!(categories.list()["mine"].storage.as_deref(), Some("b"));
        assert_eq!(categories.list().len(), 2);
    }
}
