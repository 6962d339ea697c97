//! Parameters of a request, from its query and its form. All are bounded.

use std::collections::HashMap;

use axum::{
    extract::{FromRequest as _, Multipart, Request},
    http::{StatusCode, header::CONTENT_TYPE},
};
use url::form_urlencoded;

use super::answer::Refusal;

/// Longest multipart form: torrents of the largest size.
pub(super) const MAX_ADD: usize = 64 << 20;
/// Longest form, and longest text in a multipart form.
const MAX_FORM: usize = 1 << 20;
/// Most parameters, and most files.
const MAX_PARAMS: usize = 256;

/// The parameters.
#[derive(Debug, Default)]
pub(super) struct Params {
    texts: HashMap<String, String>,
    /// The parts with a file name, whatever their names are.
    pub(super) files: Vec<Vec<u8>>,
}

impl Params {
    /// Reads the query and the body. A parameter of the body comes before one of the query.
    pub(super) async fn read(request: Request) -> Result<Self, Refusal> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let is_multipart = kind.is_some_and(|kind| {
            kind.get(..19).is_some_and(|start| start.eq_ignore_ascii_case("multipart/form-data"))
        });
        let mut params = match is_multipart {
            true => Self::read_multipart(request).await?,
            false => {
                let body = axum::body::to_bytes(request.into_body(), MAX_FORM);
                let body = body.await.map_err(|_| too_long())?;
                Self::of_form(&body)?
            }
        };
        params.add_pairs(query.as_bytes())?;
        Ok(params)
    }

    /// A form. `json={…}` that is not encoded is taken as it is: flood sends it so.
    fn of_form(body: &[u8]) -> Result<Self, Refusal> {
        let mut params = Self::default();
        if body.starts_with(b"json={") {
            params.insert("json", String::from_utf8_lossy(&body[5..]).into_owned())?;
        } else {
            params.add_pairs(body)?;
        }
        Ok(params)
    }

    fn add_pairs(&mut self, text: &[u8]) -> Result<(), Refusal> {
        for (name, value) in form_urlencoded::parse(text) {
            self.insert(&name, value.into_owned())?;
        }
        Ok(())
    }

    /// The first value of a name counts.
    fn insert(&mut self, name: &str, value: String) -> Result<(), Refusal> {
        if self.texts.len() >= MAX_PARAMS {
            return Err(Refusal::bad(format!("more than {MAX_PARAMS} parameters")));
        }
        self.texts.entry(name.to_owned()).or_insert(value);
        Ok(())
    }

    async fn read_multipart(request: Request) -> Result<Self, Refusal> {
        let malformed = |_| Refusal::bad("the multipart form is malformed");
        let mut form = Multipart::from_request(request, &()).await.map_err(malformed)?;
        let mut params = Self::default();
        let broken = |e: axum::extract::multipart::MultipartError| match e.status() {
            StatusCode::PAYLOAD_TOO_LARGE => too_long(),
            _ => Refusal::bad("the multipart form is malformed"),
        };
        while let Some(mut part) = form.next_field().await.map_err(broken)? {
            let name = part.name().unwrap_or_default().to_owned();
            let is_file = part.file_name().is_some();
            let limit = if is_file { MAX_ADD } else { MAX_FORM };
            let mut bytes = Vec::new();
            while let Some(chunk) = part.chunk().await.map_err(broken)? {
                if bytes.len() + chunk.len() > limit {
                    return Err(too_long());
                }
                bytes.extend_from_slice(&chunk);
            }
            if !is_file {
                params.insert(&name, String::from_utf8_lossy(&bytes).into_owned())?;
            } else if params.files.len() >= MAX_PARAMS {
                return Err(Refusal::bad(format!("more than {MAX_PARAMS} files")));
            } else {
                params.files.push(bytes);
            }
        }
        Ok(params)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// A value that is not empty.
    pub(super) fn given(&self, name: &str) -> Option<&str> {
        self.get(name).map(str::trim).filter(|value| !value.is_empty())
    }

    pub(super) fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| Refusal::bad(format!("the parameter {name} is missing")))
    }

    /// `true` and `false` in any case, and `1` and `0`.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        match self.given(name)?.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    /// A whole number; `None` without one.
    pub(super) fn int(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let Some(text) = self.given(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Refusal::bad(format!("the parameter {name} is not a number"))),
        }
    }

    /// A finite number; `None` without one.
    pub(super) fn float(&self, name: &str) -> Result<Option<f64>, Refusal> {
        let Some(text) = self.given(name) else { return Ok(None) };
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(Refusal::bad(format!("the parameter {name} is not a number"))),
        }
    }

    /// The parts of a list, without empty ones.
    pub(super) fn list(&self, name: &str, separator: char) -> Vec<String> {
        let parts = self.get(name).unwrap_or_default().split(separator).map(str::trim);
        parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    #[cfg(test)]
    pub(super) fn of(query: &str) -> Self {
        Self::of_form(query.as_bytes()).expect("a short form")
    }
}

