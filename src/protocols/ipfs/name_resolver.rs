//! Resolves names to CIDs: IPNS names by their newest valid record, DNS names by DNSLink.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;

use super::{
    content::cid::Cid,
    dns::Resolver,
    gateways::{blocks::Blocks, gateway_set::combined_error},
    names::{
        content_path::{ContentPath, PathRoot},
        dnslink,
        ipns_name::IpnsName,
        ipns_record::IpnsRecord,
    },
};
use crate::error::{Error, Kind, Result};

/// Maximum number of names that lead to each other.
const MAX_NAMES: usize = 32;
/// Maximum number of gateways that are asked for a record.
const MAX_ASKED: usize = 8;
/// How long other records are waited for after the first valid one.
const GRACE: Duration = Duration::from_secs(2);
/// Maximum number of names whose records are remembered.
const MAX_REMEMBERED: usize = 1000;

/// The resolver of names.
#[derive(Debug)]
pub(super) struct NameResolver {
    dns: Resolver,
    /// The newest record of each name in this run: a gateway that sends an older one is not followed.
    newest: Mutex<HashMap<IpnsName, IpnsRecord>>,
}

impl NameResolver {
    pub(super) fn new(dns: Resolver) -> Self {
        Self { dns, newest: Mutex::default() }
    }

    /// Follows names until a CID. Returns the CID, and the names of the path below it.
    ///
    /// # Errors
    /// `NotFound` for a name without a record, or with an expired one; `Corrupt` for forged records, and for names that
    /// lead to more than 32 others; errors of the servers.
    pub(super) async fn resolve(
        &self,
        blocks: &Blocks,
        path: &ContentPath,
    ) -> Result<(Cid, Vec<Vec<u8>>)> {
        let mut path = path.clone();
        for _ in 0..=MAX_NAMES {
            let mut target = match path.root {
                PathRoot::Cid(cid) => return Ok((cid, path.segments)),
                PathRoot::Name(name) => self.newest_record(blocks, &name).await?.value,
                PathRoot::Host(host) => {
                    let texts = self.dns.texts(&format!("{}.{host}", dnslink::LABEL)).await?;
                    dnslink::target(&host, &texts)?
                }
            };
            target.segments.append(&mut path.segments);
            path = target;
        }
        let text = format!("the name leads to more than {MAX_NAMES} other names");
        Err(Error::new(Kind::Corrupt, text))
    }

    /// The newest valid record of `name`, of those that gateways and routers send and those seen before.
    async fn newest_record(&self, blocks: &Blocks, name: &IpnsName) -> Result<IpnsRecord> {
        let now = SystemTime::now();
        let (records, errors) = fetch_records(blocks, name, now).await;
        let mut newest = self.newest.lock();
        let known = newest.get(name).filter(|record| record.valid_until > now).cloned();
        let found =
            records.into_iter().chain(known).reduce(|a, b| if b.is_newer_than(&a) { b } else { a });
        let Some(record) = found else {
            let error = combined_error(&format!("IPNS name {name}"), &errors);
            let hinted = errors.iter().find(|e| e.typed_hint().is_some());
            return Err(hinted.into_iter().fold(error, Error::hint_of));
        };
        if newest.len() < MAX_REMEMBERED || newest.contains_key(name) {
            newest.insert(name.clone(), record.clone());
        }
        Ok(record)
    }
}

/// Asks gateways and routers for records. Returns the valid ones, and errors for the others.
async fn fetch_records(
    blocks: &Blocks,
    name: &IpnsName,
    now: SystemTime,
) -> (Vec<IpnsRecord>, Vec<Error>) {
    let judge = |sent: Result<Bytes>, by: &str| {
        sent.and_then(|bytes| IpnsRecord::verify(&bytes, name, now).map_err(|e| e.with_context(by)))
    };
    let gateways = blocks.gateways.usable();
    let asked: FuturesUnordered<_> = gateways
        .iter()
        .take(MAX_ASKED)
        .map(|gateway| async move { vec![(gateway.record(name).await, gateway.name())] })
        .map(futures_util::FutureExt::left_future)
        .collect();
    if let Some(routers) = blocks.gateways.routers() {
        let records = async move {
            let records = routers.records(name).await.into_iter();
            records.map(|record| (record, "router".to_owned())).collect()
        };
        asked.push(futures_util::FutureExt::right_future(records));
    }
    let (mut records, mut errors) = (Vec::new(), Vec::new());
    let mut asked = std::pin::pin!(asked);
    loop {
        let next = asked.next();
        let answers = match records.is_empty() {
            true => next.await,
            // A server that does not answer must not hold up a name that is known.
            false => tokio::time::timeout(GRACE, next).await.unwrap_or(None),
        };
        let Some(answers) = answers else { return (records, errors) };
        for (sent, by) in answers {
            match judge(sent, &by) {
                Ok(record) => records.push(record),
                Err(e) => {
                    tracing::debug!("{}", e.report());
                    errors.push(e);
                }
            }
        }
    }
}
