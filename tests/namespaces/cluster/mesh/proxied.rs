//! The PROXY protocol, by which tasks hear of the mesh's clients: as this test reads it, and as nginx does.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Stdio;

use anyhow::{Result, ensure};
use vswitchd::namespace::netns::NetNs;

use super::{MEMBERS, Tasks, only_task, prepare, v6};
use crate::cluster::daemons::{Daemons, Scratch, wait_until, with_daemons};
use crate::cluster::nginx::configure;
use crate::cluster::publish::{connect, inside};
use crate::cluster::shown::inspect;
use crate::fixture::{Ending, tool};

/// A task is told of its client before anything else, wherever the client comes in.
pub(in crate::cluster) fn proxied() -> Result<()> {
    with_daemons("meshproxy", 4, |daemons| {
        prepare(daemons)?;
        let refused = ["-p", "published=53,target=53,protocol=udp,proxy=v2", "--", "true"];
        let refused = daemons.hosts[0].ask(&[&["service", "create"], &refused[..]].concat(), "")?;
        ensure!(refused.status.code() == Some(2), "{refused:?}");
        let tasks = Tasks::create(daemons, &["published=8080,target=80,proxy=v2"])?;
        let shown = inspect(daemons, 1, "web")?;
        ensure!(shown["Endpoint"]["Ports"][0]["ProxyProtocol"] == "v2", "{shown}");
        let outside = &daemons.hosts[MEMBERS].netns;
        for (index, host) in daemons.hosts[..MEMBERS].iter().enumerate() {
            for address in [host.address, v6(index).into()] {
                let to = SocketAddr::new(address, 8080);
                for task in 0..2 {
                    let (mut client, mut served) = tasks.connection_to(outside, to, task)?;
                    client.write_all(b"question")?;
                    let told = told(&mut served.stream)?;
                    ensure!(told == (client.local_addr()?, to), "{told:?} of {client:?}");
                    let mut question = [0; 8];
                    served.stream.read_exact(&mut question)?;
                    ensure!(&question == b"question");
                }
            }
        }
        nginx(daemons, outside)
    })
}

/// Client and address asked, in the words of the PROXY protocol's specification (§2.2).
fn told(stream: &mut TcpStream) -> Result<(SocketAddr, SocketAddr)> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    ensure!(head[..13] == *b"\r\n\r\n\0\r\nQUIT\n\x21", "{head:?}");
    let mut addresses = vec![0; u16::from_be_bytes([head[14], head[15]]).into()];
    stream.read_exact(&mut addresses)?;
    let number = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    match head[13] {
        0x11 => {
            let ip = |at: usize| <[u8; 4]>::try_from(&addresses[at..at + 4]).map(IpAddr::from);
            Ok((SocketAddr::new(ip(0)?, number(8)), SocketAddr::new(ip(4)?, number(10))))
        }
        0x21 => {
            let ip = |at: usize| <[u8; 16]>::try_from(&addresses[at..at + 16]).map(IpAddr::from);
            Ok((SocketAddr::new(ip(0)?, number(32)), SocketAddr::new(ip(16)?, number(34))))
        }
        other => anyhow::bail!("family {other:#x}"),
    }
}

/// Somebody else's reading of it.
fn nginx(daemons: &Daemons, outside: &NetNs) -> Result<()> {
    let scratch = Scratch::new("mesh-nginx")?;
    let server = "listen 81 proxy_protocol; listen [::]:81 proxy_protocol;
                  location / { return 200 \"$proxy_protocol_addr $proxy_protocol_server_port $remote_addr\"; }";
    let config = configure(&scratch.0, server)?;
    let inside = inside(&only_task(&daemons.hosts[0])?)?;
    if tool(&inside, "nginx -v")?.is_none() {
        return Ok(());
    }
    let mut command = inside.command("nginx");
    command.args(["-e", "stderr", "-g", "master_process off;", "-c"]).arg(&config);
    let _nginx = Ending(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    wait_until("it listens", || Ok(inside.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 81)))?.is_ok()))?;
    // Only one of the two tasks has this port: the other one refuses, and is passed over.
    let publish = ["--publish-add", "published=8081,target=81,proxy=v2"];
    daemons.hosts[0].say(&[&["service", "update", "-d"], &publish[..], &["web"]].concat())?;
    for host in &daemons.hosts[..MEMBERS] {
        let to = SocketAddr::new(host.address, 8081);
        wait_until("its port is open", || Ok(outside.run(|| TcpStream::connect(to))?.is_ok()))?;
    }
    for (index, host) in daemons.hosts[..MEMBERS].iter().enumerate() {
        for (address, own) in
            [(host.address, daemons.hosts[MEMBERS].address), (v6(index).into(), v6(MEMBERS).into())]
        {
            let mut client = connect(outside, SocketAddr::new(address, 8081))?;
            client.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut page = String::new();
            client.read_to_string(&mut page)?;
            let expected = format!("{own} 8081 {own}");
            ensure!(page.ends_with(&expected), "{page}, and not {expected}");
        }
    }
    Ok(())
}
