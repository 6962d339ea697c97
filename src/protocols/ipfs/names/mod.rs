//! Names that lead to content: IPNS names, whose records are signed, and DNS names (DNSLink). Pure.
//!
//! An IPNS name is the hash of a public key. Its record says which content the name means now; [`ipns_record`] accepts
//! a record only with a valid signature of that key. A DNS name means the content that its TXT record says; that is as
//! trustworthy as the resolver.

pub(in crate::protocols::ipfs) mod cbor;
pub(in crate::protocols::ipfs) mod content_path;
pub(in crate::protocols::ipfs) mod dns_message;
pub(in crate::protocols::ipfs) mod dnslink;
pub(in crate::protocols::ipfs) mod ipns_name;
pub(in crate::protocols::ipfs) mod ipns_record;
mod public_key;
