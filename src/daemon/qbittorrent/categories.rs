//! Categories and tags.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    Dialect,
    answer::{Answer, Refusal, done, json as json_answer},
    params::Params,
};
use crate::{
    config::check_category_name,
    error::{Error, Kind},
};

impl Dialect {
    /// Categories by name, with their paths.
    pub(super) fn shown_categories(&self) -> BTreeMap<String, Value> {
        let names = self.queue().categories().into_keys();
        let shown = names.map(|name| {
            let folder = self.category_folder(&name);
            let value = json!({ "name": name, "savePath": folder });
            (name, value)
        });
        shown.collect()
    }

    pub(super) fn categories(&self) -> Answer {
        Ok(json_answer(&self.shown_categories()))
    }

    pub(super) async fn create_category(&self, params: &Params) -> Answer {
        let name = category_name(params)?;
        let storage = self.storage_of_path(params.given("savePath"))?;
        self.queue().create_category(name, storage).await.map_err(conflict)?;
        Ok(done())
    }

    /// A category of the config file stays as it is there.
    pub(super) async fn edit_category(&self, params: &Params) -> Answer {
        let name = category_name(params)?;
        let storage = self.storage_of_path(params.given("savePath"))?;
        if params.given("savePath") == Some(self.category_folder(name).as_str()) {
            return Ok(done());
        }
        self.queue().set_category_storage(name, storage).await.map_err(conflict)?;
        Ok(done())
    }

    /// Those of the config file stay; unknown ones are left out.
    pub(super) async fn remove_categories(&self, params: &Params) -> Answer {
        params.required("categories")?;
        for name in params.list("categories", '\n') {
            match self.queue().delete_category(&name).await {
                Err(e) if e.kind() != Kind::NotFound => return Err(conflict(e)),
                _ => {}
            }
        }
        Ok(done())
    }

    pub(super) fn tags(&self) -> Answer {
        Ok(json_answer(&self.queue().tags()))
    }

    pub(super) async fn create_tags(&self, params: &Params) -> Answer {
        params.required("tags")?;
        self.queue().create_tags(&params.list("tags", ',')).await?;
        Ok(done())
    }

    pub(super) async fn delete_tags(&self, params: &Params) -> Answer {
        params.required("tags")?;
        self.queue().delete_tags(&params.list("tags", ',')).await?;
        Ok(done())
    }
}

fn category_name(params: &Params) -> Result<&str, Refusal> {
    let name = params.required("category")?.trim();
    if name.is_empty() {
        return Err(Refusal::bad("the name of the category is empty"));
    }
    check_category_name(name).map_err(conflict)?;
    Ok(name)
}

/// Clients know one status for all that is wrong with a category.
fn conflict(error: Error) -> Refusal {
    let refusal = Refusal::from(error);
    match refusal.status.is_client_error() {
        true => Refusal::conflict(refusal.text),
        false => refusal,
    }
}
