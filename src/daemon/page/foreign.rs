//! A foreign interface: an unpacked folder that the config file names, served in place of the page.
//!
//! Its files are the owner's choice, but they come from elsewhere: they may load only files of this folder and talk only to
//! this daemon. A path cannot leave the folder, by `..` or by a link.

use std::path::{Component, Path as FilePath, PathBuf};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
    routing::get,
};

use crate::{
    daemon::{problem::Problem, state::ApiState},
    error::{Error, Kind, Result},
};

/// Largest file: the bundles of known interfaces have a few megabytes.
const MAX_FILE: u64 = 32 << 20;
/// Foreign interfaces have styles in their elements. Scripts must be files.
const POLICY: &str = "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; \
                      style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; frame-ancestors 'none'";

const TYPES: &[(&str, &str)] = &[
    ("css", "text/css; charset=utf-8"),
    ("gif", "image/gif"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("webmanifest", "application/manifest+json"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
];

/// The files of the folder below a base path: any path that no API has.
pub(super) fn router(base_path: &str) -> Router<ApiState> {
    Router::new()
        .route(&format!("{base_path}/"), get(index))
        .route(&format!("{base_path}/{{*path}}"), get(file))
}

async fn index(State(state): State<ApiState>) -> Response {
    serve(&state, "index.html").await
}

async fn file(State(state): State<ApiState>, Path(path): Path<String>) -> Response {
    serve(&state, &path).await
}

async fn serve(state: &ApiState, path: &str) -> Response {
    let Some(root) = state.options().web_ui.clone() else { return not_found().into_response() };
    let path = if path.ends_with('/') { format!("{path}index.html") } else { path.to_owned() };
    let read = tokio::task::spawn_blocking(move || read(&root, &path)).await;
    let (bytes, content_type) = match read {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Problem::from(error).into_response(),
        Err(_) => return not_found().into_response(),
    };
    let mut response = bytes.into_response();
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn not_found() -> Problem {
    missing().into()
}

fn missing() -> Error {
    Error::new(Kind::NotFound, "no such path")
}

/// A file below `root`, and its type.
fn read(root: &FilePath, path: &str) -> Result<(Vec<u8>, &'static str)> {
    let relative = FilePath::new(path);
    let is_plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if !is_plain || path.contains(['\0', '\\']) {
        return Err(missing());
    }
    let found = |path: PathBuf| path.canonicalize().map_err(|_| missing());
    let (root, file) = (found(root.to_owned())?, found(root.join(relative))?);
    let len = file.metadata().ok().filter(|data| data.is_file()).map(|data| data.len());
    if !file.starts_with(&root) || len.is_none_or(|len| len > MAX_FILE) {
        return Err(missing());
    }
    let bytes = std::fs::read(&file).map_err(|_| missing())?;
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let known = TYPES.iter().find(|(known, _)| extension.eq_ignore_ascii_case(known));
    Ok((bytes, known.map_or("application/octet-stream", |(_, content_type)| content_type)))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn only_files_in_the_folder_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("ui");
        fs::create_dir_all(root.join("js")).unwrap();
        fs::write(root.join("js/a.js"), "1").unwrap();
        fs::write(dir.path().join("secret"), "2").unwrap();
        symlink(dir.path().join("secret"), root.join("link")).unwrap();
        symlink(dir.path(), root.join("out")).unwrap();
        let (bytes, content_type) = read(&root, "js/a.js").unwrap();
        assert_eq!((bytes.as_slice(), content_type), (&b"1"[..], "text/javascript; charset=utf-8"));
        let bad = [
            "../secret",
            "js/../../secret",
            "link",
            "out/secret",
            "/etc/passwd",
            "js",
            "",
            "a\0",
            "..\\secret",
        ];
        for path in bad {
            assert_eq!(read(&root, path).unwrap_err().kind(), Kind::NotFound, "{path:?}");
        }
        assert!(read(&root.join("none"), "js/a.js").is_err());
    }
}
