//! The stream server: serves files of imports over HTTP, to players and other clients, with range requests.
//!
//! The path of a byte out: the token of a request is checked ([`token`]), its path is resolved to a file ([`routes`]),
//! and its `Range` header to a range of that file ([`range`]). The range is then read in steps while the client
//! receives it ([`body`]). After a client disconnects, the read ends at the next step, and its demand is withdrawn.
//!
//! This layer only translates: [`engine`](crate::engine) decides what can be read, and what is fetched first.
//!
//! Refused: requests without the token (also on loopback, where any web page in a browser could send them), more
//! connections and longer requests than memory is reserved for, and idle clients.

mod body;
mod content_type;
mod file_response;
mod page;
mod range;
mod routes;
mod server;
mod token;

pub use self::{body::Body, file_response::file_response, server::StreamServer, token::Token};
