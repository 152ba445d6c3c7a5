//! How records travel: changes at once, differences by comparison.
//!
//! 1. A change of our own record goes to every live node, and again until that node says that it has it.
//! 2. A cluster record goes to every live node once (twice on the wire).
//! 3. About once a second a node sends the sums of its tables to the node that it hasn't compared with for longest;
//!    where they differ, they narrow it down ([`crate::digest`]) and send each other the records that are newer. Of a
//!    third node's owned records that differ, that node itself is asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::{Merged, Record};
use crate::digest::{Difference, Item, LIST_LIMIT, Range};
use crate::engine::{Changed, Engine, Event, Rejected};
use crate::id::{NodeId, Now, TableId};
use crate::message::{Mark, Message, RANGES_PER_MESSAGE};
use crate::neighbour::{Comparison, Link};
use crate::owned::{self, Delta, Name};

/// Bytes of records in a datagram; the rest of its limit is for headers.
const PART: usize = 900;
/// How long a node that had no room for a record wants none of those that it lacks, unless room has been made.
const FULL_PAUSE: Duration = Duration::from_secs(900);
/// Records asked for at a time.
const PULL_LIMIT: usize = 100;

impl Engine {
    pub(crate) fn handle_exchange(
        &mut self,
        now: Now,
        sender: NodeId,
        message: Message,
    ) -> Result<(), Rejected> {
        if !self.neighbours.get(&sender).is_some_and(|neighbour| neighbour.alive) {
            // It will be introduced shortly, and all this comes again.
            return Err(Rejected::Stranger);
        }
        match message {
            Message::Own(delta) => self.take_own(sender, delta),
            Message::Have(mark) => self.acknowledged(now.at, sender, mark),
            Message::Records(records) => {
                for record in records {
                    self.merge(record, now);
                }
            }
            Message::Compare { mark, whole, ranges } => self.compare(now.at, sender, mark, whole, ranges),
            Message::Same { mark } => {
                self.check_mark(sender, mark);
                self.note_equal(now.at, sender);
            }
            Message::List { table, low, high, full, items } => {
                self.take_list(now.at, sender, (table, low, high), full, &items)
            }
            Message::Pull { table, hashes } => self.send_pulled(sender, table, &hashes),
            Message::Hello { .. }
            | Message::Ask { .. }
            | Message::Here { .. }
            | Message::Leave { .. }
            | Message::Ping { .. }
            | Message::Pong { .. }
            | Message::Past { .. } => {}
        }
        Ok(())
    }

    /// Sends every live node what it lacks of our own records.
    pub(crate) fn push_own(&mut self, now: Instant) {
        if !std::mem::take(&mut self.unsent) && self.next_retry.is_none_or(|at| now < at) {
            return;
        }
        let latest = self.log.version();
        let due = self.neighbours.iter_mut().filter(|(_, neighbour)| neighbour.alive);
        let due: Vec<(NodeId, u64)> =
            due.filter_map(|(node, neighbour)| Some((*node, neighbour.link.due(latest, now)?))).collect();
        for (node, from) in due {
            let parts: Vec<Message> = self.log.since(from, PART).into_iter().map(Message::Own).collect();
            self.say(node, &parts);
            if let Some(neighbour) = self.neighbours.get_mut(&node) {
                neighbour.link.sent(latest, now);
            }
        }
        self.next_retry = self.neighbours.values().filter_map(|neighbour| neighbour.link.retry_at).min();
    }

    /// Tells every live node of a cluster record.
    pub(crate) fn spread(&mut self, now: Instant, record: &Record) {
        let message = Message::Records(vec![record.clone()]);
        let live = self.neighbours.values().filter(|neighbour| neighbour.alive);
        let live: Vec<_> = live.map(|neighbour| neighbour.peer).collect();
        for peer in live {
            if record.size() > PART {
                self.say(peer.node, std::slice::from_ref(&message));
            } else {
                self.say_twice(now, peer.addr, &message);
            }
        }
    }

