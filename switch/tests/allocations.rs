//! Both paths allocate nothing per frame once their buffers, lists and tables are there.

mod traffic;

use std::hint::black_box;
use std::time::Instant;

use traffic::Bed;

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
