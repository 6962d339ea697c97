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
    client::{PATIENCE, Wire},
    errors::{Failure, NOT_STORED, Op},
    listing::NextPage,
};
use crate::{
    backends::{
        Key, ObjectInfo, Page, PageToken, Payload, Stamp, payload::PayloadBody, progress::Progress,
        unfit::is_page,
    },
    error::{Error, Kind, Result},
};

pub(super) const CONTENT_TYPE: &str = "application/octet-stream";

impl Wire {
    pub(super) async fn put(&self, key: &Key, payload: &Payload) -> Result<()> {
        let summed = self.wants_checksums();
        match self.send_whole(key, payload, summed).await {
            Ok(Some(_)) => Ok(()),
            // Every S3 server returns an ETag for a stored object, so check whether it was stored.
            Ok(None) => self.look_for(key, payload.len()).await,
            Err(failure) if self.learns_checksums(summed, &failure) => {
                tracing::debug!("{} wants checksums of what is sent", self.place);
                Box::pin(self.put(key, payload)).await
            }
            Err(failure) if failure.outcome_is_unknown() => {
                self.settle(key, payload.len(), failure).await
            }
            Err(failure) if failure.is_page() => match self.head(key).await {
                Ok(Some(len)) if len == payload.len() => Ok(()),
                _ => Err(failure.into()),
            },
            Err(failure) => Err(failure.into()),
        }
    }

    /// Returns the ETag of the object, when the answer has one.
    async fn send_whole(
        &self,
        key: &Key,
        payload: &Payload,
        summed: bool,
    ) -> Result<Option<String>, Box<Failure>> {
        let progress = Progress::new();
        let sums = Sums::of(payload, summed).await;
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .content_type(CONTENT_TYPE)
            .content_length(signed(payload.len()))
            .set_content_md5(sums.md5)
            .body(body(payload, &progress))
            .customize()
            .interceptor(SignedAs(sums.sha256))
            .send();
        let sent = self.call_sending(Op::Put, key.as_str(), &progress, request).await?;
        Ok(sent.e_tag.filter(|tag| !tag.is_empty()))
    }

    /// Checks for an object whose put was answered in a way no S3 server answers.
    async fn look_for(&self, key: &Key, len: u64) -> Result<()> {
        match self.head(key).await? {
            Some(found) if found == len => Ok(()),
            found => {
                let text = format!("put object {key} in {}", self.place);
                let there = found.unwrap_or(0);
                let why = format!("answered with success, and {there} of {len} bytes are there");
                Err(Error::new(Kind::InvalidInput, text).because(why).hint(NOT_STORED))
            }
        }
    }

    /// Finds out what became of a put without an answer. A key is written once, so an object of this length is ours.
    async fn settle(&self, key: &Key, len: u64, failure: Box<Failure>) -> Result<()> {
        if matches!(self.head(key).await, Ok(Some(found)) if found == len) {
            return Ok(());
        }
        // A server that refuses an upload in progress often just closes the connection. A small request gets its
        // reason.
        let request = self.client.list_objects_v2().bucket(&self.bucket);
        let request = request.prefix(&self.prefix).max_keys(1).send();
        let asked = self.call(Op::Put, key.as_str(), PATIENCE, request).await;
        match asked.map_err(Error::from) {
            // Credentials may allow puts and not listings, so this refusal does not explain the failed put.
            Err(e) if !e.kind().is_retryable() && e.kind() != Kind::PermissionDenied => Err(e),
            _ => Err(failure.into()),
        }
    }

    pub(super) async fn head(&self, key: &Key) -> Result<Option<u64>, Box<Failure>> {
        Ok(self.stamp(key).await?.map(|stamp| stamp.len))
    }

