//! IPFS from nginx as a trustless gateway: the protocols' conformance suite, files of every layout, folders and names.

use bae::protocols::{CidProfile, FetchOptions};

use super::get::{assert_file, event, get, out_path, random};
use crate::support::{
    MIB,
    bae::Bae,
    ipfs::{BlockFolder, ConformanceRoot, NameKey},
    nginx::Nginx,
    s3_server::runtime,
    served_folder::protocol,
};

/// Options that use `gateway` alone.
pub(crate) fn options(gateway: &str) -> FetchOptions {
    let mut options = FetchOptions::default();
    options.ipfs.gateways = vec![gateway.to_owned()];
    options
}

fn check_conformance(nginx: &Nginx, blocks: &BlockFolder, key: Option<&NameKey>, prefix: &str) {
    let root = ConformanceRoot::new(blocks, key, prefix, &nginx.process);
    let protocols = bae::protocols::Protocols::new(options(&nginx.url("")));
    let protocol = protocols.for_url(&"ipfs://x".parse().unwrap(), None).unwrap();
    runtime().block_on(bae::protocols::conformance::check(&*protocol, &root));
}

#[test]
fn a_trustless_gateway_passes_the_conformance_suite() {
    let nginx = Nginx::start();
    let blocks = BlockFolder::new(nginx.served.dir());
    check_conformance(&nginx, &blocks, None, "ipfs://");
}

#[test]
fn a_trustless_gateway_passes_the_conformance_suite_with_cids_of_version_0() {
    let nginx = Nginx::start();
    let blocks = BlockFolder::with_profile(nginx.served.dir(), CidProfile::UnixfsV0);
    check_conformance(&nginx, &blocks, None, "ipfs://");
}

#[test]
fn a_trustless_gateway_passes_the_conformance_suite_by_an_ipns_name() {
    let (nginx, key) = (Nginx::start(), NameKey::new(1));
    let blocks = BlockFolder::new(nginx.served.dir());
    check_conformance(&nginx, &blocks, Some(&key), "ipns://");
}

#[test]
fn the_url_of_a_gateway_passes_the_conformance_suite() {
    let nginx = Nginx::start();
    let blocks = BlockFolder::new(nginx.served.dir());
    check_conformance(&nginx, &blocks, None, &nginx.url("/ipfs/"));
}

#[test]
fn a_file_is_fetched_by_its_cid_and_verified() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(91, 20 * MIB + 3));
    let blocks = BlockFolder::new(nginx.served.dir());
    let cid = blocks.file(&data).cid;
    let url = format!("ipfs://{cid}");
    let output = get(&bae, &[&url, "--ipfs-gateway", &nginx.url("")]).expect(0);
    assert_file(&out_path(&bae, &cid.to_string()), &data);
    assert_eq!(event(&output, "fetched")["downloaded"], data.len());
    let _ = protocol(&url, options(&nginx.url("")));
}
