//! The text of a list of segments: a playlist of HLS, or a manifest of DASH. Pure.

use std::io::Read as _;

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Kind, Result};

/// Maximum length of a list in bytes: about 100,000 segments with signed URLs.
pub(in crate::protocols) const MAX_LIST_LEN: usize = 32 << 20;
/// The first bytes of a gzip file. Some servers store lists compressed, and send no `Content-Encoding`.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Decompresses and decodes a list. Bytes that are not UTF-8 are replaced: they are in titles and comments.
///
/// # Errors
/// `Unsupported` for a list that is too long, or not valid gzip.
pub(in crate::protocols) fn decode(bytes: &[u8]) -> Result<String> {
    let too_long = || Error::new(Kind::Unsupported, "the list is longer than 32 MiB");
    let text = if bytes.starts_with(&GZIP) {
        let mut plain = Vec::new();
        let limit = MAX_LIST_LEN as u64 + 1;
        let read = MultiGzDecoder::new(bytes).take(limit).read_to_end(&mut plain);
        read.map_err(|e| Error::new(Kind::Unsupported, "the list is not valid gzip").because(e))?;
        if plain.len() > MAX_LIST_LEN {
            return Err(too_long());
        }
        String::from_utf8_lossy(&plain).into_owned()
    } else if bytes.len() > MAX_LIST_LEN {
        return Err(too_long());
    } else {
        String::from_utf8_lossy(bytes).into_owned()
    };
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// The start of a list that may be cut anywhere, as text. Empty for bytes that cannot be decompressed.
pub(in crate::protocols) fn decode_head(head: &[u8]) -> String {
    let mut plain = Vec::new();
    let text = if head.starts_with(&GZIP) {
        // The error of the missing end is expected.
        let _ = MultiGzDecoder::new(head).take(4096).read_to_end(&mut plain);
        String::from_utf8_lossy(&plain)
    } else {
        String::from_utf8_lossy(head)
    };
    text.trim_start_matches('\u{feff}').to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_text_or_an_error(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            is_gzip in any::<bool>(),
            cut in 0..200_usize,
        ) {
            if is_gzip {
                bytes = gzip(&bytes);
            }
            bytes.truncate(cut);
            let _ = (decode(&bytes), decode_head(&bytes));
        }
    }

    #[test]
    fn a_list_may_be_compressed_and_have_a_byte_order_mark() {
        for bytes in [b"#EXTM3U\n".to_vec(), b"\xef\xbb\xbf#EXTM3U\n".to_vec(), gzip(b"#EXTM3U\n")]
        {
            assert_eq!(decode(&bytes).unwrap(), "#EXTM3U\n");
            assert_eq!(decode_head(&bytes), "#EXTM3U\n");
        }
        assert_eq!(decode(b"#EXTM3U\n#\xff\n").unwrap(), "#EXTM3U\n#\u{fffd}\n");
    }

    #[test]
    fn a_list_has_a_bounded_length_also_when_decompressed() {
        let bomb = gzip(&vec![b'\n'; MAX_LIST_LEN + 1]);
        assert!(bomb.len() < MAX_LIST_LEN / 100);
        assert_eq!(decode(&bomb).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(decode(&vec![b'\n'; MAX_LIST_LEN + 1]).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(decode(&gzip(b"x")[..8]).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(decode_head(b"\x1f\x8bnonsense"), "");
    }
}
