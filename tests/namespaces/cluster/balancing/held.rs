//! Connections through a virtual address that are held while something happens to their tasks.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use vswitchd::namespace::netns::NetNs;

use super::{MANY, OWN, Task};
use crate::cluster::publish::connect;
use crate::fixture::PATIENCE;

/// The test's own server in the place of a task's program.
pub(super) struct Served<'a> {
    task: &'a Task,
    listener: TcpListener,
}

impl<'a> Served<'a> {
    pub(super) fn start(task: &'a Task) -> Result<Self> {
        let listener = task.netns.run(|| TcpListener::bind((task.addresses[0], OWN)))??;
        listener.set_nonblocking(true)?;
        Ok(Self { task, listener })
    }
}

/// A connection through a virtual address: both ends, and whose the second is.
pub(super) struct Held<'a> {
    client: TcpStream,
    server: TcpStream,
    pub(super) task: &'a Task,
}

impl<'a> Held<'a> {
    fn open(from: &NetNs, vip: IpAddr, servers: &[Served<'a>]) -> Result<Self> {
        let client = connect(from, SocketAddr::new(vip, OWN))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            for Served { task, listener } in servers {
                if let Ok((server, seen)) = listener.accept() {
                    ensure!(seen == client.local_addr()?, "{seen} is not {client:?}");
                    server.set_nonblocking(false)?;
                    server.set_read_timeout(Some(PATIENCE))?;
                    return Ok(Self { client, server, task });
                }
            }
            ensure!(Instant::now() < deadline, "nobody hears {client:?}");
            thread::yield_now();
        }
    }

    /// One with each of them.
    pub(super) fn all(from: &NetNs, vip: IpAddr, servers: &[Served<'a>]) -> Result<Vec<Self>> {
        let mut held = Vec::<Self>::new();
        for _ in 0..MANY {
            let new = Self::open(from, vip, servers)?;
            if held.iter().all(|old| old.task.id != new.task.id) {
                held.push(new);
            }
            if held.len() == servers.len() {
                return Ok(held);
            }
        }
        anyhow::bail!("not all of {} tasks have had a connection", servers.len())
    }

    /// Something is said, and answered.
    pub(super) fn echo(&mut self) -> Result<()> {
        let mut heard = [0; 8];
        self.client.write_all(b"question")?;
        self.server.read_exact(&mut heard)?;
        self.server.write_all(b"answered")?;
        self.client.read_exact(&mut heard)?;
        ensure!(&heard == b"answered");
        Ok(())
    }

    /// Waits for the reset; its server has not ended, so it is the switch's.
    pub(super) fn wait_for_reset(mut self) -> Result<()> {
        let error = self.client.read(&mut [0; 1]).err().context("an end in order")?;
        ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
        Ok(())
    }
}
