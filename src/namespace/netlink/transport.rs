//! One request after the other over a blocking netlink socket.

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use super::NetlinkError;
use crate::namespace::netns::NetNs;

/// A view of one network namespace. It stays with that namespace whichever thread uses it.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in `netns`.
    ///
    /// # Errors
    /// If the namespace can't be entered or has no socket to give.
    pub fn open(netns: &NetNs) -> Result<Self, NetlinkError> {
        netns.run(Self::open_here)?
    }

    /// Opens a socket in the calling thread's namespace, for which it takes no privilege.
    ///
    /// # Errors
    /// If it has no socket to give.
    pub fn open_here() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(NetlinkError::Socket)?, sequence: 0 })
    }

    /// Asks for a change; `flags` besides REQUEST and ACK.
    pub(super) fn change(
        &mut self,
        request: impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.exchange(&request, message, NLM_F_REQUEST | NLM_F_ACK | flags, |_| {})
    }

    /// Asks for a list and hands every entry to `take`.
    pub(super) fn dump(
        &mut self,
        request: impl Fn() -> String,
        message: RouteNetlinkMessage,
        take: impl FnMut(RouteNetlinkMessage),
    ) -> Result<(), NetlinkError> {
        self.exchange(&request, message, NLM_F_REQUEST | NLM_F_DUMP, take)
    }

    fn exchange(
        &mut self,
        request: &impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
        mut take: impl FnMut(RouteNetlinkMessage),
    ) -> Result<(), NetlinkError> {
        self.send(request, message, flags)?;
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(|source| refused(request, source))?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|cause| {
                    NetlinkError::Malformed { request: request(), cause: cause.to_string() }
                })?;
                rest = rest.get(aligned(message.header.length)..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(refused(request, error.to_io()));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::InnerMessage(inner) => take(inner),
                    _ => {}
                }
            }
        }
    }

    fn send(
        &mut self,
        request: &impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(|_| ()).map_err(|source| refused(request, source))
    }
}

fn refused(request: &impl Fn() -> String, source: std::io::Error) -> NetlinkError {
    NetlinkError::Refused { request: request(), source }
}

/// Where the next message of a datagram starts: lengths are rounded up to 4 bytes (netlink(7), `NLMSG_ALIGN`).
fn aligned(length: u32) -> usize {
    // At least a header's, so that no answer can keep the loop above in place.
    (length.max(16) as usize).next_multiple_of(4)
}
