//! Simulated peers that follow suggestions over a torrent.

use super::{peer::MAX_REQUESTED_WINDOWS, *};

/// A simplified libtorrent peer. It requests eight windows ahead: suggested ones first, the newest of them before
/// others, otherwise random ones.
struct Leecher {
    number: u64,
    have: Vec<u8>,
    suggested: Vec<u32>,
    requested: VecDeque<u32>,
    dice: u32,
    /// The peer receives a piece in every round that is a multiple of this.
    interval: usize,
}

/// A seed whose memory holds the `capacity` windows used last.
struct Seed {
    suggester: Suggester,
    capacity: usize,
    memory: VecDeque<u32>,
    fetched: Vec<u32>,
    prefetched: u64,
    now: Instant,
}

const WINDOWS: u32 = 256;

impl Leecher {
    fn new(number: u64) -> Self {
        let have = vec![0; WINDOWS as usize / 8];
        let dice = u32::try_from(number).unwrap() * 7919 + 1;
        Self { number, have, suggested: Vec::new(), requested: VecDeque::new(), dice, interval: 1 }
    }

    fn has(&self, piece: u32) -> bool {
        Have::of(&self.have).has(piece)
    }

    fn receive(&mut self, piece: u32) {
        self.have[piece as usize / 8] |= 0x80 >> (piece % 8);
        self.suggested.retain(|p| *p != piece);
        self.requested.retain(|p| *p != piece);
    }

    fn is_done(&self) -> bool {
        Have::of(&self.have).count() == WINDOWS
    }

    fn add_suggestions(&mut self, pieces: Vec<u32>) {
        for piece in pieces.into_iter().rev() {
            self.suggested.insert(0, piece);
        }
        self.suggested.truncate(MAX_REMEMBERED as usize);
    }

    fn next(&mut self) -> Option<u32> {
        self.dice = self.dice.wrapping_mul(1_103_515_245).wrapping_add(12345);
        let start = (self.dice >> 8) % WINDOWS;
        let wants = |p: &u32| !self.has(*p) && !self.requested.contains(p);
        let suggested = self.suggested.iter().copied().find(wants);
        suggested.or_else(|| (0..WINDOWS).map(|n| (start + n) % WINDOWS).find(wants))
    }
}

impl Seed {
    fn new(capacity: usize) -> Self {
        let suggester = Suggester::new(WINDOWS, MIB);
        let now = Instant::now();
        Self {
            suggester,
            capacity,
            memory: VecDeque::new(),
            fetched: Vec::new(),
            prefetched: 0,
            now,
        }
    }

    fn suggest(&mut self, leecher: &mut Leecher, piece: Option<u32>) {
        self.now += Duration::from_millis(10);
        let capacity = self.capacity as u64 * MIB;
        let suggestions = self.suggester.on_request(
            leecher.number,
            piece,
            Have::of(&leecher.have),
            capacity,
            self.now,
        );
        assert!(suggestions.pieces.len() <= MAX_REMEMBERED as usize);
        self.prefetched +=
            suggestions.prefetch.iter().map(|run| (run.end - run.start) / MIB).sum::<u64>();
        leecher.add_suggestions(suggestions.pieces);
    }

    /// Reads a piece without waiting for peers that are behind.
    fn read(&mut self, piece: u32) {
        self.suggester.start_fetch(piece);
        match self.memory.iter().position(|p| *p == piece) {
            Some(n) => drop(self.memory.remove(n)),
            None => self.fetched.push(piece),
        }
        self.memory.push_back(piece);
        while self.memory.len() > self.capacity {
            self.memory.pop_front();
        }
    }

    /// Serves one piece at a time to each peer in turn, until all peers have everything.
    fn serve(&mut self, leechers: &mut [Leecher]) {
        leechers.iter_mut().for_each(|l| self.suggest(l, None));
        let mut round = 0;
        while leechers.iter().any(|l| !l.is_done()) {
            round += 1;
            for leecher in leechers.iter_mut().filter(|l| round % l.interval == 0) {
                while leecher.requested.len() < 8
                    && let Some(piece) = leecher.next()
                {
                    leecher.requested.push_back(piece);
                    self.suggest(leecher, Some(piece));
                    self.read(piece);
                }
                if let Some(piece) = leecher.requested.front().copied() {
                    leecher.receive(piece);
                }
            }
        }
    }
}

