//! An operation: the handler of a method, and its description.

use axum::{
    extract::DefaultBodyLimit,
    handler::Handler,
    routing::{self, MethodRouter},
};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::daemon::state::ApiState;

/// Makes the schema of a type.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The handler of a method, and its description.
pub(in crate::daemon) struct Operation {
    pub(super) handler: MethodRouter<ApiState>,
    pub(super) description: Description,
}

/// What an operation takes and gives.
#[derive(Debug, Clone)]
pub(in crate::daemon) struct Description {
    pub(super) method: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: Option<SchemaOf>,
    pub(super) header: Option<(&'static str, &'static str)>,
    pub(super) body: Option<SchemaOf>,
    pub(super) answers: Vec<Answer>,
    /// Whether it needs no token.
    pub(super) is_open: bool,
}

/// An answer that is no error.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content: Content,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    Empty,
    Json(SchemaOf),
    /// Another media type.
    Other(&'static str),
}

macro_rules! methods {
    ($($method:ident)*) => {$(
        /// The operation of a method. The summary is a sentence without a full stop.
        pub(in crate::daemon) fn $method<T: 'static>(
            handler: impl Handler<T, ApiState>,
            summary: &'static str,
        ) -> Operation {
            Operation::new(stringify!($method), routing::$method(handler), summary)
        }
    )*};
}

methods!(get post put patch delete);

impl Operation {
    fn new(method: &'static str, handler: MethodRouter<ApiState>, summary: &'static str) -> Self {
        let description = Description {
            method,
            summary,
            query: None,
            header: None,
            body: None,
            answers: Vec::new(),
            is_open: false,
        };
        Self { handler, description }
    }

    /// It takes the fields of `T` as parameters of the query.
    pub(in crate::daemon) fn query<T: JsonSchema>(mut self) -> Self {
        self.description.query = Some(schema_of::<T>);
        self
    }

    /// It takes a header.
    pub(in crate::daemon) fn header(mut self, name: &'static str, text: &'static str) -> Self {
        self.description.header = Some((name, text));
        self
    }

    /// It takes `T` as JSON.
    pub(in crate::daemon) fn body<T: JsonSchema>(mut self) -> Self {
        self.description.body = Some(schema_of::<T>);
        self
    }

    /// It takes bodies of at most `bytes`.
    pub(in crate::daemon) fn max_body(mut self, bytes: usize) -> Self {
        self.handler = self.handler.layer(DefaultBodyLimit::max(bytes));
        self
    }

    /// It answers with `T` as JSON.
    pub(in crate::daemon) fn gives<T: JsonSchema>(self, status: u16) -> Self {
        self.answers(status, Content::Json(schema_of::<T>))
    }

    /// It answers with a body of another media type.
    pub(in crate::daemon) fn gives_type(self, status: u16, media_type: &'static str) -> Self {
        self.answers(status, Content::Other(media_type))
    }

    /// It answers without a body.
    pub(in crate::daemon) fn gives_nothing(self, status: u16) -> Self {
        self.answers(status, Content::Empty)
    }

    fn answers(mut self, status: u16, content: Content) -> Self {
        self.description.answers.push(Answer { status, content });
        self
    }
}
