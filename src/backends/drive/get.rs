//! Ranges of objects out.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use reqwest::{Method, Response, header};

use super::{
    Drive,
    client::{Call, Unsigned, lost},
    limits::Cost,
};
use crate::{
    backends::{
        Key,
        memory::{missing, too_short},
    },
    error::{Error, Kind, Result},
};

/// Connections that may break in the middle of one range, which goes on from there.
const BREAKS: u32 = 3;

/// What became of a request for a range.
enum Got {
    /// All of it is here now.
    All,
    /// The connection broke somewhere in it.
    Broke(Error),
    /// There is no such file.
    Gone,
}

impl Drive {
    pub(super) async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let what = format!("get of {key}");
        if range.is_empty() {
            let meta = self.look_up(key, &what).await?.ok_or_else(|| missing(key))?;
            let fits = range.end <= meta.len();
            return if fits { Ok(Bytes::new()) } else { Err(too_short(key, meta.len(), &range)) };
        }
        let mut id = self.id_of(key, &what).await?.ok_or_else(|| missing(key))?;
        let len = usize::try_from(range.end - range.start).map_err(|e| {
            Error::new(Kind::InvalidInput, format!("{what}: {range:?} is too long")).because(e)
        })?;
        let mut bytes = BytesMut::with_capacity(len);
        let (mut breaks, mut searched) = (0, false);
        loop {
            match self.get_into(&mut bytes, key, &id, &range).await? {
                Got::All => return Ok(bytes.freeze()),
                Got::Broke(e) if breaks == BREAKS => return Err(e),
                Got::Broke(_) => breaks += 1,
                Got::Gone if searched => return Err(missing(key)),
                Got::Gone => {
                    // The noted file may have been replaced by another program.
                    searched = true;
                    self.known.forget(key).await;
                    id = self.id_of(key, &what).await?.ok_or_else(|| missing(key))?;
                }
            }
        }
    }

    /// Adds to `bytes` what is missing of `range`.
    async fn get_into(
        &self,
        bytes: &mut BytesMut,
        key: &Key,
        id: &str,
        range: &Range<u64>,
    ) -> Result<Got> {
        let wanted = range.start + bytes.len() as u64..range.end;
        let what = format!("get of {key}");
        let url = self.client.url(&format!("drive/v3/files/{id}"), &[("alt", "media")]);
        let call =
            Call::new(Method::GET, url, &what, Cost::Download).moving(wanted.end - wanted.start);
        let named = format!("bytes={}-{}", wanted.start, wanted.end - 1);
        let ask = |request: reqwest::RequestBuilder| request.header(header::RANGE, &named);
        let mut answer = self.client.exchange(&call, Unsigned::SendAgain, ask).await?;
        match answer.status().as_u16() {
            206 => check_range(&answer, key, range, &wanted)?,
            // All of it, from a server that saw that it was all that was asked for.
            200 if wanted.start == 0 && answer.content_length() == Some(wanted.end) => {}
            200 => return Err(odd(&what, "gives more than the range that was asked for")),
            404 => return Ok(Got::Gone),
            416 => return Err(too_short(key, total(&answer).unwrap_or(wanted.start), range)),
            _ => return Err(self.client.refusal(&call, answer).await),
        }
        self.client.accepted(Cost::Download);
        let most =
            bytes.capacity().min(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
        loop {
            match answer.chunk().await {
                Ok(Some(part)) if bytes.len() + part.len() > most => {
                    return Err(odd(&what, "gives more bytes than it says"));
                }
                Ok(Some(part)) => bytes.extend_from_slice(&part),
                Ok(None) if bytes.len() as u64 == range.end - range.start => return Ok(Got::All),
                Ok(None) => return Ok(Got::Broke(odd(&what, "ends before the range does"))),
                Err(e) => return Ok(Got::Broke(lost(&what, e))),
            }
        }
    }
}

/// A 206 must be of the very bytes asked for; a shorter one means that the object ends there.
fn check_range(
    answer: &Response,
    key: &Key,
    range: &Range<u64>,
    wanted: &Range<u64>,
) -> Result<()> {
    let given = answer.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
    let given = given.and_then(|text| text.strip_prefix("bytes "));
    let ends = total(answer);
    if ends.is_some_and(|total| total < wanted.end) {
        return Err(too_short(key, ends.unwrap_or(0), range));
    }
    let exact = format!("{}-{}/", wanted.start, wanted.end - 1);
    match given {
        Some(text) if text.starts_with(&exact) => Ok(()),
        _ => Err(odd(&format!("get of {key}"), "gives another range than was asked for")),
    }
}

/// The length of the whole object, after the `/` of `Content-Range`.
fn total(answer: &Response) -> Option<u64> {
    let text = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.rsplit_once('/')?.1.parse().ok()
}

fn odd(what: &str, how: &str) -> Error {
    Error::new(Kind::Unavailable, format!("{what}: Google Drive {how}"))
}
