//! What programs reach over the network: files of imports, by HTTP, to players and to whatever else reads ranges.
//!
//! The path of a byte out: a request is checked for its token ([`token`]), its path is a file ([`routes`]), its range
//! is one of the file's ([`range`]), and what is asked for is read step by step while the client takes it ([`body`]).
//! A client that hangs up is noticed at the next step, and what was asked for on its account is taken back.
//!
//! It translates and decides nothing: what can be read, and what is fetched first, is [`app`](crate::app)'s.
//!
//! What it refuses: anybody without the token (also on loopback, where every page a browser shows could ask), more
//! connections and longer requests than it has memory for, and waiting for clients that do nothing.

mod body;
mod content;
mod page;
mod range;
mod routes;
mod server;
mod token;

pub use self::{server::StreamServer, token::Token};
