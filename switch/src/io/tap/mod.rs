//! TAP devices by raw ioctl: offloads, another namespace, take-over of a pre-made device.
//!
//! A TAP is opened with a virtio-net header before each frame, so that one read or write may carry a 64 KiB
//! super-frame and leave checksums unfinished; [`Offloads`] says what the kernel has agreed to. A device that is
//! already there is attached to and stays when closed; one that we make goes with [`Tap`].
//!
//! This does not add addresses or routes, and never makes a device persistent.
//! Sources: Linux Documentation/networking/tuntap.rst, drivers/net/tun.c; virtio 1.2 §5.1.6.

mod error;
mod ioctl;
mod link;

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::{Errno, retry_on_intr};

pub use self::error::TapError;
use self::ioctl::{IfName, Link};
use super::netns::{self, NetnsRef};
use super::{Capabilities, Frame, FrameIo, ReadError, WriteError};
use crate::outbox::PARTS_MAX;
use crate::packet::{DATA_MAX, PacketBuf, Pool};
use crate::wire::MacAddr;
use crate::wire::virtio::{self, Offload};

/// The smallest MTU of an Ethernet device (RFC 791 §3.2).
pub const MTU_MIN: u32 = 68;
/// The largest MTU that the kernel lets a TAP have: 65535 less the Ethernet header.
pub const MTU_MAX: u32 = 65_521;

/// The most queues that the kernel gives a TAP (`MAX_TAP_QUEUES`).
pub const QUEUES_MAX: usize = 256;

// A read never meets a frame that is longer than a buffer. A plain frame is an MTU, the Ethernet header and a tag that
// the kernel has put back; a super-frame has at most 65536 bytes, tag not counted, since tun.c leaves `tso_max_size` at
// GSO_LEGACY_MAX_SIZE and `gso_max_size` can't be set above it.
const _: () = assert!(DATA_MAX >= MTU_MAX as usize + 14 + 4 && DATA_MAX >= 65_536 + 4);

/// Offloads of a TAP: what is asked for, and what has been agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// A virtio-net header stands before each frame; nothing below works without.
    pub header: bool,
    /// Unfinished checksums.
    pub checksum: bool,
    /// TCP super-frames, both IP versions; needs `checksum`.
    pub tso: bool,
    /// TCP super-frames that carry CWR; needs `tso`.
    pub ecn: bool,
    /// UDP super-frames, both IP versions (Linux 6.2); needs `checksum`.
    pub uso: bool,
}

impl Offloads {
    /// Whatever the kernel has.
    pub const ALL: Self = Self { header: true, checksum: true, tso: true, ecn: true, uso: true };
    /// Plain frames.
    pub const NONE: Self = Self { header: false, checksum: false, tso: false, ecn: false, uso: false };
}

impl fmt::Display for Offloads {
    /// Those agreed on, `none` if none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [(self.checksum, "checksum"), (self.tso, "tso"), (self.ecn, "ecn"), (self.uso, "uso")];
        let agreed: Vec<_> = all.iter().filter(|(agreed, _)| *agreed).map(|&(_, name)| name).collect();
        f.write_str(if agreed.is_empty() { "none".into() } else { agreed.join("+") }.as_str())
    }
}

/// A TAP to be opened.
#[derive(Clone, Debug)]
pub struct TapConfig {
    /// 1 to 15 bytes; `%` is refused, so that the name is always this one.
    pub name: String,
    /// Where the device is; `None` is the calling thread's namespace.
    pub netns: Option<NetnsRef>,
    /// Its address; `None` leaves it as it is, random for a new device.
    pub mac: Option<MacAddr>,
    /// Bytes from [`MTU_MIN`] to [`MTU_MAX`]; `None` leaves it as it is, 1500 for a new device.
    pub mtu: Option<u32>,
    /// Whether to set it up; never sets it down.
    pub up: bool,
    /// Offloads not to be used even if the kernel has them.
    pub offloads: Offloads,
    /// Bytes of the longest super-frame, in a device that we make; `None` for the kernel's 65,536. What comes to more
    /// segments than one message takes costs another: see [`crate::tunnel::Protection::super_frame_max`].
    pub super_frame_max: Option<u32>,
    /// How many queues to open, 1 to [`QUEUES_MAX`]: one for each worker that is to read. A device that was made without
    /// `multi_queue` has one, however many are asked for.
    pub queues: usize,
}

