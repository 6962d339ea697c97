//! Sources of blocks and records: trustless gateways, the RPC interface of a Kubo node, and the gateways that routers
//! name. None of them is trusted.
//!
//! A block is requested from the gateway that is likely to answer first ([`health`]). If it does not have the block,
//! fails, or is late, the next one is asked as well ([`gateway_set`]). The answer counts only if it has the hash of the
//! block. A gateway that sends anything else is not used again in this run. [`blocks`] keeps the blocks that are needed
//! often, and lets requests for the same block share one answer.
//!
//! Answers are raw blocks, or CARs of a range of a file: one request for many blocks ([`car_feed`]). Files as a gateway
//! assembles them are never used, because nothing proves them.

mod answer;
pub(super) mod blocks;
pub(super) mod car_feed;
pub(super) mod gateway;
pub(super) mod gateway_set;
mod health;
mod provider;
pub(super) mod router;
