//! The table of shares: how `--memory` is divided. Pure.
//!
//! There are two allocations: one while an import is being filled, and one for all other times. In both the lengths add
//! up to the whole budget. Imports get most of it, because uploads need several chunks in memory. Otherwise the read
//! cache and its fetches get most of it, because each byte in the cache saves a request.

/// A kind of payload bytes in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Blocks of imports, from peers, web seeds and servers: from their arrival until their object is durable. Also
    /// bytes that are read back from storage to be sent again.
    Incoming,
    /// Blocks that libtorrent is sending to peers. A block leaves when the kernel has taken it.
    Sends,
    /// Windows in the read cache.
    Windows,
    /// Fetches from storage: the response, and the blocks that it is copied into.
    Fetches,
    /// Bytes that players, `cat`, `export` and checks work on.
    Readers,
    /// Bodies from servers that are to become blocks or to be written to a file, and windows that are being written to
    /// the cache on disk.
    Bodies,
}

/// The lengths of all shares are multiples of this part of the budget.
const PARTS: usize = 64;

/// The number of shares.
pub(super) const COUNT: usize = 6;

/// The lengths of the shares in 64ths of the budget.
///
/// While importing:
/// - `Incoming` 46: a chunk is at most 8, and three are uploaded at once. Peers send on until 28 are verified; the other
///   18 are for open pieces.
/// - `Sends` 3: the kernel buffers more than that for each connection.
/// - `Windows` 3, `Fetches` 5: most reads during an import are of bytes that are still in memory.
/// - `Readers` 5: four players with the minimum of 32 MiB.
/// - `Bodies` 2: sixteen connections with a batch of 256 KiB each, with the default of 128 MiB.
///
/// At other times:
/// - `Windows` 20, `Fetches` 24: twelve runs of 2 in flight, or six where the response is copied. Shorter runs cost
///   more requests, fewer of them cannot fill a line of 100 ms.
/// - `Sends` 8: two peers with libtorrent's send buffer of 8 MiB each, with the default.
/// - `Readers` 8, `Bodies` 2.
/// - `Incoming` 2: peers may still be reading blocks of an import that has ended.
// ANCHOR: table
const TABLE: [(Share, Lengths); COUNT] = [
    (Share::Incoming, Lengths { importing: 46, serving: 2 }),
    (Share::Sends, Lengths { importing: 3, serving: 8 }),
    (Share::Windows, Lengths { importing: 3, serving: 20 }),
    (Share::Fetches, Lengths { importing: 5, serving: 24 }),
    (Share::Readers, Lengths { importing: 5, serving: 8 }),
    (Share::Bodies, Lengths { importing: 2, serving: 2 }),
];
// ANCHOR_END: table

/// The lengths of one share in the two allocations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lengths {
    pub(super) importing: usize,
    pub(super) serving: usize,
}

impl Lengths {
    fn of_both(len: usize) -> Self {
        Self { importing: len, serving: len }
    }
}

impl Share {
    /// All shares, in the order of their index.
    pub const ALL: [Self; COUNT] =
        [Self::Incoming, Self::Sends, Self::Windows, Self::Fetches, Self::Readers, Self::Bodies];

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// The lengths of all shares of one budget, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table([Lengths; COUNT]);

impl Table {
    /// The table of a budget of `total` bytes.
    pub(super) fn of(total: usize) -> Self {
        let mut lengths = [Lengths::default(); COUNT];
        for (share, parts) in TABLE {
            let bytes = |parts: usize| total / PARTS * parts;
            lengths[share.index()] =
                Lengths { importing: bytes(parts.importing), serving: bytes(parts.serving) };
        }
        Self(lengths)
    }

    /// A table with fixed lengths. Shares that are not named have none.
    pub(super) fn fixed(named: &[(Share, usize)]) -> Self {
        let mut lengths = [Lengths::default(); COUNT];
        named.iter().for_each(|(share, len)| lengths[share.index()] = Lengths::of_both(*len));
        Self(lengths)
    }

    pub(super) fn lengths(&self, share: Share) -> Lengths {
        self.0[share.index()]
    }
}

/// A level of [`Share::Incoming`] at which something changes.
///
/// The levels are fractions of its length while importing, so that they do not move with the allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// All requests in flight with peers together. As memory fills up, this falls to a quarter of it.
    Requests,
    /// Bytes in uploads from which on storage counts as the slower side.
    Uploading,
    /// The longest part that is read back to be sent again. One part is read while others are sent.
    ReadBackPart,
    /// Bytes that open chunks miss, and ranges in flight with servers.
    OpenChunks,
    /// Verified bytes outside of uploads at which writers stop waiting for complete chunks. Peers that wait resume at
    /// the same level of verified bytes. Were this mark the higher one, all peers could wait while no upload runs.
    Pack,
    /// Verified bytes at which sending peers must wait. From here on the download limit follows the drain rate.
    Wait,
    /// The level up to which bytes are read back. The rest stays free for bytes from peers.
    ReadBack,
    /// The longest piece of a torrent. A piece is verified as a whole in memory.
    LongestPiece,
    /// The level at which connections to servers wait, and at which an idle writer uploads what it has.
    Full,
    /// The level above which open pieces are evicted.
    Evict,
}

impl Mark {
    /// The level in bytes, where [`Share::Incoming`] is `incoming` bytes long while importing.
    #[must_use]
    pub const fn of(self, incoming: usize) -> usize {
        let parts = match self {
            Self::Requests | Self::Uploading => 10,
            Self::ReadBackPart => 16,
            Self::OpenChunks => 20,
            Self::Pack => 28,
            Self::Wait => 40,
            Self::ReadBack | Self::LongestPiece => 48,
            Self::Full => 56,
            Self::Evict => PARTS,
        };
        incoming / PARTS * parts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_shares_of_both_allocations_fill_the_budget_and_never_exceed_it(total in 0usize..1 << 40) {
            let table = Table::of(total);
            let sum = |len: fn(Lengths) -> usize| -> usize {
                Share::ALL.iter().map(|share| len(table.lengths(*share))).sum()
            };
            for used in [sum(|lengths| lengths.importing), sum(|lengths| lengths.serving)] {
                prop_assert!(used <= total && total - used < PARTS);
            }
        }

        #[test]
        fn the_marks_are_in_order(incoming in 1usize << 20..1 << 40) {
            let order = [Mark::Requests, Mark::ReadBackPart, Mark::OpenChunks, Mark::Pack, Mark::Wait];
            let order = order.into_iter().chain([Mark::ReadBack, Mark::Full, Mark::Evict]);
            let levels: Vec<_> = order.map(|mark| mark.of(incoming)).collect();
            prop_assert!(levels.is_sorted() && levels[0] > 0);
            prop_assert!(levels[7] <= incoming && incoming - levels[7] < PARTS);
        }
    }

    #[test]
    fn each_share_has_one_row() {
        for (index, (share, _)) in TABLE.iter().enumerate() {
            assert_eq!((share.index(), Share::ALL[index]), (index, *share));
        }
    }

    /// Three chunks in uploads and the next one in memory. `engine::storages` makes a chunk at most an eighth of the
    /// budget.
    #[test]
    fn four_of_the_longest_chunks_fit_before_servers_wait() {
        let incoming = Table::of(PARTS).lengths(Share::Incoming).importing * PARTS;
        assert!(Mark::Full.of(incoming) >= 4 * PARTS * PARTS / 8);
    }
}