impl TapConfig {
    /// A device in this namespace, set up, with every offload there is.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            netns: None,
            mac: None,
            mtu: None,
            up: true,
            offloads: Offloads::ALL,
            super_frame_max: None,
            queues: 1,
        }
    }

    fn check(&self) -> Result<IfName, TapError> {
        let name = IfName::new(&self.name).ok_or_else(|| TapError::Name(self.name.clone()))?;
        if !(1..=QUEUES_MAX).contains(&self.queues) {
            return Err(TapError::Queues { name: self.name.clone(), queues: self.queues });
        }
        if let Some(mtu) = self.mtu.filter(|mtu| !(MTU_MIN..=MTU_MAX).contains(mtu)) {
            return Err(TapError::Mtu { name: self.name.clone(), mtu });
        }
        if let Some(mac) = self.mac.filter(|mac| mac.is_zero() || mac.is_multicast()) {
            return Err(TapError::Mac { name: self.name.clone(), mac });
        }
        Ok(name)
    }
}

/// Checks a name as [`Tap::open`] does.
#[cfg(feature = "compat-tun-tap")]
pub(super) fn check_name(name: &str) -> Result<(), TapError> {
    IfName::new(name).map(drop).ok_or_else(|| TapError::Name(name.to_owned()))
}

/// What is the same for every queue of a device.
#[derive(Debug)]
struct Device {
    name: String,
    created: bool,
    offloads: Offloads,
    mac: MacAddr,
    mtu: u32,
}

/// What is known of an open device besides its queues, as [`Tap`] says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapFacts {
    /// Its name.
    pub name: String,
    /// Whether it was made, so that it goes with its last queue.
    pub created: bool,
    /// What has been agreed on.
    pub offloads: Offloads,
    /// Its MAC address when it was opened.
    pub mac: MacAddr,
    /// Its MTU in bytes when it was opened.
    pub mtu: u32,
}

/// A TAP device: one queue of it, or a handle that only writes; and the queues that [`FrameIo::split`] makes handles of.
#[derive(Debug)]
pub struct Tap {
    device: Arc<Device>,
    queue: OwnedFd,
    reads: bool,
    others: Vec<OwnedFd>,
    appetite: Appetite,
    /// Whether a device that was taken over is left without offloads when this goes.
    restores: bool,
}

/// How many frames to read before asking whether there are more. Reading on until the queue is found empty costs a
/// system call for nothing, which a single frame, as of a request, would feel; so it is not done before a few reads in
/// a row have been filled.
#[derive(Clone, Copy, Debug)]
struct Appetite {
    frames: usize,
    filled: u32,
}

impl Appetite {
    const GROWS_AFTER: u32 = 4;
    const NONE: Self = Self { frames: 1, filled: 0 };

    /// As many as were wanted came.
    fn sated(&mut self) {
        self.filled += 1;
        if self.filled > Self::GROWS_AFTER {
            // Whoever reads bounds it.
            *self = Self { frames: self.frames.saturating_mul(4), filled: 0 };
        }
    }

    /// The queue was found empty behind so many.
    fn unsated(&mut self, frames: usize) {
        *self = Self { frames: frames.max(1), filled: 0 };
    }
}

impl Tap {
    /// Makes the device, or attaches to the one of that name, and applies those settings that differ.
    ///
    /// An unprivileged user can open a device that root has made for them (`ip tuntap add … user`), set up.
    ///
    /// # Errors
    /// See [`TapError`].
    pub fn open(config: &TapConfig) -> Result<Self, TapError> {
        let name = config.check()?;
        let Some(netns) = &config.netns else {
            return Self::open_here(config, name);
        };
        let netns = netns.open()?;
        let exists = || Link::new(name).and_then(|link| link.exists());
        let existed =
            netns::within(netns.as_fd(), exists)?.map_err(failed(config, "looking for the interface"))?;
        if existed {
            // It can only be attached to from where it is. Its namespace then lives as long as this queue.
            netns::within(netns.as_fd(), || Self::open_here(config, name))?
        } else {
            Self::open_there(config, name, netns.as_fd())
        }
    }