#[test]
fn one_peer_is_led_in_order_and_the_next_windows_are_prefetched() {
    let mut seed = Seed::new(48);
    seed.serve(&mut [Leecher::new(1)]);
    assert_eq!(seed.fetched, (0..WINDOWS).collect::<Vec<_>>());
    assert!(seed.prefetched > u64::from(WINDOWS) * 3 / 4, "{}", seed.prefetched);
}

/// A fast libtorrent peer with pieces of 256 KiB. Twelve pieces are on their way to it, and new suggestions arrive
/// among them. It picks the newest suggestion that is free, and also the 8 MiB around it once it knows that it is fast.
struct Fast {
    number: u64,
    have: Vec<u8>,
    suggested: VecDeque<u32>,
    requested: HashSet<u32>,
    batch: VecDeque<u32>,
    incoming: VecDeque<Result<u32, Vec<u32>>>,
    dice: u32,
    received: u32,
    picked_at_random: u32,
    waited: u32,
}

/// A seed of such a torrent: the pieces in its memory, and how many pieces it fetched.
struct Small {
    suggester: Suggester,
    memory: VecDeque<u32>,
    fetched: u32,
    now: Instant,
}

const SMALL: u32 = 1920;
const SMALL_CAPACITY: u64 = 40 * MIB;

impl Small {
    fn new() -> Self {
        let suggester = Suggester::new(SMALL, 256 << 10);
        Self { suggester, memory: VecDeque::new(), fetched: 0, now: Instant::now() }
    }

    fn fetch(&mut self, piece: u32) {
        if piece < SMALL && !self.memory.contains(&piece) {
            self.fetched += 1;
            self.memory.push_back(piece);
            if self.memory.len() > 160 {
                self.memory.pop_front();
            }
        }
    }

    fn suggest(&mut self, peer: &mut Fast, piece: Option<u32>) {
        let suggestions = self.suggester.on_request(
            peer.number,
            piece,
            Have::of(&peer.have),
            SMALL_CAPACITY,
            self.now,
        );
        for run in suggestions.prefetch {
            (run.start >> 18..run.end >> 18)
                .for_each(|piece| self.fetch(u32::try_from(piece).unwrap()));
        }
        peer.incoming.push_back(Err(suggestions.pieces));
        peer.incoming.extend(piece.map(Ok));
    }
}

impl Fast {
    fn new(number: u64) -> Self {
        Self {
            number,
            have: vec![0; SMALL as usize / 8],
            suggested: VecDeque::new(),
            requested: HashSet::new(),
            batch: VecDeque::new(),
            incoming: VecDeque::new(),
            dice: u32::try_from(number).unwrap(),
            received: 0,
            picked_at_random: 0,
            waited: 0,
        }
    }

    fn is_free(&self, piece: u32) -> bool {
        piece < SMALL && !Have::of(&self.have).has(piece) && !self.requested.contains(&piece)
    }

    fn pick(&mut self, batch: u32) {
        let suggested = self.suggested.iter().copied().find(|p| self.is_free(*p));
        let piece = suggested.unwrap_or_else(|| {
            self.dice = self.dice.wrapping_mul(1_103_515_245).wrapping_add(12345);
            let start = (self.dice >> 8) % SMALL;
            let mut all = (0..SMALL).map(|n| (start + n) % SMALL);
            self.picked_at_random += 1;
            all.find(|p| self.is_free(*p)).unwrap()
        });
        let before = (piece.saturating_sub(batch - 1)..piece).rev();
        let start = before.take_while(|p| self.is_free(*p)).last().unwrap_or(piece);
        let batch: Vec<u32> = (start..start + batch).take_while(|p| self.is_free(*p)).collect();
        self.batch.extend(batch);
    }

