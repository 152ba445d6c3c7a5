//! Both paths allocate nothing per frame once their buffers, lists and tables are there, and many changes of the
//! tables copy these no oftener than one does.

mod traffic;

use std::hint::black_box;
use std::time::Instant;

use traffic::Bed;
use vswitchd_switch::fdb::{Limits, Place};
use vswitchd_switch::switch::Switch;
use vswitchd_switch::wire::{MacAddr, Vni};

const BATCHES: usize = 100;

#[test]
fn counter_counts() {
    let counted = allocation_counter::measure(|| drop(black_box(Box::new(0_u64))));
    assert_eq!(counted.count_total, 1, "the counting allocator is not in use");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test has to begin at some moment")]
fn nothing_per_frame() {
    let mut bed = Bed::new(Instant::now());
    for scenario in traffic::scenarios() {
        bed.check(&scenario);
        let counted = allocation_counter::measure(|| {
            for _ in 0..BATCHES {
                bed.check(&scenario);
            }
        });
        let frames = BATCHES as u64 * u64::from(scenario.frames);
        let (path, name) = (scenario.path(), scenario.name);
        assert_eq!(counted.count_total, 0, "allocations for {frames} frames of {path}: {name}");
    }
}

#[test]
fn changes_made_together_are_published_once() -> Result<(), Box<dyn std::error::Error>> {
    let vni = Vni::new(42).ok_or("24 bits")?;
    let station = |number: u16| {
        let [high, low] = number.to_be_bytes();
        MacAddr([2, 0, 0, 0, high, low])
    };
    let switch = Switch::new("192.0.2.1:4789".parse()?, Limits::default());
    let peer = switch.add_peer(vni, "192.0.2.2:4789".parse()?)?;
    switch.apply(|changes| {
        (0..1_000).try_for_each(|number| changes.announce(vni, station(number), &[], Place::Vtep(peer)))
    })?;
    // Taking something out of a table allocates nothing, so what is counted is publication.
    let one = allocation_counter::measure(|| assert!(switch.withdraw(vni, station(0))));
    let many = allocation_counter::measure(|| {
        switch.apply(|changes| (1..=500).for_each(|number| assert!(changes.withdraw(vni, station(number)))));
    });
    assert!(one.count_total > 0, "the counting allocator is not in use");
    assert_eq!(many.count_total, one.count_total, "allocations for 500 changes, and for one");
    Ok(())
}