    fn open_here(config: &TapConfig, name: IfName) -> Result<Self, TapError> {
        let link = link_of(config, name)?;
        let existed = link.exists().map_err(failed(config, "looking for the interface"))?;
        let (tap, _) = Self::attach(config, name, existed)?;
        set_up(config, &link)?;
        Ok(tap)
    }

    /// Makes the device here, under any name, and moves it to where it is to be.
    ///
    /// A queue keeps the namespace alive that it was opened in. Opened there, it would keep the device's own one, which
    /// then could not die before the switch does; opened here, it finds out (EBADFD).
    fn open_there(config: &TapConfig, name: IfName, netns: BorrowedFd<'_>) -> Result<Self, TapError> {
        let (tap, here) = Self::attach(config, IfName::any(), false)?;
        let index =
            Link::new(here).and_then(|link| link.index()).map_err(failed(config, "finding its index"))?;
        link::move_link(index, netns, &name.bytes()).map_err(|error| error::moving(&config.name, error))?;
        netns::within(netns, || {
            let link = link_of(config, name)?;
            set_up(config, &link)
        })??;
        Ok(tap)
    }

    /// Attaches to a device of this namespace, agrees on offloads, and applies settings; gives its name too.
    fn attach(config: &TapConfig, name: IfName, existed: bool) -> Result<(Self, IfName), TapError> {
        let queue = ioctl::open_queue().map_err(|errno| error::opening(&config.name, errno))?;
        let in_use = existed && link_of(config, name)?.has_carrier();
        let name = attach(queue.as_fd(), name, config)
            .map_err(|error| error::attaching(&config.name, existed, error))?;
        let flags = ioctl::device_flags(queue.as_fd()).map_err(failed(config, "TUNGETIFF"))?;
        if in_use && flags & libc::IFF_MULTI_QUEUE != 0 {
            // One with a single queue would not have let us in. This one has given us a queue, and would give its other
            // user and us a part of the flows each.
            return Err(TapError::Busy(config.name.clone()));
        }
        let header = flags & libc::IFF_VNET_HDR != 0;
        let request = Offloads { header, ..config.offloads };
        let offloads = negotiate(queue.as_fd(), request).map_err(failed(config, "agreeing on offloads"))?;
        let link = link_of(config, name)?;
        apply(config, queue.as_fd(), name, &link)?;
        if let (false, Some(bytes)) = (existed, config.super_frame_max) {
            // Kernels before 4.16 can't be told; it is only for speed.
            link.index().and_then(|index| link::set_super_frame_max(index, bytes)).ok();
        }
        let device = Device {
            name: config.name.clone(),
            // The second condition guards against one that appeared after we had looked.
            created: !existed && flags & libc::IFF_PERSIST == 0,
            offloads,
            mac: ioctl::mac(queue.as_fd(), name).map_err(failed(config, "reading its address"))?,
            mtu: u32::try_from(link.mtu().map_err(failed(config, "reading its MTU"))?).unwrap_or(0),
        };
        let many = if flags & libc::IFF_MULTI_QUEUE == 0 { 1 } else { config.queues };
        let kind = flags & (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE);
        let another = |_| {
            let queue = ioctl::open_queue().map_err(|errno| error::opening(&config.name, errno))?;
            ioctl::attach(queue.as_fd(), name, kind).map_err(failed(config, "opening another queue"))?;
            Ok(queue)
        };
        let others = (1..many).map(another).collect::<Result<_, TapError>>()?;
        let (device, appetite) = (Arc::new(device), Appetite::NONE);
        Ok((Self { device, queue, reads: true, others, appetite, restores: true }, name))
    }

    /// How many queues it has.
    #[must_use]
    pub fn queues(&self) -> usize {
        1 + self.others.len()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.device.name
    }

