//! What a frame costs in memory, without any system call: `cargo bench -p vswitchd-switch`.
//!
//! Times of `egress` and `ingress` are for one frame of a batch (a super-frame is one), its share of the batch and
//! the buffers' return included. The batch is copied in outside of the measurement, so it is in the cache as after
//! a read.

#[path = "../tests/traffic/mod.rs"]
mod traffic;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use etherparse::checksum::Sum16BitWords;
use traffic::{Bed, HERE, THERE, vni};
use vswitchd_crypto::envelope::SessionId;
use vswitchd_crypto::key::Key;
use vswitchd_crypto::open::Opener;
use vswitchd_crypto::seal::Sealer;
use vswitchd_switch::fdb::{Fdb, Limits, Place};
use vswitchd_switch::segment::Segmenter;
use vswitchd_switch::vtep::VtepId;
use vswitchd_switch::wire::checksum::Sum;
use vswitchd_switch::wire::ethernet::Header;
use vswitchd_switch::wire::flow::{self, Transport};
use vswitchd_switch::wire::{MacAddr, vxlan};

fn parse(c: &mut Criterion) {
    let frame = traffic::udp(HERE, THERE);
    c.bench_function("parse: header and transport", |b| {
        b.iter(|| {
            let frame = black_box(&frame[..]);
            let header = Header::parse(frame).expect("a whole header");
            Transport::find(frame, &header)
        });
    });
    let header = Header::parse(&frame).expect("a whole header");
    let transport = Transport::find(&frame, &header);
    c.bench_function("parse: entropy of the flow", |b| {
        b.iter(|| flow::entropy(black_box(&frame), &header, transport.as_ref()));
    });
}

fn look_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("table: source and destination");
    for entries in [2_u16, 100, 10_000] {
        let now = clock();
        let mut fdb = Fdb::new(Limits::default());
        let place = Place::Vtep(VtepId(1));
        let mac = |number: u16| MacAddr([2, 0, 0, 0, number.to_be_bytes()[0], number.to_be_bytes()[1]]);
        for number in 0..entries {
            fdb.learn(vni(), mac(number), place, now);
        }
        let mut number = 0;
        group.bench_function(BenchmarkId::from_parameter(entries), |b| {
            b.iter(|| {
                // A stride that is prime to each size visits every entry.
                number = (number + 7_919) % entries;
                let other = entries - 1 - number;
                (fdb.source(vni(), mac(number), place, now), fdb.lookup(vni(), mac(other)))
            });
        });
    }
    group.finish();
}

fn checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for len in [64, 1_410, 63_450] {
        let bytes = vec![0x5a; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::from_parameter(len), |b| {
            b.iter(|| Sum::default().bytes(black_box(&bytes)).finish());
        });
        group.bench_function(BenchmarkId::new("etherparse's", len), |b| {
            b.iter(|| Sum16BitWords::new().add_slice(black_box(&bytes)).ones_complement());
        });
    }
    group.finish();
}

fn segment(c: &mut Criterion) {
    let (frame, offload) = traffic::super_frame(traffic::SEGMENT);
    let header = Header::parse(&frame).expect("a whole header");
    let mut out = vec![0; usize::from(traffic::SUPER_SEGMENTS) * (frame.len() + vxlan::HEADER_LEN)];
    let mut group = c.benchmark_group("segment");
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("super-frame of 45", |b| {
        b.iter(|| {
            let segments = Segmenter::new(black_box(&frame), offload, &header).expect("a good super-frame");
            (0..segments.len()).fold(0, |at, index| at + segments.write(index, &mut out[at..]))
        });
    });
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("the same bytes, copied only", |b| {
        b.iter(|| out[..frame.len()].copy_from_slice(black_box(&frame)));
    });
    group.finish();
}

fn seal(c: &mut Criterion) {
    let (key, session) = (Key::new(&[7; 32]), SessionId::new(7).expect("24 bits"));
    let (sealer, opener) = (Sealer::new(&key, session), Opener::new(&key, session));
    let mut group = c.benchmark_group("datagram on an underlay of 1500 bytes");
    let mut datagram = vec![0x5a; 1_500 - 28];
    group.throughput(Throughput::Bytes(datagram.len() as u64));
    group.bench_function("seal", |b| b.iter(|| sealer.seal(black_box(&mut datagram))));
    group.bench_function("open", |b| {
        let sealed = || {
            let mut datagram = datagram.clone();
            sealer.seal(&mut datagram).expect("far below the limit");
            datagram
        };
        b.iter_batched_ref(
            sealed,
            |datagram| opener.open(datagram).expect("a new one"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn paths(c: &mut Criterion) {
    for scenario in traffic::scenarios() {
        let mut bed = Bed::new(clock());
        bed.check(&scenario);
        c.bench_function(&format!("{}: {}", scenario.path(), scenario.name), |b| {
            b.iter_custom(|batches| {
                let mut spent = Duration::ZERO;
                for _ in 0..batches {
                    bed.load(&scenario);
                    let start = clock();
                    black_box(bed.process());
                    spent += clock() - start;
                }
                spent / scenario.frames
            });
        });
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
fn clock() -> Instant {
    Instant::now()
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = parse, look_up, checksum, segment, seal, paths
}
criterion_main!(benches);
