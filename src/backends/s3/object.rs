//! Whole objects: put, head, delete, list.

use aws_lc_rs::digest;
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::{
    config::{ConfigBag, Intercept, interceptors::BeforeSerializationInterceptorContextRef},
    error::BoxError,
    primitives::{ByteStream, SdkBody},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use md5::{Digest as _, Md5};

use super::{
    client::{CALL_TIMEOUT, S3Client},
    errors::{INTERCEPTED_HINT, S3Error, S3Op},
    listing::NextPage,
};
use crate::{
    backends::{
        Key, ObjectInfo, ObjectVersion, Page, PageToken, Payload, endpoint_error::is_html_type,
        idle_timer::IdleTimer, payload::PayloadBody,
    },
    error::{Error, Kind, Result},
};

pub(super) const CONTENT_TYPE: &str = "application/octet-stream";

impl S3Client {
    pub(super) async fn put(&self, key: &Key, payload: &Payload) -> Result<()> {
        let with_md5 = self.sends_checksums();
        match self.put_once(key, payload, with_md5).await {
            Ok(Some(_)) => Ok(()),
            // Every S3 server returns an ETag for a stored object, so check whether it was stored.
            Ok(None) => self.verify_stored(key, payload.len()).await,
            Err(failure) if self.enable_checksums_if_required(with_md5, &failure) => {
                tracing::debug!("{} requires checksums of uploads", self.address);
                Box::pin(self.put(key, payload)).await
            }
            Err(failure) if failure.outcome_is_unknown() => {
                self.resolve_put(key, payload.len(), failure).await
            }
            Err(failure) if failure.is_web_page() => match self.head(key).await {
                Ok(Some(len)) if len == payload.len() => Ok(()),
                _ => Err(failure.into()),
            },
            Err(failure) => Err(failure.into()),
        }
    }

    /// Returns the ETag of the object, when the answer has one.
    async fn put_once(
        &self,
        key: &Key,
        payload: &Payload,
        with_md5: bool,
    ) -> Result<Option<String>, Box<S3Error>> {
        let idle_timer = IdleTimer::new();
        let hashes = PayloadHashes::of(payload, with_md5).await;
        let request = self
            .sdk
            .put_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .content_type(CONTENT_TYPE)
            .content_length(to_sdk_len(payload.len()))
            .set_content_md5(hashes.md5)
            .body(body(payload, &idle_timer))
            .customize()
            .interceptor(SignPayloadHash(hashes.sha256))
            .send();
        let sent = self.call_sending(S3Op::Put, key.as_str(), &idle_timer, request).await?;
        Ok(sent.e_tag.filter(|tag| !tag.is_empty()))
    }

    /// Checks for an object whose put was answered in a way no S3 server answers.
    async fn verify_stored(&self, key: &Key, len: u64) -> Result<()> {
        match self.head(key).await? {
            Some(found) if found == len => Ok(()),
            found => {
                let text = format!("put object {key} in {}", self.address);
                let stored = found.unwrap_or(0);
                let why = format!("answered with success, but {stored} of {len} bytes are stored");
                Err(Error::new(Kind::InvalidInput, text).because(why).hint(INTERCEPTED_HINT))
            }
        }
    }

    /// Finds out what became of a put without an answer. A key is written once, so an object of this length is ours.
    async fn resolve_put(&self, key: &Key, len: u64, failure: Box<S3Error>) -> Result<()> {
        if matches!(self.head(key).await, Ok(Some(found)) if found == len) {
            return Ok(());
        }
        // A server that refuses an upload in progress often just closes the connection. A small request gets its
        // reason.
        let request = self.sdk.list_objects_v2().bucket(&self.bucket);
        let request = request.prefix(&self.prefix).max_keys(1).send();
        let probe = self.call(S3Op::Put, key.as_str(), CALL_TIMEOUT, request).await;
        match probe.map_err(Error::from) {
            // Credentials may allow puts and not listings, so this refusal does not explain the failed put.
            Err(e) if !e.kind().is_retryable() && e.kind() != Kind::PermissionDenied => Err(e),
            _ => Err(failure.into()),
        }
    }

    pub(super) async fn head(&self, key: &Key) -> Result<Option<u64>, Box<S3Error>> {
        Ok(self.version(key).await?.map(|version| version.len))
    }

    pub(super) async fn version(&self, key: &Key) -> Result<Option<ObjectVersion>, Box<S3Error>> {
        let request = self.sdk.head_object().bucket(&self.bucket).key(self.name(key)).send();
        match self.call(S3Op::Head, key.as_str(), CALL_TIMEOUT, request).await {
            Ok(found) => {
                let len = from_sdk_len(found.content_length());
                let tag = found.e_tag.filter(|tag| !tag.is_empty());
                // An object has an ETag even when it is an HTML file; a web page from another server has none.
                if tag.is_none() && is_html_type(found.content_type.as_deref()) {
                    return Err(S3Error::web_page(S3Op::Head, key.as_str(), &self.address));
                }
                Ok(Some(ObjectVersion { len, tag }))
            }
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    pub(super) async fn delete(&self, key: &Key) -> Result<()> {
        let request = self.sdk.delete_object().bucket(&self.bucket).key(self.name(key)).send();
        match self.call(S3Op::Delete, key.as_str(), CALL_TIMEOUT, request).await {
            Err(failure) if !failure.is_missing() => Err(failure.into()),
            _ => Ok(()),
        }
    }

    pub(super) async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        let prefix = format!("{}{prefix}", self.prefix);
        let page = page.and_then(|token| NextPage::parse(&token.0));
        let found = self.list_page(&prefix, page.as_ref()).await?;
        let info = |object: &aws_sdk_s3::types::Object| {
            let key = self.key(object.key()?)?;
            Some(ObjectInfo { key, len: from_sdk_len(object.size()) })
        };
        let objects = found.objects.iter().filter_map(info).collect();
        Ok(Page { objects, next: found.next.map(|next| PageToken(next.encode())) })
    }
}

/// The SDK takes lengths as `i64`. A length that does not fit is clamped, and the server refuses it.
pub(super) fn to_sdk_len(len: u64) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

pub(super) fn from_sdk_len(len: Option<i64>) -> u64 {
    len.and_then(|len| u64::try_from(len).ok()).unwrap_or_default()
}

/// The payload as a request body; its buffers are neither joined nor copied.
pub(super) fn body(payload: &Payload, idle_timer: &IdleTimer) -> ByteStream {
    let body = PayloadBody::new(payload.clone(), idle_timer.clone());
    ByteStream::new(SdkBody::from_body_1_x(body))
}

/// Hashes over all buffers of a payload.
pub(super) struct PayloadHashes {
    /// Hexadecimal; the request is signed with it.
    pub(super) sha256: String,
    /// Base64, for servers that require it.
    pub(super) md5: Option<String>,
}

impl PayloadHashes {
    /// Hashes on a blocking thread when the payload is large enough to take milliseconds.
    pub(super) async fn of(payload: &Payload, with_md5: bool) -> Self {
        const INLINE_LIMIT: u64 = 256 << 10;
        let hash_inline = || Self::compute(payload, with_md5);
        if payload.len() <= INLINE_LIMIT {
            return hash_inline();
        }
        let owned = payload.clone();
        let hashes = tokio::task::spawn_blocking(move || Self::compute(&owned, with_md5)).await;
        // A runtime that shuts down has no blocking threads any more.
        hashes.unwrap_or_else(|_| hash_inline())
    }

    fn compute(payload: &Payload, with_md5: bool) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        payload.buffers().iter().for_each(|buffer| context.update(buffer));
        let sha256 = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let md5 = with_md5.then(|| {
            let mut md5 = Md5::new();
            payload.buffers().iter().for_each(|buffer| md5.update(buffer));
            BASE64.encode(md5.finalize())
        });
        Self { sha256, md5 }
    }
}

/// Signs a request with the hash of its payload. By default the SDK leaves streamed bodies unsigned, over plain HTTP
/// too, and servers would store damaged bytes.
#[derive(Debug)]
pub(super) struct SignPayloadHash(pub(super) String);

impl Intercept for SignPayloadHash {
    fn name(&self) -> &'static str {
        "SignPayloadHash"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let hash = PayloadSigningOverride::Precomputed(self.0.clone());
        config.interceptor_state().store_put(hash);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn hashes_cover_all_buffers() {
        let abc: Payload =
            ["a", "", "bc"].map(|part| Bytes::from_static(part.as_bytes())).into_iter().collect();
        let wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hashes = PayloadHashes::of(&abc, true).await;
        assert_eq!(
            (hashes.sha256.as_str(), hashes.md5.as_deref()),
            (wanted, Some("kAFQmDzST7DWlj99KOF/cg=="))
        );
        assert_eq!(PayloadHashes::of(&abc, false).await.md5, None);
    }
}