    /// Whether this made the device, so that it goes when this is dropped; otherwise it was taken over and stays.
    #[must_use]
    pub fn created(&self) -> bool {
        self.device.created
    }

    /// Its MAC address, as it was when opened.
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        self.device.mac
    }

    /// Its MTU in bytes, as it was when opened.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.device.mtu
    }

    /// What has been agreed on.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.device.offloads
    }

    /// A share of the device, all its queues included: it stays, as it is, until both are dropped. One of the two is to
    /// be read from; the other hands the device on to another switch later. This one must outlive the share.
    ///
    /// # Errors
    /// If no descriptors are left.
    pub fn share(&self) -> io::Result<Self> {
        let others = self.others.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        Ok(Self {
            device: Arc::clone(&self.device),
            queue: self.queue.try_clone()?,
            reads: self.reads,
            others,
            appetite: Appetite::NONE,
            restores: false,
        })
    }

    /// What it is made of, to be handed to another process. The device stays until these are closed.
    ///
    /// # Errors
    /// If no descriptors are left.
    pub fn into_parts(mut self) -> io::Result<(TapFacts, Vec<OwnedFd>)> {
        let mut queues = vec![self.queue.try_clone()?];
        queues.append(&mut self.others);
        self.restores = false;
        let Device { name, created, offloads, mac, mtu } = &*self.device;
        let facts =
            TapFacts { name: name.clone(), created: *created, offloads: *offloads, mac: *mac, mtu: *mtu };
        Ok((facts, queues))
    }

    /// The reverse; none without a queue. Facts that are not those of the queues make frames that the kernel refuses or
    /// that are dropped as malformed, nothing worse.
    #[must_use]
    pub fn from_parts(facts: TapFacts, queues: Vec<OwnedFd>) -> Option<Self> {
        let TapFacts { name, created, offloads, mac, mtu } = facts;
        let device = Arc::new(Device { name, created, offloads, mac, mtu });
        let mut queues = queues.into_iter();
        let queue = queues.next()?;
        let (others, appetite) = (queues.collect(), Appetite::NONE);
        Some(Self { device, queue, reads: true, others, appetite, restores: true })
    }

    /// Reads one frame; `None` if its header makes no sense.
    fn read_frame(&self, buf: &mut PacketBuf) -> Result<Option<Offload>, Errno> {
        if !self.device.offloads.header {
            let len = retry_on_intr(|| rustix::io::read(&self.queue, &mut *buf.room()))?;
            buf.set_len(len);
            return Ok(Some(Offload::default()));
        }
        let mut header = [0; virtio::HEADER_LEN];
        let len = retry_on_intr(|| {
            let into = &mut [IoSliceMut::new(&mut header), IoSliceMut::new(buf.room())];
            rustix::io::readv(&self.queue, into)
        })?;
        let Some(len) = len.checked_sub(virtio::HEADER_LEN) else {
            return Ok(None);
        };
        buf.set_len(len);
        Ok(Offload::parse(&header, len).ok())
    }
}

/// Each setting only where it differs, since asking takes no rights and changing does.
fn apply(config: &TapConfig, queue: BorrowedFd<'_>, name: IfName, link: &Link) -> Result<(), TapError> {
    if let Some(mac) = config.mac {
        let set = || {
            if ioctl::mac(queue, name)? == mac { Ok(()) } else { ioctl::set_mac(queue, name, mac) }
        };
        set().map_err(|error| {
            error::setting(&config.name, "MAC address", format_args!("address {mac}"), error)
        })?;
    }
    if let Some(mtu) = config.mtu {
        let wanted = i32::try_from(mtu).expect("the range was checked");
        let set = || {
            if link.mtu()? == wanted { Ok(()) } else { link.set_mtu(wanted) }
        };
        set().map_err(|error| error::setting(&config.name, "MTU", format_args!("mtu {mtu}"), error))?;
    }
    Ok(())
}

fn set_up(config: &TapConfig, link: &Link) -> Result<(), TapError> {
    let set = || if !config.up || link.is_up()? { Ok(()) } else { link.set_up() };
    set().map_err(|error| error::setting(&config.name, "state", "up", error))
}

