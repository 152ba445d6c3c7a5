//! Devices of endpoints, which outlive the switch that they are ports of.

use std::io;

use crate::api::EndpointDevice;
use crate::switch::io::channel::ChannelPort;
use crate::switch::io::qemu::{QemuPort, QemuSocket};
use crate::switch::io::tap::{Offloads, Tap, TapConfig};
use crate::switch::io::{Capabilities, FrameIo};
use crate::switch::tunnel::Protection;

use super::endpoint::{AttachError, EndpointSpec};
use super::envoy::Abroad;

/// An endpoint's device: held as long as the endpoint, whatever switch has a handle of it.
///
/// So a TAP keeps its addresses and what the kernel has queued, when the data plane moves to another UDP port, or a
/// network's frames may not be carried for a while.
pub trait Device: Send + std::fmt::Debug {
    /// A handle for a switch's workers. Only one is to be in use at a time.
    ///
    /// # Errors
    /// If no descriptors are left.
    fn handle(&self) -> io::Result<Box<dyn FrameIo>>;

    /// What it takes unfinished.
    fn capabilities(&self) -> Capabilities;

    /// Bytes of the largest IP packet that it takes.
    fn mtu(&self) -> u32;

    /// Whether it was made for the endpoint, so that it goes with it; otherwise it was there and stays.
    fn made(&self) -> bool;

    /// Whether it is an interface of the system's that is ours to change, and to remove: a TAP that was made.
    fn is_own_interface(&self) -> bool {
        false
    }
}

impl Device for Tap {
    fn handle(&self) -> io::Result<Box<dyn FrameIo>> {
        Ok(Box::new(self.share()?))
    }

    fn capabilities(&self) -> Capabilities {
        FrameIo::capabilities(self)
    }

    fn mtu(&self) -> u32 {
        Self::mtu(self)
    }

    fn made(&self) -> bool {
        self.created()
    }

    fn is_own_interface(&self) -> bool {
        self.created()
    }
}

/// A program in this process.
#[derive(Debug)]
pub struct ChannelDevice {
    /// The switch's side of the channel.
    pub port: ChannelPort,
    /// Bytes of the largest IP packet that the program takes.
    pub mtu: u32,
}

impl Device for ChannelDevice {
    fn handle(&self) -> io::Result<Box<dyn FrameIo>> {
        Ok(Box::new(self.port.another()))
    }

    fn capabilities(&self) -> Capabilities {
        FrameIo::capabilities(&self.port)
    }

    fn mtu(&self) -> u32 {
        self.mtu
    }

    fn made(&self) -> bool {
        true
    }
}

/// A virtual machine at a socket.
#[derive(Debug)]
struct Machine {
    port: QemuPort,
    mtu: u32,
}

impl Device for Machine {
    fn handle(&self) -> io::Result<Box<dyn FrameIo>> {
        Ok(Box::new(self.port.share()))
    }

    fn capabilities(&self) -> Capabilities {
        self.port.capabilities()
    }

    fn mtu(&self) -> u32 {
        self.mtu
    }

    fn made(&self) -> bool {
        true
    }
}

/// Opens an endpoint's device: a TAP, which is made if it is not there, or a machine's socket.
pub(super) fn open_device(
    spec: &EndpointSpec,
    protection: Protection,
    mtu: u32,
    queues: usize,
    offloads: Offloads,
) -> Result<Box<dyn Device>, AttachError> {
    let socket = match &spec.device {
        EndpointDevice::Tap { tap, .. } => {
            let config = TapConfig {
                netns: spec.netns_ref()?,
                mtu: Some(mtu),
                // Once it has its MAC address: an IPv6 address of the link's own is made of that.
                up: false,
                offloads,
                super_frame_max: protection.super_frame_max(mtu),
                queues,
                ..TapConfig::new(tap)
            };
            return Ok(Box::new(match Abroad::find(spec)? {
                Some(abroad) => abroad.open(&config)?,
                None => Tap::open(&config)?,
            }));
        }
        EndpointDevice::QemuStream { qemu_stream } => QemuSocket::Stream { path: qemu_stream.into() },
        EndpointDevice::QemuDgram { qemu_dgram, qemu_remote } => {
            QemuSocket::Dgram { path: qemu_dgram.into(), remote: qemu_remote.as_ref().map(Into::into) }
        }
    };
    Ok(Box::new(Machine { port: QemuPort::open(&socket)?, mtu }))
}
