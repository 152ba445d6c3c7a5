use std::fs;
use std::io::{IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::backlog::WAITING_MAX;
use super::*;
use crate::wire::stream::emit;

const PATIENCE: Duration = Duration::from_secs(10);
const BATCH: usize = 32;

/// A directory that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vswitchd-qemu-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn stream_at(path: &Path) -> Result<QemuPort, QemuError> {
    QemuPort::open(&QemuSocket::Stream { path: path.into() })
}

fn dgram_at(path: &Path, remote: Option<&Path>) -> QemuPort {
    QemuPort::open(&QemuSocket::Dgram { path: path.into(), remote: remote.map(Into::into) }).unwrap()
}

fn guest_at(path: &Path) -> UnixStream {
    let guest = UnixStream::connect(path).unwrap();
    guest.set_read_timeout(Some(PATIENCE)).unwrap();
    guest
}

fn dgram_guest(path: &Path) -> UnixDatagram {
    let guest = UnixDatagram::bind(path).unwrap();
    guest.set_read_timeout(Some(PATIENCE)).unwrap();
    guest
}

fn is_readable(port: &QemuPort, patience: Duration) -> bool {
    let readable = port.pollable();
    let mut polled = [PollFd::new(readable.as_ref().unwrap(), PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::try_from(patience).unwrap())).unwrap() > 0
}

/// What a worker does with a port that is readable: one turn.
fn turn(port: &mut QemuPort, pool: &mut Pool) -> Result<Vec<Vec<u8>>, ReadError> {
    assert!(is_readable(port, PATIENCE), "there is nothing to do");
    let mut frames = Vec::new();
    let outcome = port.read(pool, &mut frames, BATCH);
    assert!(frames.len() <= BATCH);
    let bytes = frames.iter().map(|frame| frame.buf.data().to_vec()).collect();
    frames.into_iter().for_each(|frame| pool.put(frame.buf));
    outcome.map(|malformed| {
        assert_eq!(malformed, 0);
        bytes
    })
}

/// Turns until so many frames have come, and none is left.
fn frames(port: &mut QemuPort, count: usize) -> Vec<Vec<u8>> {
    let (mut pool, mut frames) = (Pool::new(BATCH), Vec::new());
    while frames.len() < count {
        frames.extend(turn(port, &mut pool).unwrap());
    }
    assert_eq!(frames.len(), count);
    frames
}

/// A turn without frames: somebody has come or gone.
fn idle_turn(port: &mut QemuPort) {
    assert_eq!(turn(port, &mut Pool::new(1)).unwrap(), Vec::<Vec<u8>>::new());
}

fn write(port: &mut QemuPort, frame: &[u8]) -> Result<(), WriteError> {
    let (head, tail) = frame.split_at(frame.len() / 2);
    port.write(&[IoSlice::new(head), IoSlice::new(tail)], Offload::default())
}

/// The frame of that number, of some size.
fn numbered(number: usize) -> Vec<u8> {
    let mut frame = number.to_be_bytes().to_vec();
    frame.resize(14 + number * 37 % 1_500, number.to_le_bytes()[0]);
    frame
}

fn in_stream(frame: &[u8]) -> Vec<u8> {
    [&emit(frame.len())[..], frame].concat()
}

fn read_frame(guest: &mut UnixStream) -> Vec<u8> {
    let mut prefix = [0; PREFIX_LEN];
    guest.read_exact(&mut prefix).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(prefix).try_into().unwrap()];
    guest.read_exact(&mut frame).unwrap();
    frame
}

#[test]
fn a_stream_carries_frames_both_ways() {
    let folder = Folder::new();
    let mut port = stream_at(&folder.file("vm")).unwrap();
    assert!(!is_readable(&port, Duration::ZERO));
    assert!(matches!(write(&mut port, &numbered(0)), Err(WriteError::Down)), "nobody is there");
    let mut guest = guest_at(&folder.file("vm"));
    idle_turn(&mut port);
    assert!(!is_readable(&port, Duration::ZERO), "all is done");
    for number in 0..3 {
        write(&mut port, &numbered(number)).unwrap();
    }
    port.flush();
    for number in 0..3 {
        assert_eq!(read_frame(&mut guest), numbered(number));
    }
    // More than a turn's worth at once, and one in two parts.
    let sent: Vec<Vec<u8>> = (0..100).map(numbered).collect();
    let stream: Vec<u8> = sent.iter().flat_map(|frame| in_stream(frame)).collect();
    guest.write_all(&stream).unwrap();
    assert_eq!(frames(&mut port, 100), sent);
    assert!(!is_readable(&port, Duration::ZERO), "all is done");
    guest.write_all(&in_stream(&sent[50])[..40]).unwrap();
    idle_turn(&mut port);
    guest.write_all(&in_stream(&sent[50])[40..]).unwrap();
    assert_eq!(frames(&mut port, 1), [numbered(50)]);
}