fn link_of(config: &TapConfig, name: IfName) -> Result<Link, TapError> {
    Link::new(name).map_err(failed(config, "opening a socket"))
}

/// Makes the error of a system call that nothing should refuse.
fn failed(config: &TapConfig, action: &'static str) -> impl FnOnce(io::Error) -> TapError {
    move |source| TapError::Io { name: config.name.clone(), action, source }
}

/// Attaches with as much as the device takes: a header if wanted, and many queues where wanted or insisted on.
fn attach(queue: BorrowedFd<'_>, name: IfName, config: &TapConfig) -> io::Result<IfName> {
    let plain = libc::IFF_TAP | libc::IFF_NO_PI;
    let with_header = plain | libc::IFF_VNET_HDR;
    let (first, second) =
        if config.queues > 1 { (libc::IFF_MULTI_QUEUE, 0) } else { (0, libc::IFF_MULTI_QUEUE) };
    let all = [with_header | first, with_header | second, plain | first, plain | second];
    let (last, others) =
        all[if config.offloads.header { 0 } else { 2 }..].split_last().expect("four or two of them");
    for flags in others {
        match ioctl::attach(queue, name, *flags) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            outcome => return outcome,
        }
    }
    ioctl::attach(queue, name, *last)
}

/// Agrees on offloads one group at a time, so that an old kernel still gives what it has.
///
/// The mask belongs to the device and outlives a queue, so it is first cleared.
fn negotiate(queue: BorrowedFd<'_>, wanted: Offloads) -> io::Result<Offloads> {
    ioctl::set_offload(queue, 0)?;
    if !wanted.header {
        return Ok(Offloads::NONE);
    }
    ioctl::set_header_len(queue, libc::c_int::try_from(virtio::HEADER_LEN).expect("ten"))?;
    let mut mask = 0;
    let mut add = |wanted: bool, bits| {
        let agreed = wanted && ioctl::set_offload(queue, mask | bits).is_ok();
        mask |= if agreed { bits } else { 0 };
        agreed
    };
    let checksum = add(wanted.checksum, libc::TUN_F_CSUM);
    let tso = add(checksum && wanted.tso, libc::TUN_F_TSO4 | libc::TUN_F_TSO6);
    let ecn = add(tso && wanted.ecn, libc::TUN_F_TSO_ECN);
    let uso = add(checksum && wanted.uso, libc::TUN_F_USO4 | libc::TUN_F_USO6);
    Ok(Offloads { header: true, checksum, tso, ecn, uso })
}

/// What a failed read of a TAP's queue means.
pub(super) fn read_ended(errno: Errno, malformed: u64) -> Result<u64, ReadError> {
    match errno {
        Errno::AGAIN => Ok(malformed),
        Errno::BADFD => Err(ReadError::Gone),
        other => Err(ReadError::Io(other.into())),
    }
}

/// What a failed write to a TAP's queue means.
pub(super) fn write_refused(errno: Errno) -> WriteError {
    match errno {
        Errno::AGAIN | Errno::NOBUFS => WriteError::Full,
        Errno::BADFD => WriteError::Gone,
        Errno::IO => WriteError::Down,
        other => WriteError::Refused(other.into()),
    }
}

/// A queue without header has no way of saying that something is left to do.
pub(super) fn assert_finished(offload: Offload) {
    debug_assert!(
        offload.gso.is_none() && !matches!(offload.checksum, virtio::Checksum::Partial { .. }),
        "the switch finishes frames for a port without capabilities"
    );
}

impl Drop for Tap {
    fn drop(&mut self) {
        if self.restores && !self.device.created && self.device.offloads.header {
            // The next program may know no super-frames. If this fails, the device is gone and there is no next one.
            ioctl::set_offload(self.queue.as_fd(), 0).ok();
        }
    }
}