    /// Receives what has arrived, and requests more.
    fn advance(&mut self, seed: &mut Small) {
        while let Some(message) = self.incoming.pop_front() {
            match message {
                Err(pieces) => {
                    pieces.into_iter().rev().for_each(|p| self.suggested.push_front(p));
                    self.suggested.truncate(MAX_REMEMBERED as usize);
                }
                Ok(piece) if seed.suggester.is_pending(piece) && self.waited < 150 => {
                    self.waited += 1;
                    self.incoming.push_front(message);
                    return;
                }
                Ok(piece) => {
                    self.waited = 0;
                    seed.fetch(piece);
                    self.have[piece as usize / 8] |= 0x80 >> (piece % 8);
                    self.suggested.retain(|p| *p != piece);
                    self.requested.remove(&piece);
                    self.received += 1;
                    break;
                }
            }
        }
        while self.requested.len() < 12
            && self.received as usize + self.requested.len() < SMALL as usize
        {
            if self.batch.is_empty() {
                self.pick(if self.received > 40 { 32 } else { 1 });
            }
            let piece = self.batch.pop_front().unwrap();
            self.requested.insert(piece);
            seed.suggest(self, Some(piece));
        }
    }
}

/// Serves a whole torrent to `count` peers whose speeds change at random. Returns how many pieces were fetched, and how
/// many were picked at random.
fn serve_small_pieces(count: u64, dice: u64) -> (u32, u32) {
    let (mut seed, mut dice) = (Small::new(), dice);
    let mut peers: Vec<Fast> = (1..=count).map(Fast::new).collect();
    peers.iter_mut().for_each(|peer| seed.suggest(peer, None));
    let mut speeds = vec![1; peers.len()];
    for round in 0.. {
        if peers.iter().all(|peer| peer.received == SMALL) {
            break;
        }
        seed.now += Duration::from_millis(2);
        for (peer, speed) in peers.iter_mut().zip(&mut speeds) {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if round % 64 == 0 {
                *speed = 4 + (dice >> 33) % 5;
            }
            if (dice >> 40) % 8 < *speed {
                peer.advance(&mut seed);
            }
        }
    }
    (seed.fetched, peers.iter().map(|peer| peer.picked_at_random).sum())
}

#[test]
fn a_fast_peer_of_small_pieces_picks_almost_none_at_random() {
    let (fetched, random) = serve_small_pieces(1, 1);
    assert!(random <= 2, "{random} picked at random");
    assert!(fetched <= SMALL + 2, "{fetched} for {SMALL}");
}

#[test]
fn four_fast_peers_of_small_pieces_share_one_scan() {
    // Each peer is as fast as the others at times, and half as fast at others. Without holding the next windows back,
    // twice the payload is fetched.
    for dice in 1..=8 {
        let (fetched, random) = serve_small_pieces(4, dice);
        assert!(fetched <= SMALL * 102 / 100, "{fetched} for {SMALL}");
        assert!(random <= 8, "{random} picked at random");
    }
}

#[test]
fn eight_peers_share_one_scan_of_a_torrent_larger_than_memory() {
    for capacity in [24, 48, 96] {
        let mut seed = Seed::new(capacity);
        let mut leechers: Vec<_> = (1..=8).map(Leecher::new).collect();
        seed.serve(&mut leechers);
        let fetched = seed.fetched.len();
        assert!(fetched <= WINDOWS as usize * 110 / 100, "{fetched} for {WINDOWS} in {capacity}");
    }
}

#[test]
fn peers_that_get_pieces_from_each_other_get_no_suggestions() {
    let mut suggester = Suggester::new(1000, MIB);
    let (mut have, now) = (vec![0; 125], Instant::now());
    assert_eq!(suggester.on_request(1, None, Have::of(&have), 48 * MIB, now).pieces.len(), 16);
    for piece in 0..8 {
        suggester.on_request(1, Some(piece), Have::of(&have), 48 * MIB, now);
    }
    // The requested pieces arrived, and as many again from other peers.
    have[..1].fill(0xff);
    have[50..51].fill(0xff);
    let suggested = |suggester: &mut Suggester, n| {
        suggester.on_request(1, Some(n), Have::of(&have), 48 * MIB, now).pieces
    };
    assert!((8..40).all(|n| suggested(&mut suggester, n).is_empty()));
}

