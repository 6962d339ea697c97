//! The daemon: one process that holds the data folder, and serves its queue to many clients.
//!
//! The path of a request: the server (`server.rs`) accepts a connection, of TCP or of the unix socket in the data folder, and
//! limits its head, its time and its number. The router (`router.rs`) passes it through the guard (`access/guard.rs`: which
//! hosts, which origins, how long a body), to a dialect: the REST API (`rest/`), or one of the drop-in APIs. The dialect asks
//! [`Access`](access::Access) who the client is, translates the request into a call of [`Queue`](crate::queue::Queue), and
//! the answer or error back. It decides nothing.
//!
//! # A new dialect
//! A dialect is a folder here with a function `router(state: ApiState) -> Router`, and a line in `router.rs` with its
//! switch in `[api]` of the config. Its paths are absolute (`/jsonrpc`); the base path of a proxy is removed before. It finds:
//! - the queue, the engine and the settings in [`ApiState`];
//! - the role of a client with [`Access::role_of`](access::Access::role_of) from `Authorization: Bearer`, Basic, a session
//!   cookie, or the unix socket; it must check it in each handler, since each dialect refuses in its own form. For the
//!   common form there is the layer [`access::require`];
//! - logins with a password in [`Access::login`](access::Access::login), which limits their rate, and sessions in
//!   [`Access::sessions`](access::Access);
//! - errors as `application/problem+json` in [`Problem`](problem::Problem), if that is its form.
//!
//! All dialects are behind the check of the host. The check of the origin is a layer of its own
//! ([`access::guard::check_origin`]), since some dialects authenticate each message and allow any origin.
//!
//! The web page (`page/`) is static files in the program, which are clients of the REST API.
//!
//! Refused: requests for foreign hosts (DNS rebinding), from foreign origins, without a token, with a body that is too long
//! or too slow, and whatever would name a path, a command, or a storage by its URL.

pub mod access;
mod aria2;
pub mod commands;
mod content;
mod folders;
#[cfg(feature = "grpc")]
mod grpc;
mod logs;
mod metrics;
mod openapi;
mod page;
pub mod problem;
mod qbittorrent;
mod rest;
mod router;
mod run;
mod server;
pub mod socket;
mod state;
pub mod systemd;
mod tls;
mod transmission;

#[cfg(feature = "cli")]
pub(crate) use self::rest::DownloadView;
pub use self::{
    logs::{LogLevel, LogLine, LogLines, LogPage},
    router::router,
    run::run,
    server::Server,
    state::ApiState,
};
