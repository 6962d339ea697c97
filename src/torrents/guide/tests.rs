//! Simulated peers that follow suggestions over a torrent.

use super::{peer::ASKED, *};

/// A simplified libtorrent peer. It requests eight windows ahead: suggested ones first, the newest of them before
/// others, otherwise random ones.
struct Leecher {
    number: u64,
    have: Vec<u8>,
    suggested: Vec<u32>,
    asked: VecDeque<u32>,
    dice: u32,
    /// The peer receives a piece in every turn that is a multiple of this.
    pace: usize,
}

/// A seed whose memory holds the `room` windows used last.
struct Seed {
    guide: Guide,
    room: usize,
    memory: VecDeque<u32>,
    fetched: Vec<u32>,
    ahead: u64,
    now: Instant,
}

const WINDOWS: u32 = 256;

impl Leecher {
    fn new(number: u64) -> Self {
        let have = vec![0; WINDOWS as usize / 8];
        let dice = u32::try_from(number).unwrap() * 7919 + 1;
        Self { number, have, suggested: Vec::new(), asked: VecDeque::new(), dice, pace: 1 }
    }

    fn has(&self, piece: u32) -> bool {
        Have(&self.have).has(piece)
    }

    fn gets(&mut self, piece: u32) {
        self.have[piece as usize / 8] |= 0x80 >> (piece % 8);
        self.suggested.retain(|p| *p != piece);
        self.asked.retain(|p| *p != piece);
    }

    fn is_done(&self) -> bool {
        Have(&self.have).count() == WINDOWS
    }

    fn told(&mut self, pieces: Vec<u32>) {
        for piece in pieces.into_iter().rev() {
            self.suggested.insert(0, piece);
        }
        self.suggested.truncate(REMEMBERED as usize);
    }

    fn next(&mut self) -> Option<u32> {
        self.dice = self.dice.wrapping_mul(1_103_515_245).wrapping_add(12345);
        let start = (self.dice >> 8) % WINDOWS;
        let wants = |p: &u32| !self.has(*p) && !self.asked.contains(p);
        let advised = self.suggested.iter().copied().find(wants);
        advised.or_else(|| (0..WINDOWS).map(|n| (start + n) % WINDOWS).find(wants))
    }
}

impl Seed {
    fn new(room: usize) -> Self {
        let guide = Guide::new(WINDOWS, MIB);
        let now = Instant::now();
        Self { guide, room, memory: VecDeque::new(), fetched: Vec::new(), ahead: 0, now }
    }

    fn advise(&mut self, leecher: &mut Leecher, piece: Option<u32>) {
        self.now += Duration::from_millis(10);
        let room = self.room as u64 * MIB;
        let advice = self.guide.asks(leecher.number, piece, Have(&leecher.have), room, self.now);
        assert!(advice.pieces.len() <= REMEMBERED as usize);
        self.ahead += advice.ahead.iter().map(|run| (run.end - run.start) / MIB).sum::<u64>();
        leecher.told(advice.pieces);
    }

    /// Reads a piece without waiting for peers that are behind.
    fn reads(&mut self, piece: u32) {
        self.guide.fetches(piece);
        match self.memory.iter().position(|p| *p == piece) {
            Some(n) => drop(self.memory.remove(n)),
            None => self.fetched.push(piece),
        }
        self.memory.push_back(piece);
        while self.memory.len() > self.room {
            self.memory.pop_front();
        }
    }

    /// Serves one piece at a time to each peer in turn, until all peers have everything.
    fn serve(&mut self, leechers: &mut [Leecher]) {
        leechers.iter_mut().for_each(|l| self.advise(l, None));
        let mut turn = 0;
        while leechers.iter().any(|l| !l.is_done()) {
            turn += 1;
            for leecher in leechers.iter_mut().filter(|l| turn % l.pace == 0) {
                while leecher.asked.len() < 8
                    && let Some(piece) = leecher.next()
                {
                    leecher.asked.push_back(piece);
                    self.advise(leecher, Some(piece));
                    self.reads(piece);
                }
                if let Some(piece) = leecher.asked.front().copied() {
                    leecher.gets(piece);
                }
            }
        }
    }
}