#[test]
fn one_guest_at_a_time_and_the_next_after_it() {
    let folder = Folder::new();
    let mut port = stream_at(&folder.file("vm")).unwrap();
    for round in 0..3 {
        let mut guest = guest_at(&folder.file("vm"));
        idle_turn(&mut port);
        let mut second = guest_at(&folder.file("vm"));
        idle_turn(&mut port);
        assert_eq!(second.read(&mut [0; 4]).unwrap(), 0, "it is turned away");
        write(&mut port, &numbered(round)).unwrap();
        port.flush();
        assert_eq!(read_frame(&mut guest), numbered(round));
        // It ends within a frame, which must not be the beginning of the next one's.
        guest.write_all(&in_stream(&[1; 60])[..30]).unwrap();
        drop(guest);
        while port.shared.link.is_there() {
            idle_turn(&mut port);
        }
        assert!(matches!(write(&mut port, &numbered(0)), Err(WriteError::Down)));
    }
}

/// Writes numbered frames until the port is full; gives how many it took.
fn fill(port: &mut QemuPort) -> usize {
    let mut count = 0;
    loop {
        match write(port, &numbered(count)) {
            Ok(()) => count += 1,
            Err(WriteError::Full) => break,
            Err(other) => panic!("{other}"),
        }
        if count % BATCH == 0 {
            port.flush();
        }
    }
    port.flush();
    count
}

#[test]
fn a_slow_guest_loses_whole_frames_only() {
    let folder = Folder::new();
    let mut port = stream_at(&folder.file("vm")).unwrap();
    let mut guest = guest_at(&folder.file("vm"));
    idle_turn(&mut port);
    for round in 0..2 {
        let count = fill(&mut port);
        assert!(count * 800 > WAITING_MAX, "{count} frames in round {round}");
        for number in 0..count {
            if is_readable(&port, Duration::ZERO) {
                idle_turn(&mut port);
            }
            assert_eq!(read_frame(&mut guest), numbered(number));
        }
        assert!(!is_readable(&port, Duration::ZERO), "nothing waits any more");
    }
    // What waits for a guest that ends goes with it, and leaves room for the next.
    fill(&mut port);
    drop(guest);
    while port.shared.link.is_there() {
        idle_turn(&mut port);
    }
    let mut guest = guest_at(&folder.file("vm"));
    idle_turn(&mut port);
    assert!(fill(&mut port) * 800 > WAITING_MAX);
    assert_eq!(read_frame(&mut guest), numbered(0));
}

#[test]
fn a_length_that_cant_be_is_the_ports_end() {
    let folder = Folder::new();
    let mut port = stream_at(&folder.file("vm")).unwrap();
    let mut guest = guest_at(&folder.file("vm"));
    idle_turn(&mut port);
    guest.write_all(&[in_stream(&numbered(1)), b"GET / HTTP/1.1".to_vec()].concat()).unwrap();
    let mut pool = Pool::new(BATCH);
    let mut read = Vec::new();
    assert!(is_readable(&port, PATIENCE));
    let error = port.read(&mut pool, &mut read, BATCH).unwrap_err().to_string();
    assert_eq!(read.len(), 1, "what came before is good");
    assert!(error.contains("a frame of 1195725856 bytes was announced"), "{error}");
}

#[test]
fn handles_write_and_the_next_switch_reads_on() {
    let folder = Folder::new();
    let opened = stream_at(&folder.file("vm")).unwrap();
    let mut guest = guest_at(&folder.file("vm"));
    let mut handles = Box::new(opened.share()).split(3).unwrap();
    assert_eq!(handles.iter().filter(|handle| handle.pollable().is_some()).count(), 1);
    let mut pool = Pool::new(BATCH);
    handles[0].read(&mut pool, &mut Vec::new(), BATCH).unwrap();
    for (number, handle) in handles.iter_mut().enumerate() {
        handle.write(&[IoSlice::new(&numbered(number))], Offload::default()).unwrap();
        handle.flush();
    }
    for number in 0..3 {
        assert_eq!(read_frame(&mut guest), numbered(number));
    }
    let stream: Vec<u8> = (0..20).flat_map(|number| in_stream(&numbered(number))).collect();
    guest.write_all(&stream).unwrap();
    let mut read = Vec::new();
    handles[0].read(&mut pool, &mut read, 5).unwrap();
    assert_eq!(read.len(), 5);
    drop(handles);
    assert!(folder.file("vm").exists());
    let mut next = opened.share();
    assert_eq!(frames(&mut next, 15), (5..20).map(numbered).collect::<Vec<_>>());
}

