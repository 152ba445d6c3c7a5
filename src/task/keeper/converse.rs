//! What a keeper says at its control socket.

use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::mpsc;

use super::Keeper;
use crate::task::connection::{ConnectionError, Receiver, Sender};
use crate::task::frame::{Frame, Reply, Request, Status};
use crate::task::kept::KILLED;
use crate::task::log::Follower;

/// Frames that wait for a viewer; then the program waits.
const VIEWER_QUEUE: usize = 8;

impl Keeper {
    /// Answers whoever is there until it hangs up.
    pub(super) async fn converse(
        self: &Rc<Self>,
        mut receiver: Receiver,
        mut sender: Sender,
    ) -> Result<(), ConnectionError> {
        while let Some(frame) = receiver.next().await? {
            let Frame::Request(request) = frame else { return Err(ConnectionError::Unexpected) };
            let reply = match request {
                Request::Status => Reply::Status(self.status.borrow().clone()),
                Request::Start => match self.start() {
                    Ok(()) => Reply::Status(self.status.borrow().clone()),
                    Err(reason) => Reply::Refused { reason },
                },
                Request::Signal { number } => done(signal_of(number).and_then(|signal| self.signal(signal))),
                Request::Stop { number, patience_ms } => done(signal_of(number).map(|signal| {
                    self.stop(signal, Duration::from_millis(patience_ms));
                })),
                Request::Watch => return self.watch(sender).await,
                Request::Attach { input, output } => {
                    return self.attach(receiver, sender, input, output).await;
                }
                Request::Logs { tail } => return self.follow(sender, tail).await,
            };
            sender.send(&Frame::Reply(reply)).await?;
        }
        Ok(())
    }

    async fn watch(&self, mut sender: Sender) -> Result<(), ConnectionError> {
        let _heard = self.farewells.borrow().clone();
        let mut changes = self.status.subscribe();
        loop {
            let status: Status = changes.borrow_and_update().clone();
            let over = !status.state.is_kept();
            sender.send(&Frame::Reply(Reply::Status(status))).await?;
            if over || changes.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn attach(
        &self,
        receiver: Receiver,
        mut sender: Sender,
        input: bool,
        output: bool,
    ) -> Result<(), ConnectionError> {
        let _heard = self.farewells.borrow().clone();
        let (viewer, frames) = mpsc::channel(VIEWER_QUEUE);
        if output {
            self.viewers.borrow_mut().push(viewer.clone());
        }
        let told = sender.send(&Frame::Reply(Reply::Done)).await;
        let outcome = match told {
            Ok(()) => tokio::select! {
                heard = self.take_input(receiver, input) => heard,
                shown = self.show_all(sender, frames) => shown,
            },
            failed => failed,
        };
        self.viewers.borrow_mut().retain(|other| !other.same_channel(&viewer));
        if input && !self.kept.program.tty {
            // Who had the input has gone: there will be no more.
            drop(self.input.lock().await.take());
        }
        outcome
    }

    async fn show_all(
        &self,
        mut sender: Sender,
        mut frames: mpsc::Receiver<Frame>,
    ) -> Result<(), ConnectionError> {
        let mut status = self.status.subscribe();
        loop {
            tokio::select! {
                biased;
                // All that the program has written is in the queue when its end is told.
                Some(frame) = frames.recv() => sender.send(&frame).await?,
                _ = status.wait_for(|status| !status.state.is_kept()) => break,
            }
        }
        self.say_end(&mut sender).await
    }

    async fn say_end(&self, sender: &mut Sender) -> Result<(), ConnectionError> {
        let code = self.status.borrow().exit_code.unwrap_or(KILLED);
        sender.send(&Frame::Ended(code)).await
    }

    /// Until the other side hangs up.
    async fn take_input(&self, mut receiver: Receiver, input: bool) -> Result<(), ConnectionError> {
        while let Some(frame) = receiver.next().await? {
            match frame {
                Frame::Input(bytes) if input => self.put(&bytes).await,
                Frame::InputEnd if input && !self.kept.program.tty => drop(self.input.lock().await.take()),
                Frame::InputEnd => {}
                Frame::Resize(size) => self.resize(size),
                _ => return Err(ConnectionError::Unexpected),
            }
        }
        Ok(())
    }

    /// Writes to the program's input; what it does not want any more is lost.
    async fn put(&self, bytes: &[u8]) {
        // Before the start it waits with whoever sends it.
        let mut status = self.status.subscribe();
        let started = status.wait_for(|status| status.started_ms.is_some() || !status.state.is_kept());
        drop(started.await);
        let mut input = self.input.lock().await;
        if let Some(open) = &*input
            && open.write_all(bytes).await.is_err()
        {
            *input = None;
        }
    }

    async fn follow(&self, mut sender: Sender, tail: Option<u64>) -> Result<(), ConnectionError> {
        let _heard = self.farewells.borrow().clone();
        let mut written = self.written.subscribe();
        let mut status = self.status.subscribe();
        let failed = |error: crate::state::StateError| ConnectionError::Refused(error.to_string());
        written.mark_unchanged();
        let begun = Follower::begin(&self.log.borrow(), tail);
        let (mut follower, mut lines) = begun.map_err(failed)?;
        loop {
            for line in lines.split_inclusive(|&byte| byte == b'\n') {
                sender.send(&Frame::Log(line.trim_ascii_end().into())).await?;
            }
            if written.has_changed().is_ok_and(|changed| !changed) {
                let over = !status.borrow_and_update().state.is_kept();
                if over {
                    return self.say_end(&mut sender).await;
                }
                tokio::select! {
                    _ = written.changed() => {}
                    _ = status.changed() => {}
                }
            }
            written.mark_unchanged();
            lines = follower.more(&self.log.borrow()).map_err(failed)?;
        }
    }
}

fn done(outcome: Result<(), String>) -> Reply {
    outcome.map_or_else(|reason| Reply::Refused { reason }, |()| Reply::Done)
}

fn signal_of(number: u8) -> Result<Signal, String> {
    Signal::from_named_raw(number.into()).ok_or_else(|| format!("there is no signal {number}"))
}