#[test]
fn slow_peers_share_the_scans_of_faster_peers() {
    let mut seed = Seed::new(48);
    let slower = |n| Leecher { interval: usize::try_from(n).unwrap(), ..Leecher::new(n) };
    let mut leechers: Vec<_> = (1..=8).map(slower).collect();
    seed.serve(&mut leechers);
    // One scan after the other, each as fast as the fastest remaining peer: 1 + 1/2 + … + 1/8 times the payload, where
    // separate peers would need eight times. A little more here, because nothing waits for the peers that are behind.
    let fetched = seed.fetched.len();
    assert!(fetched <= WINDOWS as usize * 31 / 10, "{fetched} for {WINDOWS}");
}

#[test]
fn a_late_peer_joins_the_scan_and_gets_the_beginning_on_the_next_round() {
    let mut seed = Seed::new(48);
    let (mut first, mut late) = (Leecher::new(1), Leecher::new(2));
    for piece in 0..128 {
        first.receive(piece);
        seed.suggester.add_window(piece, 48);
        seed.read(piece);
    }
    seed.suggester.next_window = 128;
    let before = seed.fetched.len();
    late.have[20] = 0xff;
    seed.serve(&mut [first, late]);
    // Half of the torrent for both peers, and the other half for one, except the part that was in memory.
    let fetched = seed.fetched.len() - before;
    assert!(fetched <= WINDOWS as usize * 105 / 100, "{fetched}");
}

#[test]
fn an_isolated_window_in_memory_is_not_suggested() {
    let mut suggester = Suggester::new(256, MIB);
    for window in [90, 40, 41] {
        suggester.add_window(window, 48);
    }
    let suggested =
        suggester.on_request(1, None, Have::of(&[0; 32]), 48 * MIB, Instant::now()).pieces;
    assert_eq!(suggested, [[40].to_vec(), (0..15).collect()].concat());
}

#[test]
fn a_peer_that_ignores_suggestions_gets_no_more_and_no_prefetch() {
    let mut suggester = Suggester::new(10_000, MIB);
    let have = vec![0; 1250];
    let request = |n: u32| {
        suggester.on_request(1, Some(n * 37 % 10_000), Have::of(&have), 48 * MIB, Instant::now())
    };
    let all: Vec<Suggestions> = (0..2000).map(request).collect();
    let last = all.iter().rposition(|suggestions| !suggestions.pieces.is_empty());
    assert!(last.is_some_and(|n| n < 100), "{last:?}");
    assert!(all.iter().all(|suggestions| suggestions.prefetch.is_empty()));
}

#[test]
fn small_pieces_are_suggested_by_window_up_to_the_remembered_number() {
    let mut suggester = Suggester::new(1000, 256 << 10);
    let mut have = vec![0; 125];
    have[0] = 0b0100_0000;
    let suggestions = suggester.on_request(1, None, Have::of(&have), 48 * MIB, Instant::now());
    // The first pieces of five windows behind, because the peer may take the pieces between them.
    assert_eq!(suggestions.pieces, [vec![0], (2..=12).collect(), vec![16, 20, 24, 28]].concat());
    let mut suggester = Suggester::new(1_000_000, 16 << 10);
    let suggestions =
        suggester.on_request(1, None, Have::of(&[0; 125_000]), 48 * MIB, Instant::now());
    assert_eq!(suggestions.pieces, (0..16).collect::<Vec<_>>());
}

#[test]
fn complete_peers_and_invalid_requests_are_handled() {
    let mut suggester = Suggester::new(100, 4 * MIB);
    let now = Instant::now();
    assert!(suggester.on_request(1, None, Have::of(&[0xff; 13]), 48 * MIB, now).pieces.is_empty());
    assert_eq!(
        suggester.on_request(2, Some(u32::MAX), Have::of(&[]), 48 * MIB, now).pieces,
        [0, 1, 2, 3]
    );
    suggester.remove_peer(2);
    suggester.remove_peer(7);
    // The last window of the torrent is shorter.
    let mut suggester = Suggester::new(5, 512 << 10);
    assert_eq!(
        suggester.on_request(1, None, Have::of(&[0]), 48 * MIB, now).pieces,
        [0, 1, 2, 3, 4]
    );
}