#[test]
fn datagrams_carry_frames_both_ways() {
    let folder = Folder::new();
    for learns in [true, false] {
        let (here, there) = (folder.file("port"), folder.file("guest"));
        let mut port = dgram_at(&here, (!learns).then_some(&there));
        assert!(matches!(write(&mut port, &numbered(0)), Err(WriteError::Down)), "nobody is there");
        // One after the other at the same place, as a machine that is started anew.
        for _ in 0..2 {
            let guest = dgram_guest(&there);
            let sent: Vec<Vec<u8>> = (0..8).map(numbered).collect();
            for _ in 0..20 {
                sent.iter().for_each(|frame| assert_eq!(guest.send_to(frame, &here).unwrap(), frame.len()));
                assert_eq!(frames(&mut port, 8), sent);
            }
            let mut buf = [0; 2_000];
            for number in 0..3 {
                write(&mut port, &numbered(number)).unwrap();
                port.flush();
                let len = guest.recv(&mut buf).unwrap();
                assert_eq!(buf[..len], numbered(number));
            }
            drop(guest);
            fs::remove_file(&there).unwrap();
        }
        // The first to find it gone are lost, and then it is known.
        write(&mut port, &numbered(0)).unwrap();
        port.flush();
        assert!(matches!(write(&mut port, &numbered(0)), Err(WriteError::Down)));
    }
}

#[test]
fn a_guest_that_speaks_from_elsewhere_is_followed() {
    let folder = Folder::new();
    let mut port = dgram_at(&folder.file("port"), None);
    for name in ["one", "two", "one"] {
        let guest = dgram_guest(&folder.file(name));
        guest.send_to(&numbered(1), folder.file("port")).unwrap();
        frames(&mut port, 1);
        // Nobody can answer it.
        UnixDatagram::unbound().unwrap().send_to(&numbered(2), folder.file("port")).unwrap();
        frames(&mut port, 1);
        write(&mut port, &numbered(7)).unwrap();
        port.flush();
        let mut buf = [0; 2_000];
        let len = guest.recv(&mut buf).unwrap();
        assert_eq!(buf[..len], numbered(7), "{name}");
        fs::remove_file(folder.file(name)).unwrap();
    }
}

#[test]
fn a_slow_guest_of_datagrams_loses_the_last_ones_only() {
    let folder = Folder::new();
    let guest = dgram_guest(&folder.file("guest"));
    let mut port = dgram_at(&folder.file("port"), Some(&folder.file("guest")));
    for _ in 0..2 {
        let count = fill(&mut port);
        assert!(count * 800 > WAITING_MAX, "{count} frames");
        let mut buf = [0; 2_000];
        for number in 0..count {
            if is_readable(&port, Duration::ZERO) {
                idle_turn(&mut port);
            }
            let len = guest.recv(&mut buf).unwrap();
            assert_eq!(buf[..len], numbered(number));
        }
        assert!(!is_readable(&port, Duration::ZERO), "nothing waits any more");
    }
    // What waits goes with a guest that ends.
    fill(&mut port);
    drop(guest);
    idle_turn(&mut port);
    assert!(matches!(write(&mut port, &numbered(0)), Err(WriteError::Down)));
}

#[test]
fn a_datagram_longer_than_any_frame_is_counted() {
    let folder = Folder::new();
    let mut port = dgram_at(&folder.file("port"), None);
    let guest = UnixDatagram::unbound().unwrap();
    guest.send_to(&vec![0; DATA_MAX + 1], folder.file("port")).unwrap();
    guest.send_to(&[0; 60], folder.file("port")).unwrap();
    let (mut pool, mut read) = (Pool::new(4), Vec::new());
    assert!(matches!(port.read(&mut pool, &mut read, BATCH), Ok(1)));
    assert_eq!(read.len(), 1);
}

#[test]
fn the_file_is_private_and_goes_with_the_port() {
    let folder = Folder::new();
    let path = folder.file("vm");
    for _ in 0..2 {
        let port = stream_at(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(stream_at(&path), Err(QemuError::Used(_))), "it is in use");
        drop(port);
        assert!(!path.exists());
        // What a killed program leaves.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
    }
    let port = dgram_at(&path, None);
    assert!(matches!(stream_at(&path), Err(QemuError::Used(_))), "it is in use, by another kind");
    // Somebody else's by now.
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(port);
    assert!(path.exists());
    assert!(matches!(stream_at(&path), Err(QemuError::Used(_))));
    drop(other);
}

#[test]
fn paths_that_wont_do_are_refused_by_name() {
    let folder = Folder::new();
    fs::write(folder.file("file"), "text").unwrap();
    let refused = |path: &Path| stream_at(path).unwrap_err();
    assert!(matches!(refused(&folder.file("file")), QemuError::Occupied(_)));
    assert_eq!(fs::read_to_string(folder.file("file")).unwrap(), "text");
    let long = folder.file(&"x".repeat(100));
    assert!(matches!(refused(&long), QemuError::Path(path) if path == long));
    assert!(matches!(refused(Path::new("")), QemuError::Path(_)));
    let missing = refused(&folder.file("none/vm"));
    assert!(missing.to_string().contains("/none/vm: its directory can't be opened: "), "{missing}");
    let locked = rustix::fs::open(&folder.0, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    rustix::fs::flock(locked.as_fd(), rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(matches!(refused(&folder.file("vm")), QemuError::Locked(_)));
}