impl FrameIo for Tap {
    fn read(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> Result<u64, ReadError> {
        let (mut malformed, limit) = (0, max.min(self.appetite.frames));
        for had in 0..limit {
            let Some(mut buf) = pool.take() else { break };
            let failed = match self.read_frame(&mut buf) {
                Ok(Some(offload)) => {
                    into.push(Frame { buf, offload });
                    continue;
                }
                Ok(None) => {
                    pool.put(buf);
                    malformed += 1;
                    continue;
                }
                Err(errno) => errno,
            };
            pool.put(buf);
            self.appetite.unsated(had);
            return read_ended(failed, malformed);
        }
        self.appetite.sated();
        Ok(malformed)
    }

    fn write(&mut self, frame: &[IoSlice<'_>], offload: Offload) -> Result<(), WriteError> {
        let outcome = if self.device.offloads.header {
            let header = offload.emit();
            let mut pieces = [IoSlice::new(&[]); 1 + PARTS_MAX];
            pieces[0] = IoSlice::new(&header);
            pieces[1..=frame.len()].copy_from_slice(frame);
            retry_on_intr(|| rustix::io::writev(&self.queue, &pieces[..=frame.len()]))
        } else {
            assert_finished(offload);
            retry_on_intr(|| rustix::io::writev(&self.queue, frame))
        };
        outcome.map(drop).map_err(write_refused)
    }

    fn pollable(&self) -> Option<BorrowedFd<'_>> {
        self.reads.then(|| self.queue.as_fd())
    }

    /// The kernel takes on a write what it may give on a read, so this is what was agreed on.
    fn capabilities(&self) -> Capabilities {
        let Offloads { checksum, tso, uso, .. } = self.device.offloads;
        Capabilities { checksum, tso, uso }
    }

    /// Queues beyond the number of workers are closed, so that no frame waits where nobody reads.
    fn split(mut self: Box<Self>, workers: usize) -> io::Result<Vec<Box<dyn FrameIo>>> {
        let mut others = std::mem::take(&mut self.others).into_iter();
        let mut handles: Vec<Box<dyn FrameIo>> = Vec::with_capacity(workers);
        for _ in 1..workers {
            let (queue, reads) = match others.next() {
                Some(queue) => (queue, true),
                None => (self.queue.try_clone()?, false),
            };
            let device = Arc::clone(&self.device);
            let (appetite, restores) = (Appetite::NONE, self.restores);
            handles.push(Box::new(Self { device, queue, reads, others: Vec::new(), appetite, restores }));
        }
        handles.insert(0, self);
        Ok(handles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_frame_at_a_time_is_not_looked_behind_and_a_crowd_is_read_in_bulk() {
        let mut appetite = Appetite::NONE;
        let looks = (0..100).filter(|_| match appetite.frames {
            1 => {
                appetite.sated();
                false
            }
            _ => {
                appetite.unsated(1);
                true
            }
        });
        assert!(looks.count() <= 100 / 6 + 1, "a look for five frames");
        appetite = Appetite::NONE;
        let reads = std::iter::repeat_with(|| {
            appetite.sated();
            appetite.frames
        });
        assert_eq!(reads.take_while(|&frames| frames < 32).count(), 14);
    }

    #[test]
    fn a_config_out_of_range_is_refused_before_anything_is_touched() {
        let config = |mtu, mac| TapConfig { mtu, mac, ..TapConfig::new("tap0") };
        for mtu in [0, 67, 65_522] {
            assert!(matches!(Tap::open(&config(Some(mtu), None)), Err(TapError::Mtu { .. })), "{mtu}");
        }
        for mac in [MacAddr::BROADCAST, MacAddr([0; 6]), MacAddr([1, 0, 0, 0, 0, 1])] {
            assert!(matches!(Tap::open(&config(None, Some(mac))), Err(TapError::Mac { .. })), "{mac}");
        }
        assert!(matches!(Tap::open(&TapConfig::new("tap%d")), Err(TapError::Name(_))));
        let lost =
            TapConfig { netns: Some(NetnsRef::Name("vswitchd-none".into())), ..TapConfig::new("tap0") };
        assert!(matches!(Tap::open(&lost), Err(TapError::Netns(_))));
    }
}
