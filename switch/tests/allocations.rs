//! Both paths allocate nothing per frame once their buffers, lists and tables are there, and many changes of the
//! tables copy these no oftener than one does.

mod traffic;

use std::error::Error;
use std::hint::black_box;
use std::io::{IoSlice, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Instant;

use traffic::Bed;
use vswitchd_switch::fdb::{Limits, Place};
use vswitchd_switch::io::FrameIo;
use vswitchd_switch::io::qemu::{QemuPort, QemuSocket};
use vswitchd_switch::packet::Pool;
use vswitchd_switch::switch::Switch;
use vswitchd_switch::wire::virtio::Offload;
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

/// Frames of one size go through a port to its guest and come back, a batch at a time.
fn echo(
    port: &mut QemuPort,
    pool: &mut Pool,
    mut guest: impl FnMut(&mut [u8]),
) -> Result<(), Box<dyn Error>> {
    const FRAMES: usize = 8;
    let mut bytes = [7; FRAMES * (4 + 60)];
    let mut frames = Vec::with_capacity(FRAMES);
    let mut round = || -> Result<(), Box<dyn Error>> {
        for _ in 0..FRAMES {
            port.write(&[IoSlice::new(&[7; 60])], Offload::default())?;
        }
        port.flush();
        guest(&mut bytes);
        while frames.len() < FRAMES {
            port.read(pool, &mut frames, FRAMES)?;
        }
        frames.drain(..).for_each(|frame| pool.put(frame.buf));
        Ok(())
    };
    round()?;
    let mut outcome = Ok(());
    let counted = allocation_counter::measure(|| outcome = (0..BATCHES).try_for_each(|_| round()));
    outcome?;
    assert_eq!(counted.count_total, 0, "allocations for {} frames", BATCHES * FRAMES);
    Ok(())
}

#[test]
fn nothing_per_frame_of_a_virtual_machine() -> Result<(), Box<dyn Error>> {
    let name =
        |end: &str| std::env::temp_dir().join(format!("vswitchd-allocations-{end}-{}", std::process::id()));
    let mut pool = Pool::new(8);
    let mut port = QemuPort::open(&QemuSocket::Stream { path: name("stream") })?;
    let mut guest = UnixStream::connect(name("stream"))?;
    port.read(&mut pool, &mut Vec::new(), 8)?;
    echo(&mut port, &mut pool, |bytes| {
        guest.read_exact(bytes).unwrap();
        guest.write_all(bytes).unwrap();
    })?;
    let guest = UnixDatagram::bind(name("guest"))?;
    let socket = QemuSocket::Dgram { path: name("dgram"), remote: Some(name("guest")) };
    let (mut port, to) = (QemuPort::open(&socket)?, name("dgram"));
    echo(&mut port, &mut pool, |bytes| {
        for frame in bytes.chunks_mut(64) {
            let len = guest.recv(frame).unwrap();
            guest.send_to(&frame[..len], &to).unwrap();
        }
    })?;
    Ok(std::fs::remove_file(name("guest"))?)
}

#[test]
fn changes_made_together_are_published_once() -> Result<(), Box<dyn Error>> {
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