#[test]
fn a_search_skips_what_is_in_memory_and_what_the_peer_has() {
    // 100,000 windows. The peer lacks only the last two, and then the first 4,000 that are all in memory.
    let windows = 100_000;
    let mut suggester = Suggester::new(windows, MIB);
    let mut have = vec![0xff; windows as usize / 8];
    let last = have.len() - 1;
    have[last] = 0b1111_1100;
    have[..500].fill(0);
    (0..4000).for_each(|window| suggester.add_window(window, 4000));
    for round in 1..=100 {
        suggester.next_window = 96_000 * (round % 2);
        let mut peer = Peer::default();
        let found = suggester.take_new_windows(&mut peer, Have::of(&have), 3);
        assert!(found.len() <= 2);
        found.iter().for_each(|window| assert!(suggester.listed.remove(*window)));
    }
    let steps = suggester.searched.get();
    assert!(steps <= 100 * 8, "{steps} steps");
}

proptest::proptest! {
    #[test]
    fn the_missing_pieces_of_a_peer_are_found_word_by_word(
        bits in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
        (start, len) in (0u32..400, 0u32..=64),
    ) {
        let have = Have::of(&bits);
        let naive = (0..len).filter(|n| !have.has(start + n)).fold(0u64, |mask, n| mask | 1 << n);
        proptest::prop_assert_eq!(have.missing(start..start + len), naive);
        let first = (start..start + 3 * len).find(|piece| !have.has(*piece));
        proptest::prop_assert_eq!(have.next_missing(start, start + 3 * len), first);
    }

    #[test]
    fn a_search_finds_the_windows_that_looking_at_each_finds(
        pieces in 1u32..700,
        piece_len in proptest::sample::select(vec![64 << 10, 300_000, MIB, 5 * MIB]),
        seen in proptest::collection::vec(proptest::sample::select(vec![0u8, 0xff, 0x10, 0xfe]), 88),
        listed in proptest::collection::vec(0u32..700, 0..700),
        (count, start) in (0usize..20, 0u32..700),
    ) {
        let mut suggester = Suggester::new(pieces, piece_len);
        let windows = pieces.div_ceil(suggester.per_window);
        listed.iter().for_each(|window| _ = suggester.listed.insert(window % windows));
        suggester.next_window = start % windows;
        let (peer, have) = (&mut Peer::default(), Have::of(&seen));
        let fits = |w: &u32| !suggester.listed.contains(*w) && suggester.lacks_window(have, *w);
        // A new peer starts at the first window, if it lacks it.
        let from = if fits(&0) { 0 } else { suggester.next_window };
        let all = (0..windows).map(|n| (from + n) % windows);
        let expected: Vec<u32> = all.filter(fits).take(count).collect();
        proptest::prop_assert_eq!(suggester.take_new_windows(peer, have, count), expected);
    }

    #[test]
    fn suggestions_are_pieces_that_the_peer_lacks_and_memory_is_bounded(
        pieces in 1u32..2000,
        piece_len in 1u64..20_000_000,
        capacity in 0u64..200 * MIB,
        requests in proptest::collection::vec((0u64..5, proptest::option::of(0u32..4000)), 1..300),
        seen in proptest::collection::vec(proptest::prelude::any::<u8>(), 250),
    ) {
        let mut suggester = Suggester::new(pieces, piece_len);
        let now = Instant::now();
        for (peer, piece) in requests {
            let suggestions = suggester.on_request(peer, piece, Have::of(&seen), capacity, now);
            proptest::prop_assert!(suggestions.pieces.len() <= MAX_REMEMBERED as usize);
            for piece in &suggestions.pieces {
                proptest::prop_assert!(*piece < pieces && !Have::of(&seen).has(*piece));
            }
            let windows = suggester.windows_in(capacity).max(MAX_REMEMBERED as usize);
            proptest::prop_assert!(suggester.recent.len() <= windows);
            proptest::prop_assert_eq!(suggester.recent.len() + suggester.pending.len(), suggester.listed.len());
            for state in suggester.peers.values() {
                proptest::prop_assert!(state.requested.len() <= MAX_REQUESTED_WINDOWS && state.suggested.len() <= MAX_REMEMBERED as usize);
            }
        }
    }
}