    pub(super) async fn stamp(&self, key: &Key) -> Result<Option<Stamp>, Box<Failure>> {
        let request = self.client.head_object().bucket(&self.bucket).key(self.name(key)).send();
        match self.call(Op::Head, key.as_str(), PATIENCE, request).await {
            Ok(found) => {
                let len = unsigned(found.content_length());
                let tag = found.e_tag.filter(|tag| !tag.is_empty());
                // An object has an ETag even when it is an HTML file; a web page from another server has none.
                if tag.is_none() && is_page(found.content_type.as_deref()) {
                    return Err(Failure::page(Op::Head, key.as_str(), &self.place));
                }
                Ok(Some(Stamp { len, tag }))
            }
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    pub(super) async fn delete(&self, key: &Key) -> Result<()> {
        let request = self.client.delete_object().bucket(&self.bucket).key(self.name(key)).send();
        match self.call(Op::Delete, key.as_str(), PATIENCE, request).await {
            Err(failure) if !failure.is_missing() => Err(failure.into()),
            _ => Ok(()),
        }
    }

    pub(super) async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        let prefix = format!("{}{prefix}", self.prefix);
        let page = page.and_then(|token| NextPage::parse(&token.0));
        let found = self.listed(&prefix, page.as_ref()).await?;
        let info = |object: &aws_sdk_s3::types::Object| {
            let key = self.key(object.key()?)?;
            Some(ObjectInfo { key, len: unsigned(object.size()) })
        };
        let objects = found.objects.iter().filter_map(info).collect();
        Ok(Page { objects, next: found.next.map(|next| PageToken(next.text())) })
    }
}

/// The SDK takes lengths as `i64`. A length that does not fit is clamped, and the server refuses it.
pub(super) fn signed(len: u64) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(len: Option<i64>) -> u64 {
    len.and_then(|len| u64::try_from(len).ok()).unwrap_or_default()
}

/// The payload as a request body; its buffers are neither joined nor copied.
pub(super) fn body(payload: &Payload, progress: &Progress) -> ByteStream {
    let body = PayloadBody::new(payload.clone(), progress.clone());
    ByteStream::new(SdkBody::from_body_1_x(body))
}

/// Checksums over all parts of a payload.
pub(super) struct Sums {
    /// Hexadecimal; the request is signed with it.
    pub(super) sha256: String,
    /// Base64, for servers that require it.
    pub(super) md5: Option<String>,
}

impl Sums {
    /// Hashes on a blocking thread when the payload is large enough to take milliseconds.
    pub(super) async fn of(payload: &Payload, with_md5: bool) -> Self {
        const AT_ONCE: u64 = 256 << 10;
        let here = || Self::now(payload, with_md5);
        if payload.len() <= AT_ONCE {
            return here();
        }
        let there = payload.clone();
        let sums = tokio::task::spawn_blocking(move || Self::now(&there, with_md5)).await;
        // A runtime that shuts down has no blocking threads any more.
        sums.unwrap_or_else(|_| here())
    }

    fn now(payload: &Payload, with_md5: bool) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        payload.parts().iter().for_each(|part| context.update(part));
        let sha256 = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let md5 = with_md5.then(|| {
            let mut md5 = Md5::new();
            payload.parts().iter().for_each(|part| md5.update(part));
            BASE64.encode(md5.finalize())
        });
        Self { sha256, md5 }
    }
}

/// Signs a request with the hash of its payload. By default the SDK leaves streamed bodies unsigned, over plain HTTP
/// too, and servers would store damaged bytes.
#[derive(Debug)]
pub(super) struct SignedAs(pub(super) String);

impl Intercept for SignedAs {
    fn name(&self) -> &'static str {
        "SignedAs"
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
    async fn the_sums_are_of_all_parts() {
        let abc: Payload =
            ["a", "", "bc"].map(|part| Bytes::from_static(part.as_bytes())).into_iter().collect();
        let wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let sums = Sums::of(&abc, true).await;
        assert_eq!(
            (sums.sha256.as_str(), sums.md5.as_deref()),
            (wanted, Some("kAFQmDzST7DWlj99KOF/cg=="))
        );
        assert_eq!(Sums::of(&abc, false).await.md5, None);
    }
}
