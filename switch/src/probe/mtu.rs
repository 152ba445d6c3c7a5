//! The search for a path's MTU with padded probes: RFC 8899, by the means that its §5 leaves to a tunnel.
//!
//! - **Base**: a size that every path should carry is proved first, a smaller one only if it fails.
//! - **Search**: sizes that links are known to have, from the largest down, then halving what is left between the
//!   largest answered and the smallest failed. A size has failed when the system refuses to send it (the first link
//!   is smaller, or ICMP has said so), or when several probes of it in a row went unanswered while small ones
//!   were answered.
//! - **Complete**: the size found is proved again every few seconds. If that fails the path has become a black hole
//!   for it, and the search begins anew. After ten minutes larger sizes are tried again.
//!
//! Sizes are those of IP packets, whole. No clock, no socket: the caller asks for the size that is due, sends it,
//! and tells what became of it.

use std::time::{Duration, Instant};

/// What IPv6 demands of every link (RFC 8200 §5); RFC 8899 §5.1.2 recommends to begin with about as much.
const BASE: u16 = 1_280;
/// What every host takes (RFC 1122 §3.3.2); where the base fails.
const LEAST: u16 = 576;
/// The largest IPv4 packet.
const MOST: u16 = u16::MAX;
/// MTUs of links, from the largest down: jumbo frames, Ethernet, VXLAN in that, WireGuard in that, and less.
const USUAL: [u16; 5] = [9_000, 1_500, 1_450, 1_420, 1_400];

/// Between two probes of a search. The other end answers [`super::REPLIES`] of them.
const GAP: Duration = Duration::from_millis(100);
/// Between two proofs of the size found (`CONFIRMATION_TIMER`, RFC 8899 §5.1.1).
const CONFIRM_INTERVAL: Duration = Duration::from_secs(10);
/// Until larger sizes are tried again (`PMTU_RAISE_TIMER`, RFC 8899 §5.1.1).
const RAISE_INTERVAL: Duration = Duration::from_secs(600);

/// A search, or what it has found.
#[derive(Debug)]
pub(super) struct Search {
    /// The largest size that was answered; 0 if none was.
    proved: u16,
    /// The smallest that has failed.
    failed: u32,
    /// Whether there is nothing left to try, and when larger sizes are tried again.
    complete: Option<Instant>,
    flying: Option<Flying>,
    /// Probes of the size in question that went unanswered in a row.
    unanswered: usize,
    /// When the next probe may leave.
    due: Instant,
    told: Option<u16>,
}

/// The probe on its way.
#[derive(Debug)]
struct Flying {
    sequence: u32,
    /// Of the IP packet, whole.
    size: u16,
    /// Of the request in it.
    length: u16,
    sent: Instant,
}

