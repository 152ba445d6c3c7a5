//! One peer's keys, in the switch and out of it.

use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::number::Number;
use crate::crypto::envelope::SessionId;
use crate::crypto::exporter::SessionKeys;
use crate::crypto::open::Opener;
use crate::crypto::renewal::{Action, Renewal, Side};
use crate::crypto::seal::Sealer;
use crate::switch::switch::Switch;
use crate::switch::tables::TableError;
use crate::switch::vtep::VtepId;

/// What is known of the keys of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionReport {
    /// Whether there is a key to seal with: without, it gets nothing of sealed networks.
    pub seals: bool,
    /// Datagrams sealed with that key.
    pub sealed: u64,
    /// Keys that open what it seals: the current one and those before.
    pub openers: usize,
}

/// A peer with which a sealed network is shared.
#[derive(Debug)]
pub(super) struct Peer {
    /// What the switch calls it; none until it is there, with what this holds.
    at: Option<VtepId>,
    pub(super) life: u64,
    pub(super) renewal: Renewal,
    /// What is sealed with.
    sealer: Option<Arc<Sealer>>,
    /// What will be sealed with once the peer opens it.
    waiting: Option<Arc<Sealer>>,
    openers: Vec<(Number, Arc<Opener>)>,
    /// Which question is open: answers to others come too late.
    pub(super) question: Option<u64>,
}

impl Peer {
    pub(super) fn new(life: u64, renewal: Renewal) -> Self {
        Self { at: None, life, renewal, sealer: None, waiting: None, openers: Vec::new(), question: None }
    }

    /// The peer has this place in the switch; what it has there is made what this holds.
    ///
    /// # Errors
    /// If the switch refuses; it is tried again the next time.
    pub(super) fn place(&mut self, switch: &Switch, at: VtepId) -> Result<(), TableError> {
        if self.at == Some(at) {
            return Ok(());
        }
        self.at = None;
        for (_, opener) in &self.openers {
            switch.remove_opener(opener.session());
            switch.add_opener(at, Arc::clone(opener))?;
        }
        switch.set_sealer(at, self.sealer.clone())?;
        self.at = Some(at);
        Ok(())
    }

    /// The switch is another one now, in which the peer has no place yet.
    pub(super) fn displace(&mut self) {
        self.at = None;
    }

    /// Takes keys that have been agreed on into use, as far as may be; gives false for those that came too late.
    ///
    /// # Errors
    /// If the switch does not take the opener, or the peer has no place in it. Nothing has changed.
    pub(super) fn install(
        &mut self,
        switch: &Switch,
        number: Number,
        send: SessionId,
        keys: SessionKeys,
        side: Side,
        now: Duration,
    ) -> Result<bool, TableError> {
        let at = self.at.ok_or(TableError::NoSuchPeer)?;
        let receive = number.id();
        let opener = Arc::new(Opener::new(&keys.receive, receive));
        switch.add_opener(at, Arc::clone(&opener))?;
        if !self.renewal.handle_agreed(send, receive, side, now) {
            switch.remove_opener(receive);
            return Ok(false);
        }
        self.openers.push((number, opener));
        self.waiting = Some(Arc::new(Sealer::new(&keys.send, send)));
        self.act(switch);
        Ok(true)
    }

    /// These sessions were heard, in the order of their numbers; some may be of this peer.
    pub(super) fn handle_heard(&mut self, heard: &[SessionId], now: Duration) {
        for (number, _) in &self.openers {
            if heard.binary_search(&number.id()).is_ok() {
                self.renewal.handle_heard(number.id(), now);
            }
        }
    }

    /// Time has passed; gives whether to ask for keys.
    pub(super) fn handle_time(&mut self, switch: &Switch, now: Duration) -> bool {
        if let Some(sealer) = &self.sealer {
            self.renewal.handle_used(sealer.used(), now);
        }
        self.renewal.handle_time(now);
        self.act(switch)
    }

    /// Does what the renewal wants done; gives whether that is to ask, too.
    pub(super) fn act(&mut self, switch: &Switch) -> bool {
        let mut ask = false;
        while let Some(action) = self.renewal.poll() {
            match action {
                Action::Ask => ask = true,
                Action::Seal(session) => self.seal_with(switch, session),
                Action::Forget(session) => {
                    self.openers.retain(|(number, _)| number.id() != session);
                    switch.remove_opener(session);
                }
            }
        }
        ask
    }

    fn seal_with(&mut self, switch: &Switch, session: SessionId) {
        let Some(sealer) = self.waiting.take_if(|sealer| sealer.session() == session) else { return };
        self.sealer = Some(sealer);
        let Some(at) = self.at else { return };
        if let Err(error) = switch.set_sealer(at, self.sealer.clone()) {
            // It has just left the switch; whoever places it again sets the sealer.
            debug!("a peer's new key is kept for later: {error}");
            self.at = None;
        }
    }

    /// Takes all keys out of the switch.
    pub(super) fn leave(self, switch: &Switch) {
        for (number, _) in &self.openers {
            switch.remove_opener(number.id());
        }
        if let Some(at) = self.at
            && let Err(error) = switch.set_sealer(at, None)
        {
            debug!("a peer has left the switch before its keys: {error}");
        }
    }

    pub(super) fn report(&self) -> SessionReport {
        SessionReport {
            seals: self.sealer.is_some(),
            sealed: self.sealer.as_ref().map_or(0, |sealer| sealer.used()),
            openers: self.openers.len(),
        }
    }
}
