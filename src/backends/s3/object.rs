//! Whole objects: put, head, delete, list.

use aws_lc_rs::digest;
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::{
    config::{ConfigBag, Intercept, interceptors::BeforeSerializationInterceptorContextRef},
    error::BoxError,
    primitives::{ByteStream, SdkBody},
};

use super::{
    client::{PATIENCE, Wire},
    errors::{Failure, Op},
};
use crate::{
    backends::{
        Key, ObjectInfo, Page, PageToken, Payload, Stamp, payload::PayloadBody, progress::Progress,
    },
    error::{Error, Kind, Result},
};

pub(super) const CONTENT_TYPE: &str = "application/octet-stream";

impl Wire {
    pub(super) async fn put(&self, key: &Key, payload: &Payload) -> Result<()> {
        let progress = Progress::new();
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .content_type(CONTENT_TYPE)
            .content_length(signed(payload.len()))
            .body(body(payload, &progress))
            .customize()
            .interceptor(SignedAs(sha256(payload).await?))
            .send();
        match self.call_sending(Op::Put, key.as_str(), &progress, request).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.outcome_is_unknown() => {
                self.settle(key, payload.len(), failure).await
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// What became of an object whose put got no answer. A key is written once, so what is there is it.
    async fn settle(&self, key: &Key, len: u64, failure: Box<Failure>) -> Result<()> {
        if matches!(self.head(key).await, Ok(Some(found)) if found == len) {
            return Ok(());
        }
        // A server that refuses while the bytes still come often just hangs up. Asked for little, it says why.
        let request = self.client.list_objects_v2().bucket(&self.bucket);
        let request = request.prefix(&self.prefix).max_keys(1).send();
        let asked = self.call(Op::Put, key.as_str(), PATIENCE, request).await;
        match asked.map_err(Error::from) {
            // To be allowed to put and not to list is nothing wrong.
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
                Ok(Some(Stamp { len, tag: found.e_tag.filter(|tag| !tag.is_empty()) }))
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
        let token = page.map(|token| token.0.clone());
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(format!("{}{prefix}", self.prefix))
            .set_continuation_token(token.clone())
            .send();
        let found = self.call(Op::List, &format!("{prefix:?}"), PATIENCE, request).await?;
        let info = |object: &aws_sdk_s3::types::Object| {
            let key = self.key(object.key()?)?;
            Some(ObjectInfo { key, len: unsigned(object.size()) })
        };
        let objects = found.contents().iter().filter_map(info).collect();
        let next = found.next_continuation_token.filter(|_| found.is_truncated.unwrap_or(false));
        if next.is_some() && next == token {
            let why = "the listing does not go on";
            return Err(self.silence(Op::List, &format!("{prefix:?}"), why).into());
        }
        Ok(Page { objects, next: next.map(PageToken) })
    }
}

/// Lengths are signed in the SDK; one that does not fit is refused by the server.
pub(super) fn signed(len: u64) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(len: Option<i64>) -> u64 {
    len.and_then(|len| u64::try_from(len).ok()).unwrap_or_default()
}

/// The payload's own memory as the body of a request: nothing is joined or copied.
pub(super) fn body(payload: &Payload, progress: &Progress) -> ByteStream {
    let body = PayloadBody::new(payload.clone(), progress.clone());
    ByteStream::new(SdkBody::from_body_1_x(body))
}

/// Hexadecimal, of all parts. Off the worker threads when it takes milliseconds.
pub(super) async fn sha256(payload: &Payload) -> Result<String> {
    const AT_ONCE: u64 = 256 << 10;
    if payload.len() <= AT_ONCE {
        return Ok(hash(payload));
    }
    let payload = payload.clone();
    tokio::task::spawn_blocking(move || hash(&payload))
        .await
        .map_err(|e| Error::new(Kind::Internal, "hash a payload").because(e))
}

fn hash(payload: &Payload) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    payload.parts().iter().for_each(|part| context.update(part));
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Signs a request with the hash of its payload. Left alone the SDK leaves streamed bodies unsigned, over plain HTTP
/// too, and servers would store whatever arrives.
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
    async fn the_hash_is_of_all_parts() {
        let abc: Payload =
            ["a", "", "bc"].map(|part| Bytes::from_static(part.as_bytes())).into_iter().collect();
        let wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&abc).await.unwrap(), wanted);
    }
}
