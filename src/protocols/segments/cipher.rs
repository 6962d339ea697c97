//! AES-128 in CBC mode with PKCS #7 padding, as HLS encrypts segments. Any range of a segment can be decrypted alone,
//! because each block needs only the encrypted block before it. Pure.

use std::{fmt, ops::Range};

use aws_lc_rs::{
    cipher::{AES_128, DecryptingKey, DecryptionContext, UnboundCipherKey},
    iv::FixedLength,
};
use bytes::{Bytes, BytesMut};

use crate::error::{Error, Kind, Result};

/// Length of a block, a key and an IV in bytes.
pub(in crate::protocols) const BLOCK: usize = 16;
const BLOCK_LEN: u64 = BLOCK as u64;

/// Key and IV of a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::protocols) struct Cipher {
    key: [u8; BLOCK],
    iv: [u8; BLOCK],
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

impl Cipher {
    pub(in crate::protocols) fn new(key: [u8; BLOCK], iv: [u8; BLOCK]) -> Self {
        Self { key, iv }
    }

    /// Decrypts whole blocks in place. `iv` is the encrypted block before them.
    fn decrypt(&self, iv: [u8; BLOCK], blocks: &mut [u8]) -> Result<()> {
        let failed = |_| Error::new(Kind::Internal, "cannot decrypt by AES-128");
        let key = UnboundCipherKey::new(&AES_128, &self.key).map_err(failed)?;
        let key = DecryptingKey::cbc(key).map_err(failed)?;
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        key.decrypt(blocks, context).map_err(failed)?;
        Ok(())
    }

    /// The length of a segment without its padding. `len` is its encrypted length, and `tail` its last 32 bytes, or all
    /// of a shorter one.
    ///
    /// # Errors
    /// `Corrupt` if the segment is not complete, or the key is wrong.
    pub(in crate::protocols) fn plain_len(&self, len: u64, tail: &[u8]) -> Result<u64> {
        if len == 0 || !len.is_multiple_of(BLOCK_LEN) {
            let text = format!("its encrypted length of {len} bytes is not a multiple of 16");
            return Err(Error::new(Kind::Corrupt, text));
        }
        let expected = len.min(2 * BLOCK_LEN);
        if tail.len() as u64 != expected {
            return Err(Error::new(Kind::Corrupt, "its last blocks are missing"));
        }
        let (before, last) = tail.split_at(tail.len() - BLOCK);
        let iv = before.try_into().unwrap_or(self.iv);
        let mut last = last.to_vec();
        self.decrypt(iv, &mut last)?;
        Ok(len - padding(&last)? as u64)
    }

    /// Decrypts a whole file.
    ///
    /// # Errors
    /// `Corrupt` if its padding is wrong.
    pub(in crate::protocols) fn decrypt_whole(self, encrypted: &[u8]) -> Result<Bytes> {
        let mut decryptor = Decryptor::whole(self);
        let mut plain = BytesMut::from(&decryptor.push(encrypted)?[..]);
        plain.extend_from_slice(&decryptor.finish()?);
        Ok(plain.freeze())
    }

    /// The range to fetch for `plain` of a segment of `len` encrypted bytes: whole blocks, with the block before them.
    pub(in crate::protocols) fn encrypted_range(plain: &Range<u64>, len: u64) -> Range<u64> {
        let first = plain.start / BLOCK_LEN * BLOCK_LEN;
        first.saturating_sub(BLOCK_LEN)..plain.end.next_multiple_of(BLOCK_LEN).min(len)
    }
}

/// The number of padding bytes at the end of the last decrypted block.
fn padding(block: &[u8]) -> Result<usize> {
    let count = block.last().copied().unwrap_or_default();
    let (len, count) = (block.len(), usize::from(count));
    let is_valid = (1..=BLOCK).contains(&count)
        && block[len - count..].iter().all(|byte| usize::from(*byte) == count);
    match is_valid {
        true => Ok(count),
        false => Err(Error::new(
            Kind::Corrupt,
            "its padding is wrong: it is not complete, or the key is not its key",
        )),
    }
}

/// Decrypts a stream of bytes.
#[derive(Debug)]
pub(in crate::protocols) struct Decryptor {
    cipher: Cipher,
    /// The encrypted block before the next one; `None` before the first block of a range, which is that block.
    iv: Option<[u8; BLOCK]>,
    waiting: BytesMut,
    /// Decrypted bytes to drop before the range.
    skip: u64,
    /// Decrypted bytes of the range that are still missing; `None` up to the padding.
    left: Option<u64>,
}

impl Decryptor {
    /// For a segment from its first byte to its padding.
    pub(in crate::protocols) fn whole(cipher: Cipher) -> Self {
        Self { cipher, iv: Some(cipher.iv), waiting: BytesMut::new(), skip: 0, left: None }
    }

    /// For the bytes of [`Cipher::encrypted_range`].
    pub(in crate::protocols) fn range(cipher: Cipher, plain: &Range<u64>) -> Self {
        let iv = (plain.start < BLOCK_LEN).then_some(cipher.iv);
        let left = Some(plain.end - plain.start);
        Self { cipher, iv, waiting: BytesMut::new(), skip: plain.start % BLOCK_LEN, left }
    }