#[test]
fn one_peer_is_led_from_the_first_byte_to_the_last_and_what_follows_is_fetched_for_it() {
    let mut seed = Seed::new(48);
    seed.serve(&mut [Leecher::new(1)]);
    assert_eq!(seed.fetched, (0..WINDOWS).collect::<Vec<_>>());
    assert!(seed.ahead > u64::from(WINDOWS) * 3 / 4, "{}", seed.ahead);
}

/// A fast libtorrent peer with pieces of 256 KiB. Twelve pieces are on their way to it, and new suggestions arrive
/// among them. It picks the newest suggestion that is free, and also the 8 MiB around it once it knows that it is fast.
struct Fast {
    number: u64,
    have: Vec<u8>,
    suggested: VecDeque<u32>,
    asked: HashSet<u32>,
    batch: VecDeque<u32>,
    line: VecDeque<Result<u32, Vec<u32>>>,
    dice: u32,
    got: u32,
    strayed: u32,
    waited: u32,
}

/// A seed of such a torrent: the pieces in its memory, and how many pieces it fetched.
struct Small {
    guide: Guide,
    memory: VecDeque<u32>,
    fetched: u32,
    now: Instant,
}

const SMALL: u32 = 1920;
const SMALL_ROOM: u64 = 40 * MIB;

impl Small {
    fn new() -> Self {
        let guide = Guide::new(SMALL, 256 << 10);
        Self { guide, memory: VecDeque::new(), fetched: 0, now: Instant::now() }
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

    fn advise(&mut self, peer: &mut Fast, piece: Option<u32>) {
        let advice = self.guide.asks(peer.number, piece, Have(&peer.have), SMALL_ROOM, self.now);
        for run in advice.ahead {
            (run.start >> 18..run.end >> 18)
                .for_each(|piece| self.fetch(u32::try_from(piece).unwrap()));
        }
        peer.line.push_back(Err(advice.pieces));
        peer.line.extend(piece.map(Ok));
    }
}

impl Fast {
    fn new(number: u64) -> Self {
        Self {
            number,
            have: vec![0; SMALL as usize / 8],
            suggested: VecDeque::new(),
            asked: HashSet::new(),
            batch: VecDeque::new(),
            line: VecDeque::new(),
            dice: u32::try_from(number).unwrap(),
            got: 0,
            strayed: 0,
            waited: 0,
        }
    }

    fn is_free(&self, piece: u32) -> bool {
        piece < SMALL && !Have(&self.have).has(piece) && !self.asked.contains(&piece)
    }

    fn pick(&mut self, batch: u32) {
        let told = self.suggested.iter().copied().find(|p| self.is_free(*p));
        let piece = told.unwrap_or_else(|| {
            self.dice = self.dice.wrapping_mul(1_103_515_245).wrapping_add(12345);
            let start = (self.dice >> 8) % SMALL;
            let mut all = (0..SMALL).map(|n| (start + n) % SMALL);
            self.strayed += 1;
            all.find(|p| self.is_free(*p)).unwrap()
        });
        let before = (piece.saturating_sub(batch - 1)..piece).rev();
        let start = before.take_while(|p| self.is_free(*p)).last().unwrap_or(piece);
        let batch: Vec<u32> = (start..start + batch).take_while(|p| self.is_free(*p)).collect();
        self.batch.extend(batch);
    }

