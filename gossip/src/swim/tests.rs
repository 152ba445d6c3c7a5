use super::*;

fn peer(node: u64) -> Peer {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&node.to_be_bytes());
    Peer { node: NodeId(id), addr: ([10, 0, 0, 1], 7946).into(), life: 1, renewal: 0 }
}

#[expect(clippy::disallowed_methods, reason = "any origin will do")]
fn origin() -> Instant {
    Instant::now()
}

/// A machine that knows these members.
fn swim(me: u64, members: impl Iterator<Item = u64>, now: Instant) -> Swim {
    let mut swim = Swim::new(peer(me), me);
    for member in members {
        swim.apply(now, Member::new(peer(member), 0, State::Alive));
    }
    swim
}

/// Everything that `from` says to `to` in the next second, in which nobody else speaks.
fn tell(from: &mut Swim, to: &mut Swim, now: Instant) -> usize {
    let mut refused = 0;
    for ms in (0..1000).step_by(100) {
        let at = now + Duration::from_millis(ms);
        from.handle_timeout(at);
        for say in from.says().collect::<Vec<_>>() {
            if let Say::Swim(_, bytes) = say {
                to.hear(at, from.me().node);
                refused += usize::from(to.handle(at, from.me().node, &bytes).is_err());
            }
        }
    }
    refused
}

#[test]
fn nobody_dies_on_anothers_word_if_it_answers_and_all_do_who_are_silent() {
    let now = origin();
    let mut victim = swim(1, [2, 3, 4].into_iter(), now);
    let mut liar = swim(2, [1, 3, 4].into_iter(), now);
    for buried in [3, 4] {
        liar.apply(now, Member::new(peer(buried), 0, State::Down));
    }
    tell(&mut liar, &mut victim, now);
    assert_eq!(victim.members(), [peer(2), peer(3), peer(4)], "believed");
    let asked: Vec<Say> = victim.says().filter(|say| matches!(say, Say::Ask(..))).collect();
    assert!(asked.is_empty(), "questions come with time");
    for ms in (900..2500).step_by(20) {
        let at = now + Duration::from_millis(ms);
        victim.hear(at, peer(2).node);
        victim.hear(at, peer(3).node);
        victim.handle_timeout(at);
    }
    assert_eq!(victim.members(), [peer(2), peer(3)]);
}

#[test]
fn invented_members_neither_stop_it_nor_grow_it_beyond_the_limit() {
    let now = origin();
    let mut victim = swim(1, [2, 3].into_iter(), now);
    let mut inventor = SwimCodec::new(Arc::new(Mutex::new(View::new(peer(2)))));
    let mut refused = 0;
    for round in 0..600 {
        let at = now + Duration::from_millis(10 * round);
        let mut bytes = Vec::new();
        let header =
            foca::Header { src: peer(2), src_incarnation: 0, dst: peer(1), message: Message::Gossip };
        inventor.encode_header(&header, &mut bytes).unwrap();
        bytes.extend(16_u16.to_be_bytes());
        for n in 0..16 {
            let invented = Member::new(peer(1000 + round * 16 + n), 0, State::Alive);
            inventor.encode_member(&invented, &mut bytes).unwrap();
        }
        victim.hear(at, peer(2).node);
        refused += usize::from(victim.handle(at, peer(2).node, &bytes).is_err());
    }
    let known = victim.view().known;
    assert!(known > MEMBER_LIMIT / 2 && refused > 0, "the limit was not reached: {known}, {refused}");
    // One datagram's worth may be under way when the limit is reached.
    assert!(known < MEMBER_LIMIT + 64, "{known}");
    assert!(victim.members().contains(&peer(3)));
    let after = now + Duration::from_secs(10);
    victim.says().for_each(drop);
    victim.handle_timeout(after);
    assert!(victim.says().count() > 0, "it probes no more");
}

#[test]
fn a_life_moves_past_any_that_is_claimed_but_in_steps() {
    let (now, second) = (origin(), SUPERSEDE_EVERY);
    let mut swim = swim(1, [2].into_iter(), now);
    assert!(!swim.supersede(now, 0), "of no later one");
    assert!(swim.supersede(now, 1) && swim.me().life == 2);
    assert!(!swim.supersede(now, 900), "too soon");
    assert!(swim.supersede(now + second, 900) && swim.me().life == 901);
    assert!(swim.supersede(now + 2 * second, u64::MAX) && swim.me().life == 901 + LIFE_STEP);
    let truth = 901 + 3 * LIFE_STEP;
    let steps = (3..9).take_while(|n| swim.supersede(now + *n * second, truth)).count();
    assert_eq!((steps, swim.me().life), (3, truth + 1));
}

#[test]
fn a_datagram_in_anothers_name_is_refused() {
    let now = origin();
    let mut victim = swim(1, [2, 3].into_iter(), now);
    let mut other = swim(3, [1].into_iter(), now);
    other.with(now, |foca, wishes| foca.announce(peer(1), wishes)).unwrap();
    let said = other.says().find_map(|say| match say {
        Say::Swim(_, bytes) => Some(bytes),
        Say::Ask(..) => None,
    });
    assert_eq!(victim.handle(now, peer(2).node, &said.unwrap()), Err(Refused::Impostor));
    assert_eq!(victim.handle(now, peer(2).node, b"no message"), Err(Refused::Malformed));
}
