//! Ethernet frames in memory, as smoltcp's device.

use std::collections::VecDeque;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// What has come and is to go.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) received: VecDeque<Vec<u8>>,
    pub(super) sent: Vec<Vec<u8>>,
    /// Bytes of the longest, with its Ethernet header.
    longest: usize,
}

#[derive(Debug)]
pub(super) struct Received(Vec<u8>);

#[derive(Debug)]
pub(super) struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl Frames {
    pub(super) fn new(mtu: usize) -> Self {
        Self { received: VecDeque::new(), sent: Vec::new(), longest: mtu + 14 }
    }

    pub(super) fn mtu(&self) -> usize {
        self.longest - 14
    }
}

impl Device for Frames {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.received.pop_front()?), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.longest;
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        self.0.push(frame);
        result
    }
}