    /// Decrypts as many blocks as are complete. Without a known end the last one is held back: it has the padding.
    pub(in crate::protocols) fn push(&mut self, bytes: &[u8]) -> Result<Bytes> {
        self.waiting.extend_from_slice(bytes);
        let iv = match self.iv {
            Some(iv) => iv,
            None if self.waiting.len() < BLOCK => return Ok(Bytes::new()),
            None => {
                let first = self.waiting.split_to(BLOCK);
                (&first[..]).try_into().expect("sixteen bytes were split off")
            }
        };
        let held_back = usize::from(self.left.is_none());
        let count = (self.waiting.len() / BLOCK)
            .saturating_sub(if self.waiting.len().is_multiple_of(BLOCK) { held_back } else { 0 });
        let mut blocks = self.waiting.split_to(count * BLOCK);
        self.iv = match blocks.last_chunk::<BLOCK>() {
            Some(last) => Some(*last),
            None => Some(iv),
        };
        self.cipher.decrypt(iv, &mut blocks)?;
        Ok(self.cut(blocks.freeze()))
    }

    fn cut(&mut self, mut plain: Bytes) -> Bytes {
        let skipped = self.skip.min(plain.len() as u64);
        self.skip -= skipped;
        let _ = plain.split_to(usize::try_from(skipped).unwrap_or(usize::MAX));
        if let Some(left) = &mut self.left {
            plain.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= plain.len() as u64;
        }
        plain
    }

    /// The last bytes, after the stream has ended.
    ///
    /// # Errors
    /// `Corrupt` if the stream ended early, or its padding is wrong.
    pub(in crate::protocols) fn finish(&mut self) -> Result<Bytes> {
        match self.left {
            Some(0) => Ok(Bytes::new()),
            Some(left) => Err(Error::new(Kind::Corrupt, format!("it ends {left} bytes early"))),
            None => {
                let iv = self.iv.filter(|_| self.waiting.len() == BLOCK);
                let text = "its encrypted length is not a multiple of 16 bytes";
                let iv = iv.ok_or_else(|| Error::new(Kind::Corrupt, text))?;
                let mut last = std::mem::take(&mut self.waiting);
                self.cipher.decrypt(iv, &mut last)?;
                last.truncate(BLOCK - padding(&last)?);
                Ok(last.freeze())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        cipher::{EncryptionContext, PaddedBlockEncryptingKey},
        iv::FixedLength,
    };
    use proptest::prelude::*;

    use super::*;

    fn encrypt(cipher: &Cipher, plain: &[u8]) -> Vec<u8> {
        let key = UnboundCipherKey::new(&AES_128, &cipher.key).unwrap();
        let key = PaddedBlockEncryptingKey::cbc_pkcs7(key).unwrap();
        let mut out = plain.to_vec();
        let context = EncryptionContext::Iv128(FixedLength::from(cipher.iv));
        key.less_safe_encrypt(&mut out, context).unwrap();
        out
    }

    fn plain(len: usize) -> Vec<u8> {
        (0..len).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
    }

    fn decrypt(mut decryptor: Decryptor, encrypted: &[u8], step: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for part in encrypted.chunks(step) {
            out.extend_from_slice(&decryptor.push(part)?);
        }
        out.extend_from_slice(&decryptor.finish()?);
        Ok(out)
    }

    fn cipher() -> Cipher {
        Cipher::new(*b"0123456789abcdef", [7; 16])
    }

    #[test]
    fn a_key_is_not_shown() {
        assert_eq!(format!("{:?}", cipher()), "Cipher");
    }

    #[test]
    fn a_cut_segment_and_a_wrong_key_are_found_by_the_padding() {
        let encrypted = encrypt(&cipher(), &plain(1000));
        let tail = |len: usize| &encrypted[len.saturating_sub(32)..len];
        assert_eq!(cipher().plain_len(1008, tail(1008)).unwrap(), 1000);
        for len in [992, 1001, 16] {
            let error = cipher().plain_len(len as u64, tail(len)).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{len}");
        }
        assert!(Cipher::new([9; 16], [7; 16]).plain_len(1008, tail(1008)).is_err());
        assert!(cipher().plain_len(0, &[]).is_err());
        assert!(decrypt(Decryptor::whole(cipher()), &encrypted[..992], 100).is_err());
        assert!(decrypt(Decryptor::whole(cipher()), &encrypted[..999], 100).is_err());
        assert!(decrypt(Decryptor::whole(cipher()), &[], 1).is_err());
    }

    fn positions(range: &Range<u64>) -> Range<usize> {
        usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
    }

    proptest! {
        #[test]
        fn any_range_is_decrypted_alone(len in 0_usize..300, a in 0_u64..300, b in 0_u64..300, step in 1_usize..50) {
            let (cipher, plain) = (cipher(), plain(len));
            let encrypted = encrypt(&cipher, &plain);
            let encrypted_len = encrypted.len() as u64;
            let tail = &encrypted[encrypted.len().saturating_sub(32)..];
            prop_assert_eq!(cipher.plain_len(encrypted_len, tail).unwrap(), len as u64);
            prop_assert_eq!(&decrypt(Decryptor::whole(cipher), &encrypted, step).unwrap(), &plain);
            let (start, end) = (a.min(b).min(len as u64), a.max(b).min(len as u64));
            let range = Cipher::encrypted_range(&(start..end), encrypted_len);
            prop_assert!(range.end - range.start <= end - start + 48);
            let part = &encrypted[positions(&range)];
            let decryptor = Decryptor::range(cipher, &(start..end));
            prop_assert_eq!(&decrypt(decryptor, part, step).unwrap()[..], &plain[positions(&(start..end))]);
        }
    }
}
