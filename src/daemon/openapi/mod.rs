//! The description of the REST API as an OpenAPI 3.1 document, made from the code that serves it.
//!
//! A route of the REST API is an [`Operation`]: a handler together with what it takes and gives. [`Routes`] makes the
//! router and the document from the same operations, so that neither has a path that the other lacks. The schemas come
//! from the types that handlers read and write, by their serde attributes.

mod document;
mod operation;

use axum::{Router, routing::MethodRouter};

use self::operation::Description;
pub(in crate::daemon) use self::{
    document::document,
    operation::{Operation, delete, get, patch, post, put},
};
use super::state::ApiState;

/// Routes with their descriptions.
#[derive(Default)]
pub(in crate::daemon) struct Routes {
    router: Router<ApiState>,
    /// In the order of the document.
    described: Vec<(String, Description)>,
}

impl Routes {
    /// Adds a path with its operations.
    pub(in crate::daemon) fn at(
        mut self,
        path: &str,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Self {
        let mut methods = MethodRouter::new();
        for Operation { handler, description } in operations {
            methods = methods.merge(handler);
            self.described.push((path.to_owned(), description));
        }
        self.router = self.router.route(path, methods);
        self
    }

    /// Adds the routes of `other`.
    pub(in crate::daemon) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.described.extend(other.described);
        self
    }

    /// Adds the routes of `other` below `prefix`.
    pub(in crate::daemon) fn nest(mut self, prefix: &str, other: Self) -> Self {
        self.router = self.router.nest(prefix, other.router);
        let nested = other.described.into_iter();
        self.described
            .extend(nested.map(|(path, described)| (format!("{prefix}{path}"), described)));
        self
    }

    /// Changes the router, for layers around all routes so far.
    pub(in crate::daemon) fn layered(
        mut self,
        layer: impl FnOnce(Router<ApiState>) -> Router<ApiState>,
    ) -> Self {
        self.router = layer(self.router);
        self
    }

    /// The routes are answered without a token.
    pub(in crate::daemon) fn open(mut self) -> Self {
        self.described.iter_mut().for_each(|(_, description)| description.is_open = true);
        self
    }

    pub(in crate::daemon) fn into_router(self) -> Router<ApiState> {
        self.router
    }

    /// Each path with its methods.
    pub(in crate::daemon) fn described(&self) -> &[(String, Description)] {
        &self.described
    }
}