    fn take_own(&mut self, sender: NodeId, delta: Delta) {
        let Some(neighbour) = self.neighbours.get_mut(&sender) else { return };
        let changes = neighbour.mirror.apply(delta);
        let (life, have) = (neighbour.mirror.life, neighbour.mirror.have);
        for (name, value) in changes {
            let version = self.version_of(sender, &name);
            self.show(name.clone(), Some(sender), owned::item(sender, life, &name, version), value);
        }
        self.refresh(sender);
        self.say(sender, &[Message::Have(Mark { life, version: have })]);
    }

    fn version_of(&self, owner: NodeId, name: &Name) -> u64 {
        let neighbour = self.neighbours.get(&owner);
        neighbour.and_then(|neighbour| neighbour.mirror.version_of(name)).unwrap_or(0)
    }

    fn acknowledged(&mut self, now: Instant, sender: NodeId, mark: Mark) {
        let latest = self.log.version();
        if mark.life > self.log.life {
            self.swim.supersede(now, mark.life);
        } else if let Some(neighbour) = self.neighbours.get_mut(&sender) {
            let version = if mark.life == self.log.life { mark.version } else { 0 };
            let knew_us = neighbour.link.knows_us;
            neighbour.link.acknowledged(version, latest);
            if neighbour.link.knows_us && !knew_us {
                self.out.events.push(Event::KnowsUs(sender));
            }
            self.unsent = true;
        }
    }

    /// Our own life is another now: the same records under a later number.
    pub(crate) fn begin_life(&mut self) {
        let (life, me) = (self.me().life, self.me().node);
        self.log.renew(life);
        self.unsent = true;
        self.neighbours.values_mut().for_each(|neighbour| neighbour.link = Link::new());
        let items: Vec<(TableId, Item)> = self
            .log
            .records()
            .map(|(name, version, _)| (name.0, owned::item(me, life, name, version)))
            .collect();
        items.into_iter().for_each(|(table, item)| self.index.insert(table, item));
    }

    pub(crate) fn compare_with_next(&mut self, now: Instant) {
        let live = self.neighbours.iter_mut().filter(|(_, neighbour)| neighbour.alive);
        let Some((node, neighbour)) = live.min_by_key(|(_, neighbour)| neighbour.compared) else { return };
        let node = *node;
        neighbour.compared = Some(now);
        let ranges = self.index.whole();
        let whole = ranges.len() <= RANGES_PER_MESSAGE;
        let mark = self.mark();
        if ranges.is_empty() {
            return self.say(node, &[Message::Compare { mark, whole, ranges }]);
        }
        for ranges in ranges.chunks(RANGES_PER_MESSAGE) {
            self.say(node, &[Message::Compare { mark, whole, ranges: ranges.to_vec() }]);
        }
    }

    fn mark(&self) -> Mark {
        Mark { life: self.log.life, version: self.log.version() }
    }

    /// Asks for what `sender` has said that we lack of its own records.
    fn check_mark(&mut self, sender: NodeId, mark: Mark) {
        if let Some(mirror) = self.neighbours.get(&sender).map(|neighbour| &neighbour.mirror) {
            let have = Mark { life: mirror.life, version: mirror.have };
            if have != mark {
                self.say(sender, &[Message::Have(have)]);
            }
        }
    }

    fn compare(&mut self, now: Instant, sender: NodeId, mark: Mark, whole: bool, mut theirs: Vec<Range>) {
        self.check_mark(sender, mark);
        theirs.truncate(RANGES_PER_MESSAGE);
        if whole {
            let named: Vec<TableId> = theirs.iter().map(|range| range.table).collect();
            let unnamed = self.index.whole().into_iter().filter(|range| !named.contains(&range.table));
            theirs.extend(unnamed.map(|range| Range { count: 0, sum: 0, ..range }).collect::<Vec<_>>());
        }
        let mut replies = Vec::new();
        for range in &theirs {
            match self.index.compare(range) {
                Difference::None => {}
                Difference::Split(ranges) => {
                    replies.push(Message::Compare { mark: self.mark(), whole: false, ranges });
                }
                Difference::List(items) => {
                    let Range { table, low, high, .. } = *range;
                    let full = self.is_full(now);
                    replies.push(Message::List { table, low, high, full, items });
                }
            }
        }
        if replies.is_empty() && whole {
            self.note_equal(now, sender);
            replies.push(Message::Same { mark: self.mark() });
        }
        replies.iter().for_each(|reply| self.say(sender, std::slice::from_ref(reply)));
    }

