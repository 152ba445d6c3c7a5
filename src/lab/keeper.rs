//! One thread that starts every program of a lab.
//!
//! The death signal by which programs end with their lab goes by the *thread* that started them (prctl(2),
//! `PR_SET_PDEATHSIG`). So that a lab may be built by a thread that ends before it, this one starts them all and
//! lives as long as the lab.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

type Order = (Command, SyncSender<io::Result<Child>>);

#[derive(Debug)]
pub(super) struct Keeper {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(super) fn new() -> io::Result<Self> {
        let (orders, taken) = channel::<Order>();
        let work = move || {
            for (mut command, answer) in taken {
                // Who ordered it waits for the answer.
                let _gone = answer.send(command.spawn());
            }
        };
        let thread = thread::Builder::new().name("lab-keeper".into()).spawn(work)?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    pub(super) fn spawn(&self, command: Command) -> io::Result<Child> {
        let (answer, answered) = sync_channel(1);
        let orders = self.orders.as_ref().expect("open until dropped");
        orders.send((command, answer)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        answered.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // It panics nowhere, and a panic here would hide the first one.
            let _panicked = thread.join();
        }
    }
}
