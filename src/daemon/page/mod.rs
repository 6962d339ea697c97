//! The web page: static files in the program, and nothing else. They show what the REST API says; they hold no data, so
//! they are served without a token. The page logs in at `/api/v1/session`.
//!
//! All links of the page are relative, so that it works below any base path. Its files are plain modules: there is no build
//! step. They load nothing from elsewhere, and the policy in their headers forbids scripts, styles and requests of any other
//! origin, inline scripts and styles, and scripts made of text. The page shows foreign text (names, paths, errors) only as text.

mod assets;
mod foreign;

use axum::{
    Router,
    extract::{OriginalUri, Path},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};

use self::assets::{Asset, find};
use crate::{
    daemon::{problem::Problem, state::ApiState},
    error::{Error, Kind},
};

/// Each directive is in the policy for one of the page's needs: its modules, style sheet, icon, the REST API, and the
/// player.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      media-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// The page, or the interface that the config names in its place: at `/`, and below the base path.
pub(super) fn router(state: &ApiState) -> Router {
    let base = state.options().base_path.as_str();
    let is_foreign = state.options().web_ui.is_some();
    let routes = if is_foreign { foreign::router("") } else { own() };
    let routes = match (base, is_foreign) {
        ("", _) => routes,
        (_, true) => routes.merge(foreign::router(base)).route(base, get(add_slash)),
        (_, false) => routes.merge(own_at(base)).route(base, get(add_slash)),
    };
    routes.with_state(state.clone())
}

/// The page at `/`, and its files below `/page`.
fn own() -> Router<ApiState> {
    Router::new()
        .route("/", get(async |headers: HeaderMap| serve("index.html", &headers)))
        .route("/page/{file}", get(file))
}

/// The page below a base path, which nested routes would not find at `/base/`.
fn own_at(base_path: &str) -> Router<ApiState> {
    Router::new()
        .route(
            &format!("{base_path}/"),
            get(async |headers: HeaderMap| serve("index.html", &headers)),
        )
        .route(&format!("{base_path}/page/{{file}}"), get(file))
}

/// Relative links need the slash. The target is relative too: a proxy may have removed a prefix of the path.
async fn add_slash(OriginalUri(uri): OriginalUri) -> Response {
    let last = uri.path().rsplit('/').next().unwrap_or_default();
    match HeaderValue::from_str(&format!("{last}/")) {
        Ok(target) => {
            (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, target)]).into_response()
        }
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    serve(&name, &headers)
}

fn serve(name: &str, request: &HeaderMap) -> Response {
    let Some(Asset { content_type, bytes, etag, .. }) = find(name) else {
        return Problem::from(Error::new(Kind::NotFound, "no such path")).into_response();
    };
    let known = request.get(header::IF_NONE_MATCH).and_then(|etags| etags.to_str().ok());
    let is_known = known.is_some_and(|known| {
        known.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|tag| tag == etag)
    });
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => (*bytes).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // Asked for again after each start of the page: an update of the program must not mix two versions.
        (header::CACHE_CONTROL, "no-cache"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (
            header::HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, etag);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str) -> &'static str {
        std::str::from_utf8(find(name).unwrap().bytes).unwrap()
    }

    #[test]
    fn each_answer_has_the_policy_and_a_known_version_is_not_sent_again() {
        let response = serve("app.js", &HeaderMap::new());
        assert_eq!(response.status(), StatusCode::OK);
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let etag = response.headers()[header::ETAG].clone();
        let weak = format!("\"x\", W/{}", etag.to_str().unwrap());
        for known in [etag, HeaderValue::from_str(&weak).unwrap()] {
            let request = HeaderMap::from_iter([(header::IF_NONE_MATCH, known)]);
            let again = serve("app.js", &request);
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
            assert!(again.headers().contains_key(header::CONTENT_SECURITY_POLICY));
        }
    }

    #[test]
    fn only_the_files_of_the_page_are_served() {
        for name in [
            "",
            ".",
            "..",
            "../mod.rs",
            "..%2fmod.rs",
            "..\\mod.rs",
            "mod.rs",
            "APP.JS",
            "app.js\0",
        ] {
            assert_eq!(serve(name, &HeaderMap::new()).status(), StatusCode::NOT_FOUND, "{name:?}");
        }
    }

    #[test]
    fn the_files_load_only_each_other_and_run_no_text_as_code() {
        for asset in assets::all() {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            let namespace = "http://www.w3.org/2000/svg";
            let text = text.replace(namespace, "");
            for forbidden in [
                "http:",
                "https:",
                "//cdn",
                "\"data:",
                "javascript:",
                "@import",
                "style=",
                "onclick=",
                "onload=",
            ] {
                assert!(!text.contains(forbidden), "{} contains {forbidden}", asset.name);
            }
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
            ] {
                assert!(!text.contains(forbidden), "{} contains {forbidden}", asset.name);
            }
            for import in text.split("from \"./").skip(1) {
                let target = import.split('"').next().unwrap();
                assert!(find(target).is_some(), "{} imports {target}", asset.name);
            }
        }
        assert!(text("index.html").contains("src=\"page/app.js\""));
    }
}
