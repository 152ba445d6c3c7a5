//! Asking the host's own resolvers, over UDP, or over TCP where the client does.
//!
//! Each question has a socket of its own, so a port of the kernel's choice, connected, and an id of ours: what a stranger
//! would have to guess (RFC 5452 §4). Datagrams that are cut stay so; the client then asks over TCP, or does with less.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::names::{Through, is_reply_to};

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
pub(super) async fn ask(servers: &[SocketAddr], query: &[u8], through: Through, id: u16) -> Option<Vec<u8>> {
    let (original, rest) = query.split_first_chunk::<2>()?;
    let sent = [&id.to_be_bytes()[..], rest].concat();
    let mut unhelpful = None;
    for &server in servers {
        // A server that can't be reached is as one that is silent: the next one is asked.
        let Ok(Ok(mut reply)) = timeout(PATIENCE, ask_one(server, &sent, through)).await else { continue };
        reply[..2].copy_from_slice(original);
        if !UNHELPFUL.contains(&(reply[CODE_AT] & 0xf)) {
            return Some(reply);
        }
        unhelpful = Some(reply);
    }
    unhelpful
}

async fn ask_one(server: SocketAddr, query: &[u8], through: Through) -> io::Result<Vec<u8>> {
    match through {
        Through::Udp => ask_by_datagram(server, query).await,
        Through::Tcp => ask_by_stream(server, query).await,
    }
}

/// RFC 7766: one query, one reply, each behind its length.
async fn ask_by_stream(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let len = u16::try_from(query.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&[&len.to_be_bytes()[..], query].concat()).await?;
    let len = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(len)];
    stream.read_exact(&mut reply).await?;
    if is_reply_to(query, &reply) { Ok(reply) } else { Err(io::ErrorKind::InvalidData.into()) }
}

async fn ask_by_datagram(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A query for the root's addresses, with `id`.
    fn query(id: u16) -> Vec<u8> {
        [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1]].concat()
    }

    #[tokio::test]
    async fn over_tcp_a_long_reply_comes_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let len = stream.read_u16().await.unwrap();
            let mut message = vec![0; usize::from(len)];
            stream.read_exact(&mut message).await.unwrap();
            // A reply, with something behind the question that nobody looks at.
            message[2] |= 0x80;
            message.resize(20_000, 7);
            stream.write_u16(20_000).await.unwrap();
            stream.write_all(&message).await.unwrap();
        });
        let closed = {
            let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
            unused.local_addr().unwrap()
        };
        let reply = ask(&[closed, server], &query(7), Through::Tcp, 99).await.unwrap();
        served.await.unwrap();
        assert_eq!((reply.len(), &reply[..3]), (20_000, &[0, 7, 0x81][..]));
        assert_eq!(ask(&[closed], &query(7), Through::Tcp, 99).await, None);
        assert_eq!(ask(&[], &query(7), Through::Udp, 99).await, None);
    }
}
