//! Playback over HTTP, of a stored import and of one that is still being fetched.
//!
//! `server` checks ranges, conditions and the token with curl. `during_import` checks that a player's range is
//! fetched before the rest. `real_player` opens, seeks and decodes a film with FFmpeg's libraries.

mod during_import;
mod real_player;
mod server;
