//! Datagrams through the mesh.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};

use super::{MEMBERS, Tasks, only_task, prepare, v6};
use crate::cluster::daemons::{wait_until, with_daemons};
use crate::cluster::publish::inside;
use crate::fixture::PATIENCE;

/// Datagrams stay with their task, are answered from the address that was asked, and go to another when theirs is gone.
pub(in crate::cluster) fn datagrams() -> Result<()> {
    with_daemons("meshudp", 4, |daemons| {
        prepare(daemons)?;
        let tasks = Tasks::create(daemons, &["5353:53/udp"])?;
        let mut servers = Vec::new();
        for host in &daemons.hosts[..2] {
            let netns = inside(&only_task(host)?)?;
            let server = netns.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 53)))??;
            server.set_nonblocking(true)?;
            servers.push(server);
        }
        let outside = &daemons.hosts[MEMBERS].netns;
        let own = |to: IpAddr| match to {
            IpAddr::V4(_) => daemons.hosts[MEMBERS].address,
            IpAddr::V6(_) => v6(MEMBERS).into(),
        };
        let mut reached = [0; 2];
        for (index, host) in daemons.hosts[..MEMBERS].iter().enumerate() {
            for address in [host.address, v6(index).into()] {
                let any: IpAddr = if address.is_ipv4() {
                    Ipv4Addr::UNSPECIFIED.into()
                } else {
                    Ipv6Addr::UNSPECIFIED.into()
                };
                // By their ports they get one task or the other.
                for _ in 0..8 {
                    let client = outside.run(|| UdpSocket::bind((any, 0)))??;
                    client.set_read_timeout(Some(PATIENCE))?;
                    let task = talk(&client, SocketAddr::new(address, 5353), &servers, own(address))?;
                    reached[task] += 1;
                }
            }
        }
        ensure!(reached.iter().all(|&count| count > 4), "of 48 clients: {reached:?}");
        let to = SocketAddr::new(daemons.hosts[2].address, 5353);
        let client = outside.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        client.set_read_timeout(Some(PATIENCE))?;
        let talk = || talk(&client, to, &servers, own(to.ip()));
        let first = talk()?;
        ensure!(talk()? == first, "it stays");
        daemons.hosts[first].say(&["kill", &tasks.names[first]])?;
        let name = daemons.hosts[first].name;
        wait_until("its task is gone", || {
            let rows = daemons.hosts[2].json(&["service", "ps", "web"])?;
            Ok(rows.iter().any(|row| row["node"] == name && row["state"] != "running"))
        })?;
        ensure!(talk()? != first, "another answers");
        Ok(())
    })
}

/// Asks twice, small and large, and is answered by one task that sees the client; which it was.
fn talk(client: &UdpSocket, to: SocketAddr, servers: &[UdpSocket], own: IpAddr) -> Result<usize> {
    let mut buffer = [0; 2_048];
    let mut by = None;
    let mut seen = Vec::new();
    for size in [1, 1_200] {
        client.send_to(&vec![7; size], to)?;
        let mut heard = None;
        wait_until("a task gets it", || {
            for (task, server) in servers.iter().enumerate() {
                match server.recv_from(&mut buffer) {
                    Ok((len, from)) => {
                        ensure!(len == size, "{len} bytes of {size}");
                        server.send_to(&buffer[..len], from)?;
                        heard = Some((task, SocketAddr::new(from.ip().to_canonical(), from.port())));
                        return Ok(true);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(false)
        })?;
        let (task, from) = heard.context("it was heard")?;
        ensure!(by.replace(task).is_none_or(|before| before == task), "two tasks have it");
        let (len, answered) = client.recv_from(&mut buffer)?;
        ensure!((len, answered) == (size, to), "{to} was asked and {answered} has answered");
        seen.push(from);
    }
    let own = SocketAddr::new(own, client.local_addr()?.port());
    ensure!(seen == [own; 2], "{seen:?}, and not {own}");
    by.context("it was asked")
}