impl Search {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            proved: 0,
            failed: u32::from(MOST) + 1,
            complete: None,
            flying: None,
            unanswered: 0,
            due: now,
            told: None,
        }
    }

    /// The size found, of the last search that came to an end or below.
    pub(super) fn found(&self) -> Option<u16> {
        self.told
    }

    /// The size to be sent now; [`Self::handle_sent`] follows.
    pub(super) fn poll_size(&mut self, now: Instant) -> Option<u16> {
        if self.flying.is_some() || now < self.due {
            return None;
        }
        if self.complete.is_some_and(|raise| raise <= now || self.proved == 0) {
            self.complete = None;
            self.failed = u32::from(MOST) + 1;
            if self.next_size().is_none() {
                self.settle(now);
                return None;
            }
        }
        if self.complete.is_some() { Some(self.proved) } else { self.next_size() }
    }

    /// The probe of that size has been handed over for sending.
    pub(super) fn handle_sent(&mut self, sequence: u32, size: u16, length: u16, now: Instant) {
        self.flying = Some(Flying { sequence, size, length, sent: now });
    }

    /// When the probe on its way was sent, and its request's length, if it is that one.
    pub(super) fn sent(&self, sequence: u32) -> Option<(Instant, u16)> {
        let flying = self.flying.as_ref().filter(|flying| flying.sequence == sequence)?;
        Some((flying.sent, flying.length))
    }

    /// The probe on its way was answered.
    pub(super) fn handle_reply(&mut self, now: Instant) {
        let Some(Flying { size, .. }) = self.flying.take() else { return };
        self.unanswered = 0;
        self.proved = self.proved.max(size);
        self.settle(now);
    }

    /// The system did not send that probe, because it is larger than the path as far as it knows.
    pub(super) fn handle_too_big(&mut self, sequence: u32, now: Instant) {
        if let Some(Flying { size, .. }) = self.flying.take_if(|flying| flying.sequence == sequence) {
            self.fail(size, now);
        }
    }

    /// Takes a probe for lost that has waited for `timeout`. As many as `patience` in a row, and the size has
    /// failed.
    pub(super) fn handle_timeout(&mut self, timeout: Duration, patience: usize, now: Instant) {
        let Some(Flying { size, .. }) = self.flying.take_if(|flying| flying.sent + timeout <= now) else {
            return;
        };
        self.unanswered += 1;
        if self.unanswered >= patience {
            self.fail(size, now);
        }
    }

    /// The path is down: what is on its way tells nothing of its size.
    pub(super) fn suspend(&mut self) {
        self.flying = None;
        self.unanswered = 0;
    }

    /// The path is up, maybe another one than before: what was found is proved again.
    pub(super) fn resume(&mut self, now: Instant) {
        self.due = now;
    }

    pub(super) fn next_deadline(&self, timeout: Duration) -> Instant {
        self.flying.as_ref().map_or(self.due, |flying| flying.sent + timeout)
    }

    /// The path's MTU when it has been found, or is known to be smaller than what was told before.
    pub(super) fn poll_change(&mut self) -> Option<u16> {
        let smaller = self.told.is_some_and(|told| self.proved < told);
        let worth_telling = self.proved > 0 && (self.complete.is_some() || smaller);
        let change = Some(self.proved).filter(|_| worth_telling && self.told != Some(self.proved));
        self.told = change.or(self.told);
        change
    }

    fn fail(&mut self, size: u16, now: Instant) {
        self.unanswered = 0;
        if size <= self.proved {
            // A black hole: what was proved no longer is.
            (self.proved, self.complete) = (0, None);
        }
        self.failed = size.into();
        self.settle(now);
    }

    fn settle(&mut self, now: Instant) {
        self.due = now + GAP;
        if self.complete.is_none() && self.next_size().is_none() {
            self.complete = Some(now + RAISE_INTERVAL);
        }
        if self.complete.is_some() {
            self.due = now + CONFIRM_INTERVAL;
        }
    }

    fn next_size(&self) -> Option<u16> {
        let open = |size: u16| size > self.proved && u32::from(size) < self.failed;
        if self.proved < BASE && open(BASE) {
            return Some(BASE);
        }
        if self.proved == 0 {
            return Some(LEAST).filter(|&size| open(size));
        }
        // A usual size that passes is the path's as a rule: one byte more tells.
        if USUAL.contains(&self.proved) && open(self.proved + 1) {
            return Some(self.proved + 1);
        }
        let usual = USUAL.into_iter().find(|&size| open(size));
        let middle = u16::try_from(u32::from(self.proved).midpoint(self.failed)).ok();
        usual.or(middle).filter(|&size| open(size))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);
    const PATIENCE: usize = 3;

    #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences matter")]
    fn start() -> Instant {
        Instant::now()
    }

    /// A path that carries so much, where a link of `told` bytes is the first: larger ones are refused at once.
    struct Link {
        mtu: u16,
        told: u16,
    }

    struct Run {
        search: Search,
        now: Instant,
        sent: u32,
        changes: Vec<u16>,
    }

    impl Run {
        fn new() -> Self {
            let now = start();
            Self { search: Search::new(now), now, sent: 0, changes: Vec::new() }
        }

        fn pass(&mut self, link: &Link, time: Duration) {
            let end = self.now + time;
            loop {
                if let Some(size) = self.search.poll_size(self.now) {
                    self.sent += 1;
                    self.search.handle_sent(self.sent, size, size, self.now);
                    if size > link.told {
                        self.search.handle_too_big(self.sent, self.now);
                    } else if size <= link.mtu {
                        self.search.handle_reply(self.now);
                    }
                }
                self.changes.extend(self.search.poll_change());
                let next = self.search.next_deadline(TIMEOUT);
                if next > end {
                    self.now = end;
                    return;
                }
                self.now = self.now.max(next);
                self.search.handle_timeout(TIMEOUT, PATIENCE, self.now);
            }
        }
    }

    #[test]
    fn usual_paths_take_a_few_probes() {
        for (mtu, told, probes) in
            [(1_500, 1_500, 4), (9_000, 9_000, 3), (1_280, 1_500, 40), (576, 1_500, 40)]
        {
            let mut run = Run::new();
            run.pass(&Link { mtu, told }, CONFIRM_INTERVAL * 12);
            assert_eq!(run.changes, [mtu], "what is not yet found is not told");
            let confirmed = 13;
            assert!(run.sent <= probes + confirmed, "{} probes for {mtu}", run.sent);
        }
    }

    #[test]
    fn a_path_that_has_become_smaller_is_told_at_once_and_found_again() {
        let mut run = Run::new();
        run.pass(&Link { mtu: 9_000, told: 9_000 }, Duration::from_secs(60));
        run.pass(&Link { mtu: 1_400, told: 9_000 }, Duration::from_secs(10));
        assert_eq!(run.changes, [9_000, BASE], "three proofs failed; what is safe is known");
        run.pass(&Link { mtu: 1_400, told: 9_000 }, Duration::from_secs(60));
        assert_eq!(run.changes, [9_000, BASE, 1_400]);
    }

    #[test]
    fn a_path_that_has_become_larger_is_found_in_ten_minutes() {
        let mut run = Run::new();
        run.pass(&Link { mtu: 1_400, told: 1_400 }, RAISE_INTERVAL / 2);
        run.pass(&Link { mtu: 9_000, told: 9_000 }, RAISE_INTERVAL);
        assert_eq!(run.changes, [1_400, 9_000]);
    }

    #[test]
    fn one_lost_probe_is_no_failure() {
        let (mut search, now) = (Search::new(start()), start());
        let at = |n: u32| now + TIMEOUT * n;
        for n in 0..2 {
            assert_eq!(search.poll_size(at(n)), Some(BASE));
            search.handle_sent(n, BASE, BASE, at(n));
            search.handle_timeout(TIMEOUT, PATIENCE, at(n + 1));
        }
        search.handle_sent(2, BASE, BASE, at(2));
        search.handle_reply(at(2));
        assert_eq!(search.proved, BASE);
        assert_eq!(search.failed, u32::from(MOST) + 1);
    }

    #[test]
    fn a_path_that_carries_next_to_nothing_is_asked_again() {
        let mut run = Run::new();
        run.pass(&Link { mtu: 500, told: 1_500 }, Duration::from_secs(60));
        assert_eq!((run.changes.len(), run.search.found()), (0, None));
        run.pass(&Link { mtu: 1_500, told: 1_500 }, Duration::from_secs(60));
        assert_eq!(run.changes, [1_500]);
    }

    proptest! {
        #[test]
        fn every_size_is_found_to_the_byte(mtu in LEAST..=MOST, silent: bool) {
            let mut run = Run::new();
            let told = if silent { MOST } else { mtu };
            run.pass(&Link { mtu, told }, Duration::from_secs(300));
            prop_assert_eq!(run.search.found(), Some(mtu));
            prop_assert_eq!(run.changes, [mtu]);
        }
    }
}
