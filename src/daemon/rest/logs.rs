//! `/logs`: the last lines of the daemon's log, for clients with all rights.

use axum::{
    Extension, Json,
    extract::{Query, State},
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    daemon::{
        access::Role,
        logs::{LogLevel, LogPage},
        openapi::{Routes, get},
        problem::Problem,
        state::ApiState,
    },
    error::{Error, Kind},
};

/// Lines on a page, unless the request says otherwise; and the most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

pub(super) fn routes() -> Routes {
    let logs = get(logs, "The last lines of the daemon's log");
    Routes::default().at("/logs", [logs.query::<LogsQuery>().gives::<LogPage>(200)])
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct LogsQuery {
    /// Number of the first line. Without it, the last lines are given.
    from: Option<u64>,
    limit: Option<usize>,
    /// This level and more severe ones.
    level: Option<LogLevel>,
}

async fn logs(
    State(state): State<ApiState>,
    Extension(role): Extension<Role>,
    Query(LogsQuery { from, limit, level }): Query<LogsQuery>,
) -> Result<Json<LogPage>, Problem> {
    if role < Role::Admin {
        let error = Error::new(Kind::PermissionDenied, "the token may not read the log");
        return Err(error.into());
    }
    let limit = limit.unwrap_or(PAGE).min(MAX_PAGE);
    Ok(Json(state.logs().page(from, limit, level.unwrap_or(LogLevel::Trace))))
}
