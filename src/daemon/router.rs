//! Where each dialect is mounted, and the layers around all of them.

use std::time::Duration;

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse as _, Response},
};
use tracing::Instrument as _;

use super::{
    access::{cors, guard},
    aria2, metrics,
    openapi::{Routes, get},
    page,
    problem::Problem,
    qbittorrent, rest,
    state::ApiState,
    transmission,
};
use crate::error::{Error, Kind};

/// Longest body of a request, unless a route has its own limit.
const MAX_BODY: usize = 1 << 20;
/// Time for a request up to the head of its answer, the body of the request included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The whole API. A new dialect adds a line here, behind its switch.
pub fn router(state: &ApiState) -> Router {
    let mut routes = health_routes()
        .into_router()
        .with_state(state.clone())
        .merge(rest::router(state))
        .merge(metrics::router(state));
    // Drop-in APIs, each switched on in `[api]`.
    let dialects = state.options().dialects;
    if dialects.qbittorrent {
        routes = routes.merge(qbittorrent::router(state));
    }
    if dialects.aria2 {
        routes = routes.merge(aria2::router(state));
    }
    if dialects.transmission {
        routes = routes.merge(transmission::router(state));
    }
    #[cfg(feature = "grpc")]
    let routes = routes.merge(super::grpc::router(state));
    let base_path = state.options().base_path.as_str();
    let routes = match base_path {
        "" => routes,
        base => Router::new().nest(base, routes.clone()).merge(routes),
    };
    let routes = routes.layer(from_fn(trace));
    // The page is not nested: it is at `/base/`, where nested routes have only `/base`.
    let routes = routes
        .merge(page::router(state))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(limit_time))
        .layer(from_fn(secure_headers))
        .layer(from_fn_with_state(state.clone(), cors::allow_origins))
        .layer(from_fn_with_state(state.clone(), guard::check_host));
    #[cfg(feature = "grpc")]
    let routes = routes.layer(from_fn(super::grpc::translate_refusals));
    routes
}

/// The routes for service managers and load balancers.
pub(super) fn health_routes() -> Routes {
    let alive = get(async || "ok\n", "Whether the process lives");
    let ready = get(ready, "Whether all listeners accept connections and the catalog answers");
    Routes::default()
        .at("/healthz", [alive.gives_type(200, "text/plain")])
        .at("/readyz", [ready.gives_type(200, "text/plain").gives_type(503, "text/plain")])
        .open()
}

/// 200 when all listeners accept connections and the catalog answers.
async fn ready(State(state): State<ApiState>) -> Response {
    match state.answers().await {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response(),
    }
}

async fn not_found() -> Problem {
    Error::new(Kind::NotFound, "no such path").into()
}

async fn method_not_allowed() -> Problem {
    let error = Error::new(Kind::InvalidInput, "the path has no such method");
    Problem::with_status(StatusCode::METHOD_NOT_ALLOWED, error)
}

/// Limits the time until the answer. The handler runs to its end even if the time is over or the client is gone: what it
/// committed in the catalog must also reach the store in memory.
async fn limit_time(request: Request, next: Next) -> Response {
    let handler = tokio::spawn(next.run(request));
    match tokio::time::timeout(REQUEST_TIMEOUT, handler).await {
        Ok(Ok(response)) => response,
        Ok(Err(e)) => Problem::from(Error::new(Kind::Internal, "the request panicked").because(e))
            .into_response(),
        Err(_) => {
            let error = Error::new(Kind::Network, "the request took too long");
            Problem::with_status(StatusCode::REQUEST_TIMEOUT, error).into_response()
        }
    }
}

/// The span of a request, for log lines and traces. Paths are those of the routes: real ones may name files.
async fn trace(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        route = route.map(MatchedPath::as_str),
        status = tracing::field::Empty,
    );
    let response = next.run(request).instrument(span.clone()).await;
    span.record("status", response.status().as_u16());
    response
}

/// Headers of every answer that has no others.
async fn secure_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body;
    use tokio::sync::Notify;
    use tower_service::Service as _;

    use super::*;

    #[tokio::test]
    async fn a_handler_runs_to_its_end_when_its_client_is_gone() {
        let (started, may_end, ended) = <(Arc<Notify>, Arc<Notify>, Arc<Notify>)>::default();
        let signals = (Arc::clone(&started), Arc::clone(&may_end), Arc::clone(&ended));
        let handler = move || {
            let (started, may_end, ended) = signals.clone();
            async move {
                started.notify_one();
                may_end.notified().await;
                ended.notify_one();
            }
        };
        let mut router: Router =
            Router::new().route("/", axum::routing::get(handler)).layer(from_fn(limit_time));
        let answer = router.call(Request::new(Body::empty()));
        tokio::select! {
            _ = answer => panic!("the handler has not ended"),
            () = started.notified() => {}
        }
        may_end.notify_one();
        ended.notified().await;
    }
}
