//! dag-pb: a block with links to other blocks, and data.

use bytes::Bytes;

use super::{
    cid::Cid,
    protobuf::{Fields, Malformed, write_bytes, write_varint},
};

/// A link to another block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocols::ipfs) struct PbLink {
    pub(in crate::protocols::ipfs) cid: Cid,
    /// Any bytes. Empty if the link has no name.
    pub(in crate::protocols::ipfs) name: Bytes,
    /// The length of the linked block and of all blocks below it, as the writer claims.
    pub(in crate::protocols::ipfs) total_len: Option<u64>,
}

/// A block of the codec dag-pb.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::protocols::ipfs) struct PbNode {
    pub(in crate::protocols::ipfs) links: Vec<PbLink>,
    pub(in crate::protocols::ipfs) data: Option<Bytes>,
}

impl PbNode {
    /// Parses a block. Links and data share its memory.
    ///
    /// # Errors
    /// [`Malformed`] for anything but links and at most one field of data, which does not stand between links.
    pub(in crate::protocols::ipfs) fn parse(block: &Bytes) -> Result<Self, Malformed> {
        let mut node = Self::default();
        let mut links_before_data = false;
        for field in Fields::of(block) {
            match field? {
                (1, value) if node.data.is_none() => {
                    links_before_data = !node.links.is_empty();
                    node.data = Some(block.slice_ref(value.bytes()?));
                }
                (2, value) if !links_before_data => {
                    node.links.push(parse_link(block, value.bytes()?)?);
                }
                _ => return Err(Malformed),
            }
        }
        Ok(node)
    }

    /// The block, links first.
    pub(in crate::protocols::ipfs) fn to_block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        for link in &self.links {
            let mut message = Vec::new();
            write_bytes(1, &link.cid.to_bytes(), &mut message);
            write_bytes(2, &link.name, &mut message);
            if let Some(len) = link.total_len {
                write_varint(3, len, &mut message);
            }
            write_bytes(2, &message, &mut block);
        }
        if let Some(data) = &self.data {
            write_bytes(1, data, &mut block);
        }
        block
    }
}

fn parse_link(block: &Bytes, message: &[u8]) -> Result<PbLink, Malformed> {
    let (mut cid, mut name, mut total_len) = (None, None, None);
    for field in Fields::of(message) {
        match field? {
            (1, value) if cid.is_none() => {
                let bytes = block.slice_ref(value.bytes()?);
                cid = Some(Cid::from_bytes(&bytes).ok_or(Malformed)?);
            }
            (2, value) if name.is_none() => name = Some(block.slice_ref(value.bytes()?)),
            (3, value) if total_len.is_none() => total_len = Some(value.varint()?),
            _ => return Err(Malformed),
        }
    }
    Ok(PbLink { cid: cid.ok_or(Malformed)?, name: name.unwrap_or_default(), total_len })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::multihash::Multihash, *};

    fn link(name: &str, total_len: Option<u64>) -> PbLink {
        let cid = Cid::v1(super::super::cid::RAW, Multihash::sha2_256(name.as_bytes()));
        PbLink { cid, name: Bytes::copy_from_slice(name.as_bytes()), total_len }
    }

    #[test]
    fn links_and_data_are_read_in_either_order() {
        let node = PbNode {
            links: vec![link("a", Some(1)), link("", None)],
            data: Some(Bytes::from_static(b"data")),
        };
        let block = node.to_block();
        assert_eq!(PbNode::parse(&block.clone().into()).unwrap(), node);
        // The data has six bytes with its head.
        let data_first = [&block[block.len() - 6..], &block[..block.len() - 6]].concat();
        assert_eq!(PbNode::parse(&data_first.into()).unwrap(), node);
        assert_eq!(PbNode::parse(&Bytes::new()).unwrap(), PbNode::default());
    }

    #[test]
    fn other_messages_are_refused() {
        let links = PbNode { links: vec![link("a", None)], data: None }.to_block();
        let data = PbNode { links: vec![], data: Some(Bytes::from_static(b"d")) }.to_block();
        let unknown_field = [0x1a, 0x00];
        let without_hash = [0x12, 0x02, 0x12, 0x00];
        for block in [
            [&links[..], &data, &links].concat(),
            [&data[..], &data].concat(),
            unknown_field.to_vec(),
            without_hash.to_vec(),
            vec![0x12, 0x04, 0x0a, 0x02, 1, 2],
            links[..links.len() - 1].to_vec(),
        ] {
            assert_eq!(PbNode::parse(&block.clone().into()), Err(Malformed), "{block:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = PbNode::parse(&bytes.into());
        }

        #[test]
        fn a_node_round_trips(names in prop::collection::vec(("[a-z]{0,5}", prop::option::of(0u64..1 << 62)), 0..6), data in prop::option::of("[a-z]{0,9}")) {
            let links = names.iter().map(|(name, len)| link(name, *len)).collect();
            let node = PbNode { links, data: data.map(|text| Bytes::from(text.into_bytes())) };
            prop_assert_eq!(PbNode::parse(&node.to_block().into()), Ok(node));
        }
    }
}
