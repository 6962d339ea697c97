//! The reference model: random operations on a real writer, reader and catalog, compared with an array of flags.
//!
//! The bytes at each position are fixed (`byte`), so the model only stores which bytes were accepted, and which were
//! certainly durable: those before the last flush. A crash must keep at least the durable bytes, and must not add wrong
//! ones.

use std::ops::Range;

use proptest::prelude::*;

use super::{HUNG, Rig, byte};
use crate::error::Kind;

/// Four files and one pad, small enough that random ranges often overlap; chunks of up to 4000 bytes.
const FILES: [i64; 5] = [10_000, -1500, 3000, 900, 5000];
const LEN: u64 = 20_400;

#[derive(Debug, Clone)]
enum Op {
    Write(Range<u64>),
    Flush,
    Read(Range<u64>),
    FailPuts(u64, Kind),
    Crash,
}

fn range() -> impl Strategy<Value = Range<u64>> {
    (0..LEN, 0..6000u64).prop_map(|(start, len)| start..(start + len).min(LEN))
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop::sample::select(vec![Kind::Unavailable, Kind::NoSpace, Kind::Internal]);
    prop_oneof![
        8 => range().prop_map(Op::Write),
        1 => Just(Op::Flush),
        6 => range().prop_map(Op::Read),
        1 => (1..5u64, kind).prop_map(|(n, kind)| Op::FailPuts(n, kind)),
        1 => Just(Op::Crash),
    ]
}

fn flags(model: &mut [bool], range: &Range<u64>) -> Vec<usize> {
    let at = |pos| usize::try_from(pos).expect("small");
    (at(range.start)..at(range.end).min(model.len())).collect()
}

/// The state of each position. Padding counts as accepted from the start.
struct Model {
    accepted: Vec<bool>,
    flushed: Vec<bool>,
}

async fn run(ops: Vec<Op>) {
    let mut rig = Rig::new(&FILES, 4000, 64 << 10).await;
    assert_eq!(rig.row.len, LEN);
    let mut accepted = vec![false; usize::try_from(LEN).expect("small")];
    for pad in rig.store.layout().pads().iter() {
        flags(&mut accepted, &pad).into_iter().for_each(|i| accepted[i] = true);
    }
    let mut model = Model { flushed: accepted.clone(), accepted };
    for op in ops {
        rig = step(rig, &mut model, op).await;
    }
    rig.backend.fail_next_puts(0, Kind::Internal);
    rig.write(0..LEN);
    rig.writer.flush().await.expect("the writer is there");
    rig.check(0..LEN).await;
    rig.check_objects().await;
    let abandoned = rig.writer.stop(HUNG).await;
    assert_eq!((abandoned, rig.pressure.pool().held()), (0, 0));
}

async fn step(mut rig: Rig, model: &mut Model, op: Op) -> Rig {
    match op {
        Op::Write(range) => {
            rig.write(range.clone());
            for i in flags(&mut model.accepted, &range) {
                model.accepted[i] = true;
            }
        }
        Op::Flush => {
            rig.writer.flush().await.expect("the writer is there");
            model.flushed.clone_from(&model.accepted);
        }
        Op::Read(range) => {
            let is_accepted =
                flags(&mut model.accepted, &range).into_iter().all(|i| model.accepted[i]);
            match rig.reader.read_at(range.clone()).await {
                Ok(payload) => {
                    assert!(is_accepted, "{range:?} was read and never written");
                    rig.check_payload(range, &payload);
                }
                Err(e) => assert!(!is_accepted && e.kind() == Kind::NotFound, "{}", e.report()),
            }
        }
        Op::FailPuts(n, kind) => rig.backend.fail_next_puts(n, kind),
        Op::Crash => {
            rig = rig.crash().await;
            rig.check_objects().await;
            for (i, flag) in model.accepted.iter_mut().enumerate() {
                let pos = i as u64;
                let survived = rig.store.is_durable(pos..pos + 1);
                assert!(survived || !model.flushed[i], "byte {pos} was durable and is gone");
                assert!(*flag || !survived, "byte {pos} is durable and was never written");
                *flag = survived;
            }
            model.flushed.clone_from(&model.accepted);
        }
    }
    rig
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn random_operations_keep_every_accepted_byte_and_crashes_every_durable_one(
        ops in prop::collection::vec(op(), 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(run(ops));
    }
}

#[test]
fn the_bytes_of_the_model_differ_from_their_neighbours() {
    let same = (0..LEN).filter(|pos| byte(*pos) == byte(pos + 1)).count();
    assert!(same < 200, "{same}");
}