    /// Receives what has arrived, and requests more.
    fn goes_on(&mut self, seed: &mut Small) {
        while let Some(came) = self.line.pop_front() {
            match came {
                Err(told) => {
                    told.into_iter().rev().for_each(|p| self.suggested.push_front(p));
                    self.suggested.truncate(REMEMBERED as usize);
                }
                Ok(piece) if seed.guide.is_pending(piece) && self.waited < 150 => {
                    self.waited += 1;
                    self.line.push_front(came);
                    return;
                }
                Ok(piece) => {
                    self.waited = 0;
                    seed.fetch(piece);
                    self.have[piece as usize / 8] |= 0x80 >> (piece % 8);
                    self.suggested.retain(|p| *p != piece);
                    self.asked.remove(&piece);
                    self.got += 1;
                    break;
                }
            }
        }
        while self.asked.len() < 12 && self.got as usize + self.asked.len() < SMALL as usize {
            if self.batch.is_empty() {
                self.pick(if self.got > 40 { 32 } else { 1 });
            }
            let piece = self.batch.pop_front().unwrap();
            self.asked.insert(piece);
            seed.advise(self, Some(piece));
        }
    }
}

/// Serves a whole torrent to `count` peers whose speeds change at random. Returns how many pieces were fetched, and how
/// many were picked at random.
fn small_pieces_to(count: u64, dice: u64) -> (u32, u32) {
    let (mut seed, mut dice) = (Small::new(), dice);
    let mut peers: Vec<Fast> = (1..=count).map(Fast::new).collect();
    peers.iter_mut().for_each(|peer| seed.advise(peer, None));
    let mut speeds = vec![1; peers.len()];
    for turn in 0.. {
        if peers.iter().all(|peer| peer.got == SMALL) {
            break;
        }
        seed.now += Duration::from_millis(2);
        for (peer, speed) in peers.iter_mut().zip(&mut speeds) {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if turn % 64 == 0 {
                *speed = 4 + (dice >> 33) % 5;
            }
            if (dice >> 40) % 8 < *speed {
                peer.goes_on(&mut seed);
            }
        }
    }
    (seed.fetched, peers.iter().map(|peer| peer.strayed).sum())
}

#[test]
fn a_fast_peer_of_small_pieces_is_led_without_a_gap() {
    let (fetched, strayed) = small_pieces_to(1, 1);
    assert!(strayed <= 2, "{strayed} picked by chance");
    assert!(fetched <= SMALL + 2, "{fetched} for {SMALL}");
}

#[test]
fn four_fast_peers_of_small_pieces_are_led_together() {
    // Each peer is as fast as the others at times, and half as fast at others. Without holding the next windows back,
    // twice the payload is fetched.
    for dice in 1..=8 {
        let (fetched, strayed) = small_pieces_to(4, dice);
        assert!(fetched <= SMALL * 102 / 100, "{fetched} for {SMALL}");
        assert!(strayed <= 8, "{strayed} picked by chance");
    }
}

#[test]
fn eight_peers_get_by_one_scan_what_does_not_fit_in_memory() {
    for room in [24, 48, 96] {
        let mut seed = Seed::new(room);
        let mut leechers: Vec<_> = (1..=8).map(Leecher::new).collect();
        seed.serve(&mut leechers);
        let fetched = seed.fetched.len();
        assert!(fetched <= WINDOWS as usize * 110 / 100, "{fetched} for {WINDOWS} in {room}");
    }
}

#[test]
fn peers_that_get_pieces_from_each_other_are_left_to_themselves() {
    let mut guide = Guide::new(1000, MIB);
    let (mut have, now) = (vec![0; 125], Instant::now());
    assert_eq!(guide.asks(1, None, Have(&have), 48 * MIB, now).pieces.len(), 16);
    for piece in 0..8 {
        guide.asks(1, Some(piece), Have(&have), 48 * MIB, now);
    }
    // The requested pieces arrived, and as many again from other peers.
    have[..1].fill(0xff);
    have[50..51].fill(0xff);
    let told = |guide: &mut Guide, n| guide.asks(1, Some(n), Have(&have), 48 * MIB, now).pieces;
    assert!((8..40).all(|n| told(&mut guide, n).is_empty()));
}

#[test]
fn slow_peers_share_what_the_fast_ones_cost() {
    let mut seed = Seed::new(48);
    let pace = |n| Leecher { pace: usize::try_from(n).unwrap(), ..Leecher::new(n) };
    let mut leechers: Vec<_> = (1..=8).map(pace).collect();
    seed.serve(&mut leechers);
    // One scan after the other, each as fast as the fastest remaining peer: 1 + 1/2 + … + 1/8 times the payload, where
    // separate peers would need eight times. A little more here, because nothing waits for the peers that are behind.
    let fetched = seed.fetched.len();
    assert!(fetched <= WINDOWS as usize * 31 / 10, "{fetched} for {WINDOWS}");
}

#[test]
fn who_comes_late_joins_the_others_and_gets_the_beginning_on_the_next_round() {
    let mut seed = Seed::new(48);
    let (mut first, mut late) = (Leecher::new(1), Leecher::new(2));
    for piece in 0..128 {
        first.gets(piece);
        seed.guide.list(piece, 48);
        seed.reads(piece);
    }
    seed.guide.next = 128;
    let before = seed.fetched.len();
    late.have[20] = 0xff;
    seed.serve(&mut [first, late]);
    // Half of the torrent for both peers, and the other half for one, except the part that was in memory.
    let fetched = seed.fetched.len() - before;
    assert!(fetched <= WINDOWS as usize * 105 / 100, "{fetched}");
}

#[test]
fn a_window_by_itself_is_not_suggested_and_one_that_others_follow_is() {
    let mut guide = Guide::new(256, MIB);
    for window in [90, 40, 41] {
        guide.list(window, 48);
    }
    let told = guide.asks(1, None, Have(&[0; 32]), 48 * MIB, Instant::now()).pieces;
    assert_eq!(told, [[40].to_vec(), (0..15).collect()].concat());
}

#[test]
fn who_does_not_listen_is_left_alone_and_gets_nothing_fetched_ahead() {
    let mut guide = Guide::new(10_000, MIB);
    let have = vec![0; 1250];
    let told = |n: u32| guide.asks(1, Some(n * 37 % 10_000), Have(&have), 48 * MIB, Instant::now());
    let told: Vec<Advice> = (0..2000).map(told).collect();
    let last = told.iter().rposition(|advice| !advice.pieces.is_empty());
    assert!(last.is_some_and(|n| n < 100), "{last:?}");
    assert!(told.iter().all(|advice| advice.ahead.is_empty()));
}

#[test]
fn small_pieces_are_suggested_by_windows_and_no_more_than_are_remembered() {
    let mut guide = Guide::new(1000, 256 << 10);
    let mut have = vec![0; 125];
    have[0] = 0b0100_0000;
    let advice = guide.asks(1, None, Have(&have), 48 * MIB, Instant::now());
    // The first pieces of five windows behind, because the peer may take the pieces between them.
    assert_eq!(advice.pieces, [vec![0], (2..=12).collect(), vec![16, 20, 24, 28]].concat());
    let mut guide = Guide::new(1_000_000, 16 << 10);
    let advice = guide.asks(1, None, Have(&[0; 125_000]), 48 * MIB, Instant::now());
    assert_eq!(advice.pieces, (0..16).collect::<Vec<_>>());
}

#[test]
fn a_peer_that_has_everything_or_nothing_known_of_it_harms_nothing() {
    let mut guide = Guide::new(100, 4 * MIB);
    let now = Instant::now();
    assert!(guide.asks(1, None, Have(&[0xff; 13]), 48 * MIB, now).pieces.is_empty());
    assert_eq!(guide.asks(2, Some(u32::MAX), Have(&[]), 48 * MIB, now).pieces, [0, 1, 2, 3]);
    guide.forget(2);
    guide.forget(7);
    // The last window of the torrent is shorter.
    let mut guide = Guide::new(5, 512 << 10);
    assert_eq!(guide.asks(1, None, Have(&[0]), 48 * MIB, now).pieces, [0, 1, 2, 3, 4]);
}

proptest::proptest! {
    #[test]
    fn whatever_peers_ask_for_advice_is_what_they_lack_and_memory_is_bounded(
        pieces in 1u32..2000,
        piece_len in 1u64..20_000_000,
        room in 0u64..200 * MIB,
        asks in proptest::collection::vec((0u64..5, proptest::option::of(0u32..4000)), 1..300),
        seen in proptest::collection::vec(proptest::prelude::any::<u8>(), 250),
    ) {
        let mut guide = Guide::new(pieces, piece_len);
        let now = Instant::now();
        for (peer, piece) in asks {
            let advice = guide.asks(peer, piece, Have(&seen), room, now);
            proptest::prop_assert!(advice.pieces.len() <= REMEMBERED as usize);
            for piece in &advice.pieces {
                proptest::prop_assert!(*piece < pieces && !Have(&seen).has(*piece));
            }
            let windows = guide.windows_in(room).max(REMEMBERED as usize);
            proptest::prop_assert!(guide.recent.len() <= windows);
            proptest::prop_assert_eq!(guide.recent.len() + guide.pending.len(), guide.listed.len());
            for state in guide.peers.values() {
                proptest::prop_assert!(state.asked.len() <= ASKED && state.suggested.len() <= REMEMBERED as usize);
            }
        }
    }
}
