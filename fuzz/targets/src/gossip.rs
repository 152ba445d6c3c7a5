//! What members send each other, as one who holds the keys might forge it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vswitchd_gossip::cluster::{Signer, Verifier};
use vswitchd_gossip::engine::{Authority, Engine, Settings};
use vswitchd_gossip::{KIND_MESSAGE, KIND_SWIM, NodeId, Now, Peer, TableId};

/// Signs, and takes every signature: all of a record's fields are then the input's.
struct Anybody;

impl Signer for Anybody {
    fn sign(&self, _: &[u8]) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}

impl Verifier for Anybody {
    fn verify(&self, _: NodeId, _: &[u8], _: &[u8]) -> bool {
        true
    }
}

const OURS: TableId = TableId::owned(1);

fn engine(node: u8, now: Now) -> Engine {
    let me = Peer { node: NodeId([node; 16]), addr: ([10, 0, 0, node], 7946).into(), life: 1, renewal: 0 };
    let authority = Authority { signer: Arc::new(Anybody), verifier: Arc::new(Anybody) };
    let settings = Settings { me, seeds: vec![([10, 0, 0, 1], 7946).into()], random: node.into() };
    Engine::new(settings, authority, None, now).expect("nothing was saved")
}

/// Carries what two engines say to each other, until both are silent.
fn converse(engines: &mut [Engine; 2], now: Now) {
    for _ in 0..64 {
        let mut silent = true;
        for from in 0..2 {
            let sender = engines[from].me();
            for transmit in engines[from].drain(now).transmits {
                let to = &mut engines[1 - from];
                if transmit.to == to.me().addr {
                    silent = false;
                    to.handle_datagram(now, (sender.node, sender.addr), transmit.kind, &transmit.bytes).ok();
                }
            }
        }
        if silent {
            break;
        }
    }
}

/// A member sends arbitrary datagrams: chunks of `data`, each a length, a kind and that many bytes. Nothing panics,
/// what we say of ourselves stays, time goes on, and memory can be written and read.
pub fn gossip(data: &[u8]) {
    let base = Instant::now();
    let at = |ms: u64| Now { at: base + Duration::from_millis(ms), wall_ms: 1_800_000_000_000 + ms };
    let mut engines = [engine(1, at(0)), engine(2, at(0))];
    engines[0].set_owned(OURS, "ours", Some(vec![1])).expect("it fits");
    for ms in [0, 40, 80] {
        engines.iter_mut().for_each(|engine| engine.handle_timeout(at(ms)));
        converse(&mut engines, at(ms));
    }
    let [mut engine, member] = engines;
    let sender = (member.me().node, member.me().addr);
    let (mut rest, mut ms) = (data, 100);
    while let [length, kind, tail @ ..] = rest {
        let (bytes, after) = tail.split_at(tail.len().min(usize::from(*length) * 8));
        rest = after;
        ms += 10;
        let result = match kind % 3 {
            0 => engine.handle_datagram(at(ms), sender, KIND_SWIM, bytes),
            1 => engine.handle_datagram(at(ms), sender, KIND_MESSAGE, bytes),
            _ => engine.handle_bulk(at(ms), sender.0, bytes),
        };
        result.ok();
        engine.handle_timeout(at(ms));
        engine.drain(at(ms));
    }
    let own = engine.me().node;
    assert_eq!(engine.owned_value(own, OURS, "ours"), Some(&[1][..]), "our own record is gone");
    assert!(engine.next_deadline().is_some(), "gossip has stopped");
    let saved = engine.snapshot();
    let settings = Settings { me: engine.me(), seeds: Vec::new(), random: 1 };
    let authority = Authority { signer: Arc::new(Anybody), verifier: Arc::new(Anybody) };
    Engine::new(settings, authority, Some(&saved), at(ms)).expect("a snapshot can be read back");
}
