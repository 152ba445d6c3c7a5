//! Random traffic against a plain model: which task has which flow, in maps.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use vswitchd_switch::balance::{Task, TaskState};

use crate::frames::{ACK, Family, Numbers, SYN, V4, V6, Way};
use crate::world::{At, Out, VIP, World, service, task};

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    /// The client at a port sends a segment or datagram.
    Ask { client: u8, vip: u8, flow: Flow },
    /// A station behind the peer, or at a port, sends one to a client.
    Answer { from: u8, client: u8, flow: Flow },
    /// The service gets these tasks, draining or not.
    Serve { vip: u8, tasks: BTreeMap<u8, bool> },
}

/// What tells flows between two addresses apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flow {
    family: Family,
    tcp: bool,
    port: u16,
}

impl Flow {
    fn frame(self, from: u8, to: u8, answer: bool) -> Vec<u8> {
        let ports = if answer { [80, self.port] } else { [self.port, 80] };
        let way = Way(self.family, from, to);
        if self.tcp {
            way.tcp(ports, Numbers { flags: ACK, sequence: 9, acknowledgment: 8 }, b"segment")
        } else {
            way.udp(ports, b"datagram")
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let flow = (any::<bool>(), any::<bool>(), 1..4_u16).prop_map(|(six, tcp, port)| Flow {
        family: if six { V6 } else { V4 },
        tcp,
        port,
    });
    let vip = || prop_oneof![Just(VIP), Just(101)];
    let tasks = proptest::collection::btree_map(2..6_u8, any::<bool>(), 0..4);
    let step = prop_oneof![
        6 => (1..3_u8, vip(), flow.clone()).prop_map(|(client, vip, flow)| Step::Ask { client, vip, flow }),
        6 => (2..6_u8, 1..3_u8, flow).prop_map(|(from, client, flow)| Step::Answer { from, client, flow }),
        1 => (vip(), tasks).prop_map(|(vip, tasks)| Step::Serve { vip, tasks }),
    ];
    vec(step, 1..80)
}

/// Flows by client and virtual address.
#[derive(Default)]
struct Model {
    tasks: BTreeMap<u8, BTreeMap<u8, bool>>,
    flows: BTreeMap<(u8, u8, Flow), u8>,
}

impl Model {
    /// Checks where a client's packet went, and takes note.
    fn asked(&mut self, client: u8, vip: u8, flow: Flow, out: &Out) -> Result<(), TestCaseError> {
        let (at, frame) = match &out[..] {
            [(at, frame)] => (*at, frame),
            _ => return Err(TestCaseError::fail(format!("{} frames for one", out.len()))),
        };
        let tasks = self.tasks.get(&vip).cloned().unwrap_or_default();
        let taken = |task: u8| {
            let others = [VIP, 101].into_iter().filter(|&other| other != vip);
            others.into_iter().any(|other| self.flows.get(&(client, other, flow)) == Some(&task))
        };
        let may: Vec<u8> = match self.flows.get(&(client, vip, flow)) {
            Some(&known) => vec![known],
            None => {
                let live = tasks.iter().filter(|&(_, &draining)| !draining).map(|(&task, _)| task);
                live.filter(|&task| !taken(task)).collect()
            }
        };
        if may.is_empty() {
            // Told so, by the service: TCP at least, ICMP as long as it may.
            prop_assert_eq!((at, &frame[6..12]), (At::Port(client), &[2, 0, 0, 0, 0, vip][..]));
            return Ok(());
        }
        let task = may.into_iter().find(|&task| {
            let want =
                if task == client { flow.frame(vip, client, false) } else { flow.frame(client, task, false) };
            let place = if task <= 2 { At::Port(task) } else { At::Peer };
            (place, &want) == (at, frame)
        });
        let Some(task) = task else { return Err(TestCaseError::fail(format!("{frame:02x?} at {at:?}"))) };
        self.flows.insert((client, vip, flow), task);
        Ok(())
    }

    /// The virtual address that an answer has to come from, if it is one.
    fn answered(&self, from: u8, client: u8, flow: Flow) -> Option<u8> {
        let of = [VIP, 101].into_iter().find(|&vip| self.flows.get(&(client, vip, flow)) == Some(&from));
        of.filter(|_| from != client)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn traffic_goes_where_the_model_says(steps in steps()) {
        let (mut world, mut model) = (World::new(&[]), Model::default());
        world.serve(service(101, &[]));
        for step in steps {
            match step {
                Step::Ask { client, vip, flow } => {
                    // Messages about UDP are limited; time fills the bucket up.
                    world.now += std::time::Duration::from_secs(1);
                    let out = world.send(client, &flow.frame(client, vip, false));
                    model.asked(client, vip, flow, &out)?;
                }
                Step::Answer { from, client, flow } if from != client => {
                    let frame = flow.frame(from, client, true);
                    let out = if from <= 2 { world.send(from, &frame) } else { world.receive(&frame) };
                    let want = match model.answered(from, client, flow) {
                        Some(vip) => flow.frame(vip, client, true),
                        None => frame,
                    };
                    prop_assert_eq!(out, [(At::Port(client), want)]);
                }
                Step::Answer { .. } => {}
                Step::Serve { vip, tasks } => {
                    let of = |(&station, &draining): (&u8, &bool)| -> Task {
                        task(station, if draining { TaskState::Draining } else { TaskState::Live })
                    };
                    let mut spec = service(vip, &[]);
                    spec.tasks = tasks.iter().map(of).collect();
                    world.serve(spec);
                    model.flows.retain(|&(_, of, _), task| of != vip || tasks.contains_key(task));
                    model.tasks.insert(vip, tasks);
                    world.turn();
                }
            }
            prop_assert_eq!(world.switch.report().flows.flows, model.flows.len() as u64);
        }
    }

    /// Bytes that nobody would send: whatever they are, the switch stays whole, and every buffer comes back.
    #[test]
    fn hostile_bytes_to_a_service(
        family in prop_oneof![Just(V4), Just(V6)],
        at in vec((14..200_usize, any::<u8>()), 1..6),
        cut in 14..240_usize,
        kind in 0..5,
    ) {
        let mut world = World::new(&[2, 3]);
        let way = Way(family, 1, VIP);
        let inner = Way(family, VIP, 1).udp([80, 4_000], &[3; 90]);
        let mut frame = match kind {
            0 => way.tcp([4_000, 80], Numbers { flags: SYN, ..Numbers::default() }, &[1; 120]),
            1 => way.udp([4_000, 80], &[1; 120]),
            2 => way.no_port(&inner),
            3 => way.udp_fragments([4_000, 80], 7, &[1; 120])[0].clone(),
            _ => way.echo(false, 4),
        };
        world.send(1, &way.udp([4_000, 80], b""));
        for (place, byte) in at {
            if let Some(at) = frame.get_mut(place) {
                *at = byte;
            }
        }
        frame.truncate(cut);
        prop_assert!(world.send(1, &frame).len() <= 1);
        // The same from a task.
        let (to, from) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 3]);
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&from);
        prop_assert!(world.receive(&frame).len() <= 1);
    }
}