    fn note_equal(&mut self, now: Instant, sender: NodeId) {
        if let Some(neighbour) = self.neighbours.get_mut(&sender) {
            neighbour.comparison = Comparison::Equal { at: now };
            neighbour.compared = Some(now);
        }
    }

    /// Whether a record was refused for want of room, and nothing has changed that. Then it isn't asked for or sent
    /// again and again: the same comparison would find it each time.
    fn is_full(&self, now: Instant) -> bool {
        self.full_until.is_some_and(|until| now < until) && !self.registers.has_room()
    }

    /// `theirs` is all that `sender` has in a stretch: sends what is newer here, asks for what is newer there. If it is
    /// full, only tombstones go to it, which make room.
    fn take_list(
        &mut self,
        now: Instant,
        sender: NodeId,
        stretch: (TableId, u64, u64),
        full: bool,
        theirs: &[Item],
    ) {
        let (table, low, high) = stretch;
        let theirs = &theirs[..theirs.len().min(LIST_LIMIT)];
        let mine: Vec<Item> = self.index.within(table, low, high).copied().collect();
        let (mut newer_here, mut newer_there, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        for item in &mine {
            let other = theirs.iter().find(|other| other.hash == item.hash);
            if other != Some(item) {
                self.note_difference(now, sender, table, item.hash);
                owners.push(item.writer);
            }
            if other.is_none_or(|other| (other.time, other.writer) < (item.time, item.writer)) {
                newer_here.push(item.hash);
            }
        }
        for item in theirs {
            let here = mine.iter().find(|here| here.hash == item.hash);
            if here.is_none() {
                self.note_difference(now, sender, table, item.hash);
                owners.push(item.writer);
            }
            if here.is_none_or(|here| (here.time, here.writer) < (item.time, item.writer)) {
                newer_there.push(item.hash);
            }
        }
        if table.is_cluster() {
            if full {
                newer_here.retain(|hash| {
                    theirs.iter().any(|item| item.hash == *hash) && self.is_tombstone(table, *hash)
                });
            }
            self.send_records(sender, table, &newer_here);
            if self.is_full(now) {
                newer_there.clear();
            }
            for hashes in newer_there.chunks(PULL_LIMIT) {
                self.say(sender, &[Message::Pull { table, hashes: hashes.to_vec() }]);
            }
        } else {
            owners.sort_unstable();
            owners.dedup();
            owners.into_iter().for_each(|owner| self.ask_owner(owner));
        }
    }

    fn is_tombstone(&self, table: TableId, hash: u64) -> bool {
        let key = self.keys.get(&(table, hash));
        key.and_then(|key| self.registers.record(table, key)).is_some_and(|record| record.value.is_none())
    }

    fn note_difference(&mut self, now: Instant, sender: NodeId, table: TableId, hash: u64) {
        let key = self.keys.get(&(table, hash)).map(String::as_str);
        if let Some(neighbour) = self.neighbours.get_mut(&sender) {
            neighbour.note_difference(table, key, now);
        }
    }

    /// Tells a live owner how far we have its records, so that it sends the rest.
    fn ask_owner(&mut self, owner: NodeId) {
        if let Some(neighbour) = self.neighbours.get(&owner).filter(|neighbour| neighbour.alive) {
            let have = Mark { life: neighbour.mirror.life, version: neighbour.mirror.have };
            self.say(owner, &[Message::Have(have)]);
        }
    }

    fn send_pulled(&mut self, sender: NodeId, table: TableId, hashes: &[u64]) {
        if table.is_cluster() {
            self.send_records(sender, table, &hashes[..hashes.len().min(PULL_LIMIT)]);
        }
    }

    fn send_records(&mut self, to: NodeId, table: TableId, hashes: &[u64]) {
        let mut parts: Vec<Message> = Vec::new();
        let (mut part, mut size) = (Vec::new(), 0);
        for hash in hashes {
            let key = self.keys.get(&(table, *hash));
            let Some(record) = key.and_then(|key| self.registers.record(table, key)) else { continue };
            if size + record.size() > PART && !part.is_empty() {
                parts.push(Message::Records(std::mem::take(&mut part)));
                size = 0;
            }
            size += record.size();
            part.push(record.clone());
        }
        if !part.is_empty() {
            parts.push(Message::Records(part));
        }
        if !parts.is_empty() {
            self.say(to, &parts);
        }
    }

    /// A record is visible with that value, or no longer: for comparison and for those that watch.
    pub(crate) fn show(&mut self, name: Name, owner: Option<NodeId>, item: Item, value: Option<Arc<[u8]>>) {
        let (table, key) = name;
        if value.is_some() {
            self.index.insert(table, item);
            self.keys.insert((table, item.hash), key.clone());
        } else {
            self.index.remove(table, item.hash);
            self.keys.remove(&(table, item.hash));
        }
        self.out.events.push(Event::Changed(Changed { table, owner, key, value }));
    }

    /// A cluster record: its tombstone is compared as well.
    pub(crate) fn show_register(&mut self, record: &Record) {
        let value = record.value.as_deref().map(Into::into);
        let item = record.item();
        self.show((record.table, record.key.clone()), None, item, value);
        self.index.insert(record.table, item);
        self.keys.insert((record.table, item.hash), record.key.clone());
    }

    /// Takes a record that somebody sent into the registers, the index and the news.
    pub(crate) fn merge(&mut self, record: Record, now: Now) {
        let verifier = Arc::clone(&self.authority.verifier);
        match self.registers.merge(record.clone(), verifier.as_ref(), now.wall_ms) {
            Merged::New => {
                self.show_register(&record);
                self.dirty = true;
            }
            Merged::Known => {}
            Merged::NoRoom => {
                self.refused += 1;
                self.full_until = Some(now.at + FULL_PAUSE);
            }
            Merged::Untimely | Merged::Refused => self.refused += 1,
        }
    }

    pub(crate) fn expire(&mut self, now: Now) {
        for record in self.registers.expire(now.wall_ms) {
            let hash = record.item().hash;
            self.index.remove(record.table, hash);
            self.keys.remove(&(record.table, hash));
        }
    }

    /// Versions move without a change of value, too: sets every item of a live owner's anew.
    fn refresh(&mut self, owner: NodeId) {
        let Some(neighbour) = self.neighbours.get(&owner) else { return };
        let life = neighbour.mirror.life;
        for (name, version, _) in neighbour.mirror.records() {
            self.index.insert(name.0, owned::item(owner, life, name, version));
        }
    }

    /// An owner is back: so are its records.
    pub(crate) fn reveal(&mut self, owner: NodeId) {
        self.show_mirror(owner, true);
    }

    /// An owner is gone: so are its records, until it returns.
    pub(crate) fn hide(&mut self, owner: NodeId) {
        self.show_mirror(owner, false);
    }

    fn show_mirror(&mut self, owner: NodeId, visible: bool) {
        let Some(neighbour) = self.neighbours.get(&owner) else { return };
        let life = neighbour.mirror.life;
        let records: Vec<(Name, u64, Arc<[u8]>)> = neighbour
            .mirror
            .records()
            .map(|(name, version, value)| (name.clone(), version, Arc::clone(value)))
            .collect();
        for (name, version, value) in records {
            let item = owned::item(owner, life, &name, version);
            self.show(name, Some(owner), item, visible.then_some(value));
        }
    }

    /// An owner has started anew: what it said before doesn't count. `was_visible`: it was alive until now.
    pub(crate) fn end_life_of(&mut self, owner: NodeId, life: u64, was_visible: bool) {
        if was_visible {
            self.hide(owner);
        }
        if let Some(neighbour) = self.neighbours.get_mut(&owner) {
            neighbour.mirror.begin(life);
        }
    }
}