fn too_long() -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    async fn multipart(body: &str) -> Result<Params, Refusal> {
        let request = Request::builder()
            .uri("/x?category=query&filter=all")
            .header(CONTENT_TYPE, "Multipart/form-data; boundary=B")
            .body(Body::from(body.replace('\n', "\r\n")))
            .unwrap();
        Params::read(request).await
    }

    #[test]
    fn values_are_read_in_the_forms_that_clients_send() {
        let params = Params::of("paused=True&stopped=false&n=-5&ratio=1.5&tags=a,%20b,,&x=1%0A2");
        assert_eq!((params.flag("paused"), params.flag("stopped")), (Some(true), Some(false)));
        assert_eq!((params.int("n").unwrap(), params.int("none").unwrap()), (Some(-5), None));
        assert_eq!(params.list("tags", ','), ["a", "b"]);
        assert_eq!(params.list("x", '\n'), ["1", "2"]);
        for bad in ["NaN", "inf", "1e999", "x"] {
            assert!(Params::of(&format!("ratio={bad}")).float("ratio").is_err(), "{bad}");
        }
        assert!(params.required("none").is_err());
    }

    #[test]
    fn json_may_come_without_encoding() {
        assert_eq!(Params::of("json={\"a\":\"%+&b\"}").get("json"), Some("{\"a\":\"%+&b\"}"));
        assert_eq!(Params::of("json=%7B%7D").get("json"), Some("{}"));
    }

    #[test]
    fn the_number_of_parameters_is_bounded() {
        let many: String = (0..1000).map(|n| format!("p{n}=1&")).collect();
        assert!(Params::of_form(many.as_bytes()).is_err());
    }

    #[tokio::test]
    async fn a_multipart_form_has_texts_and_files() {
        let body = "--B\nContent-Disposition: form-data; name=\"category\"\n\ntv\n\
                    --B\nContent-Disposition: form-data; name=\"torrent__0\"; filename=\"a\"\n\nbytes\n\
                    --B--\n";
        let params = multipart(body).await.unwrap();
        assert_eq!((params.get("category"), params.get("filter")), (Some("tv"), Some("all")));
        assert_eq!(params.files, [b"bytes".to_vec()]);
        assert!(
            multipart("--B\nContent-Disposition: form-data; name=\"a\"\n\nno end").await.is_err()
        );
    }

    #[tokio::test]
    async fn a_text_that_is_too_long_is_refused() {
        let long = "x".repeat(MAX_FORM + 1);
        let request = Request::new(Body::from(format!("a={long}")));
        assert_eq!(Params::read(request).await.unwrap_err().status.as_u16(), 413);
        let body = format!("--B\nContent-Disposition: form-data; name=\"a\"\n\n{long}\n--B--\n");
        assert_eq!(multipart(&body).await.unwrap_err().status.as_u16(), 413);
    }
}
