//! Cross-origin requests (CORS) of the pages in `origins` of the config. Other origins get no header, and their browser
//! refuses the answer. Cookies are never allowed: such a page sends a token.

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
            ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
        },
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use crate::daemon::state::ApiState;

/// Answers to a preflight request.
const PREFLIGHT: [(HeaderName, &str); 3] = [
    (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, PATCH, DELETE"),
    (
        ACCESS_CONTROL_ALLOW_HEADERS,
        "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Range",
    ),
    (ACCESS_CONTROL_MAX_AGE, "600"),
];
const EXPOSED: &str = "Content-Range, ETag, Location, Retry-After";

/// Layer: answers preflight requests of configured origins, and marks the answers to their requests.
pub async fn allow_origins(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Response {
    let Some(origin) = configured_origin(request.headers(), &state.options().origins) else {
        return next.run(request).await;
    };
    let is_preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match is_preflight {
        true => (StatusCode::NO_CONTENT, PREFLIGHT).into_response(),
        false => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    headers.append(VARY, HeaderValue::from_static("Origin"));
    response
}

/// The origin of a request, if the config allows it.
fn configured_origin(headers: &HeaderMap, origins: &[String]) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    origins.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_origins_of_the_config_are_allowed() {
        let origins = ["https://ui.example".to_owned()];
        let allowed = |origin: &'static str| {
            let headers = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))]);
            configured_origin(&headers, &origins).is_some()
        };
        assert!(allowed("https://ui.example"));
        for other in ["https://ui.example.evil", "http://ui.example", "null", "*", ""] {
            assert!(!allowed(other), "{other}");
        }
    }
}
