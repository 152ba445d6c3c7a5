//! Asking the host's own resolvers, over UDP.
//!
//! Each question has a socket of its own, so a port of the kernel's choice, connected, and an id of ours: what a stranger
//! would have to guess (RFC 5452 §4). Replies that are cut stay so; the client then asks over TCP, or does with less.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::names::is_reply_to;

/// How long each server may take: three of them, before the five seconds that clients wait by default (resolv.conf(5)).
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Bytes of a message that are looked at: more than a client gets over UDP is cut in any case.
const BUFFER_LEN: usize = 4_096;
/// RFC 1035 §4.1.1: where a header has the response code, in the lower half of the byte.
const CODE_AT: usize = 3;
/// SERVFAIL and REFUSED: another server may know better.
const UNHELPFUL: [u8; 2] = [2, 5];

/// Asks one server after the other, with `id` in the place of the query's, until one answers. If none helps, what one that
/// could not has said, if any has.
pub(super) async fn ask(servers: &[SocketAddr], query: &[u8], id: u16) -> Option<Vec<u8>> {
    let (original, rest) = query.split_first_chunk::<2>()?;
    let sent = [&id.to_be_bytes()[..], rest].concat();
    let mut unhelpful = None;
    for &server in servers {
        // A server that can't be reached is as one that is silent: the next one is asked.
        let Ok(Ok(mut reply)) = timeout(PATIENCE, ask_one(server, &sent)).await else { continue };
        reply[..2].copy_from_slice(original);
        if !UNHELPFUL.contains(&(reply[CODE_AT] & 0xf)) {
            return Some(reply);
        }
        unhelpful = Some(reply);
    }
    unhelpful
}

async fn ask_one(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        let len = socket.recv(&mut buffer).await?;
        // Others are late, or made up.
        if is_reply_to(query, &buffer[..len]) {
            buffer.truncate(len);
            return Ok(buffer);
        }
    }
}
