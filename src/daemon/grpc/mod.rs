//! The gRPC API, on the port of the REST API: `proto/bae/v1/*.proto`, with reflection and health.
//!
//! The path of a call: a request with the type `application/grpc` is routed by its path like any other, behind the same
//! guards. `access.rs` asks [`Access`](super::access::Access) for its role, and refuses a call that changes something to a
//! token for reading before the message is read. `service.rs` gives the message to a command (`commands.rs`), which calls
//! [`Queue`](crate::queue::Queue). `convert.rs` translates downloads, `status.rs` errors.
//!
//! Progress (`follow.rs`) is read from the queue's changes at the pace of the client: a stream has only a revision, and
//! the changes of one look at the queue, one for each download. So a slow client gets the latest state of each download
//! later, and holds up nothing. A control stream (`control.rs`) reads its next command when it has answered the last one.
//!
//! A command that was begun is done, also when the client's deadline passes or its connection breaks meanwhile.
//!
//! Refused: calls over HTTP/1, compressed messages, long messages, more streams than [`MAX_STREAMS`], and all that other
//! dialects refuse: `Queue` checks what a request names.

mod access;
mod commands;
mod control;
mod convert;
mod ends;
mod follow;
mod health;
mod service;
mod status;

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
};
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder;

use self::{health::Health, pb::download_service_server::DownloadServiceServer, service::Service};
use super::{access::guard, state::ApiState};

pub(super) use self::access::translate_refusals;

/// The messages and services of `proto/bae/v1`.
#[allow(
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "made by the build script"
)]
mod pb {
    tonic::include_proto!("bae.v1");

    pub(super) const DESCRIPTORS: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/bae.v1.descriptors"));
}

/// Longest message with a torrent file: the size of the largest one that REST takes in base64.
const MAX_TORRENT_MESSAGE: usize = 48 << 20;
/// Longest message of all other calls.
const MAX_MESSAGE: usize = 256 << 10;
/// Streams of progress and control at once, of all clients.
const MAX_STREAMS: usize = 256;

/// The routes of all services. Health needs no token, as `/healthz` does not.
pub(super) fn router(state: &ApiState) -> Router {
    let service = Service::new(state.clone());
    let small = DownloadServiceServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE);
    let large = DownloadServiceServer::new(service).max_decoding_message_size(MAX_TORRENT_MESSAGE);
    let health = HealthServer::new(Health::new(state.clone()));
    let no_error = "the build script made the descriptors";
    let closed = Router::new()
        .route_service("/bae.v1.DownloadService/StartDownload", large.clone())
        .route_service("/bae.v1.DownloadService/Control", large)
        .route_service("/bae.v1.DownloadService/{method}", small)
        .route_service(
            "/grpc.reflection.v1.ServerReflection/{method}",
            reflection().build_v1().expect(no_error),
        )
        .route_service(
            "/grpc.reflection.v1alpha.ServerReflection/{method}",
            reflection().build_v1alpha().expect(no_error),
        )
        .layer(from_fn_with_state(state.clone(), access::require));
    Router::new()
        .route_service("/grpc.health.v1.Health/{method}", health)
        .merge(closed)
        .layer(from_fn(access::limit_time))
        .layer(from_fn(access::only_grpc))
        .layer(from_fn_with_state(state.clone(), guard::check_origin))
}

fn reflection() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
