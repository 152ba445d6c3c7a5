//! Doors that are watched: who waits for sockets is told which of them something has come to, and takes it.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::door::{Door, is_no_room};
use super::nat::{Host, Interest, Token};

/// Connections and datagrams that are taken from a door at a time: the others have their turn too.
const BATCH: usize = 64;
/// How long nobody is let in after the system had no descriptor or memory left for it.
const PAUSE: Duration = Duration::from_millis(100);

/// Doors, each with what its owner wants to know when something has come there.
#[derive(Debug)]
pub(crate) struct Doors<T> {
    open: HashMap<Token, (T, Arc<Door>)>,
    /// Those that have more, or could not be taken from, and when they are to be.
    later: HashMap<Token, Instant>,
    /// Those that could not be watched, and when that is tried again.
    unwatched: Vec<(T, Arc<Door>)>,
    watch_again: Option<Instant>,
}

impl<T> Default for Doors<T> {
    fn default() -> Self {
        Self { open: HashMap::new(), later: HashMap::new(), unwatched: Vec::new(), watch_again: None }
    }
}

impl<T> Doors<T> {
    /// Has these and no others; gives those that are gone. `failed` is told which new ones can't be watched for now.
    pub(crate) fn set(
        &mut self,
        doors: Vec<(T, Arc<Door>)>,
        host: &mut Host,
        now: Instant,
        mut failed: impl FnMut(&Door, &io::Error),
    ) -> Vec<Token> {
        let wanted = pointers(&doors);
        let is_gone = |_: &Token, (_, open): &mut (T, Arc<Door>)| !wanted.contains(&Arc::as_ptr(open));
        let gone = self.open.extract_if(is_gone).map(|(token, _)| token).collect();
        self.later.retain(|token, _| self.open.contains_key(token));
        let open = self.open.iter().map(|(&token, (_, door))| (Arc::as_ptr(door), token));
        let open: HashMap<*const Door, Token> = open.collect();
        let unwatched = std::mem::take(&mut self.unwatched);
        let before = pointers(&unwatched);
        for (what, door) in doors {
            let there = open.get(&Arc::as_ptr(&door)).and_then(|token| self.open.get_mut(token));
            if let Some((known, _)) = there {
                *known = what;
                continue;
            }
            let is_new = !before.contains(&Arc::as_ptr(&door));
            self.watch(what, door, host, now, |door, error| {
                if is_new {
                    failed(door, error);
                }
            });
        }
        gone
    }

    /// Is told of what comes to a door from now on; tries it again later if it can't be.
    fn watch(
        &mut self,
        what: T,
        door: Arc<Door>,
        host: &mut Host,
        now: Instant,
        failed: impl FnOnce(&Door, &io::Error),
    ) {
        // Told of once: what is left then is asked for again, and where there is no room it is not asked in vain.
        match door.with(|socket| host.watch(socket, Interest::Arrivals)) {
            Some(Ok(token)) => drop(self.open.insert(token, (what, door))),
            Some(Err(error)) => {
                failed(&door, &error);
                self.unwatched.push((what, door));
                self.watch_again = Some(now + PAUSE);
            }
            // It has been closed meanwhile.
            None => {}
        }
    }

    /// Watches those that could not be watched before, if it is time; `failed` is told which still can't be.
    pub(crate) fn retry(&mut self, host: &mut Host, now: Instant, mut failed: impl FnMut(&Door, &io::Error)) {
        if self.watch_again.take_if(|at| *at <= now).is_none() {
            return;
        }
        for (what, door) in std::mem::take(&mut self.unwatched) {
            self.watch(what, door, host, now, &mut failed);
        }
    }

    /// Has `one` take from a door, again and again until there is nothing left, or the others have their turn. `one` gives
    /// `None` if the door is closed. Whether it is one of these.
    pub(crate) fn take(
        &mut self,
        token: Token,
        now: Instant,
        mut one: impl FnMut(&T, &Arc<Door>) -> Option<io::Result<()>>,
    ) -> bool {
        let Some((what, door)) = self.open.get(&token) else { return false };
        self.later.remove(&token);
        for _ in 0..BATCH {
            match one(what, door) {
                None => return true,
                Some(Ok(())) => {}
                Some(Err(error)) => match error.kind() {
                    ErrorKind::WouldBlock => return true,
                    _ if is_no_room(&error) => {
                        self.later.insert(token, now + PAUSE);
                        return true;
                    }
                    // That connection has ended already (accept(2)), an error of a datagram that was sent before, or a signal.
                    _ => {}
                },
            }
        }
        self.later.insert(token, now);
        true
    }

    /// Those that are to be taken from though nothing new has come.
    pub(crate) fn due(&self, now: Instant) -> Vec<Token> {
        self.later.iter().filter(|&(_, &at)| at <= now).map(|(&token, _)| token).collect()
    }

    /// When there is something to be done though nothing new has come.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.later.values().chain(&self.watch_again).min().copied()
    }

    /// All that are watched.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = Token> {
        self.open.keys().copied()
    }
}

/// What tells doors apart as long as they are there.
fn pointers<'a, T: 'a>(doors: impl IntoIterator<Item = &'a (T, Arc<Door>)>) -> HashSet<*const Door> {
    doors.into_iter().map(|(_, door)| Arc::as_ptr(door)).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::api::{Protocol, PublishedPort};

    fn host() -> Host {
        Host::new(Arc::new(Semaphore::new(9))).unwrap()
    }

    fn door() -> Arc<Door> {
        let address = Some([127, 0, 0, 1].into());
        let port = PublishedPort { address, published: 0, protocol: Protocol::Tcp, target: 80 };
        Door::open(&port, &Arc::new(Semaphore::new(1))).unwrap().remove(0)
    }

    #[test]
    fn one_that_can_not_be_watched_is_tried_again() {
        let (mut doors, mut host, door, now) = (Doors::default(), host(), door(), Instant::now());
        // The system does not watch a socket twice.
        let twice = door.with(|socket| host.watch(socket, Interest::Arrivals)).unwrap();
        assert!(twice.is_ok());
        let told = std::cell::Cell::new(0);
        let failed = |_: &Door, _: &io::Error| told.set(told.get() + 1);
        for _ in 0..2 {
            doors.set(vec![((), Arc::clone(&door))], &mut host, now, failed);
            assert_eq!((doors.tokens().count(), doors.next(), told.get()), (0, Some(now + PAUSE), 1));
        }
        doors.retry(&mut host, now, failed);
        assert_eq!((doors.next(), told.get()), (Some(now + PAUSE), 1), "it is not time yet");
        let again = now + PAUSE;
        doors.retry(&mut host, again, failed);
        assert_eq!((doors.tokens().count(), doors.next(), told.get()), (0, Some(again + PAUSE), 2));
        doors.retry(&mut self::host(), again + PAUSE, failed);
        assert_eq!((doors.tokens().count(), doors.next(), told.get()), (1, None, 2));
    }

    #[test]
    fn those_that_stay_are_left_as_they_are_and_others_come_and_go() {
        let (mut doors, mut host, now) = (Doors::default(), host(), Instant::now());
        let [first, stays, last] = [(); 3].map(|()| door());
        let mut set = |wanted: &[(u8, &Arc<Door>)]| {
            let wanted = wanted.iter().map(|&(what, door)| (what, Arc::clone(door))).collect();
            let gone = doors.set(wanted, &mut host, now, |_, error| panic!("{error}"));
            let token = |(&token, (what, door)): (&Token, &(u8, Arc<Door>))| (door.at(), (token, *what));
            (gone, doors.open.iter().map(token).collect::<HashMap<SocketAddr, _>>())
        };
        let (gone, before) = set(&[(1, &first), (2, &stays)]);
        assert_eq!((gone.len(), before.len()), (0, 2));
        let (gone, after) = set(&[(3, &stays), (4, &last)]);
        assert_eq!((gone, after.len()), (vec![before[&first.at()].0], 2));
        assert_eq!(after[&stays.at()], (before[&stays.at()].0, 3), "it is the same, and has another meaning");
        assert!(after.contains_key(&last.at()));
        let (gone, none) = set(&[]);
        assert_eq!((gone.len(), none.len()), (2, 0));
    }

    #[test]
    fn the_others_have_their_turn_too_and_nobody_asks_in_vain() {
        let (mut doors, mut host, now) = (Doors::default(), host(), Instant::now());
        doors.set(vec![((), door())], &mut host, now, |_, error| panic!("{error}"));
        let token = doors.tokens().next().unwrap();
        let mut calls = 0;
        let mut take = |answer: fn() -> Option<io::Result<()>>| {
            calls = 0;
            let known = doors.take(token, now, |(), _| {
                calls += 1;
                answer()
            });
            assert!(known);
            (calls, doors.next())
        };
        assert_eq!(take(|| Some(Ok(()))), (BATCH, Some(now)), "there may be more");
        assert_eq!(take(|| Some(Err(ErrorKind::WouldBlock.into()))), (1, None));
        let broken = || Some(Err(ErrorKind::ConnectionAborted.into()));
        assert_eq!(take(broken), (BATCH, Some(now)), "it is about the one");
        let full = || Some(Err(rustix::io::Errno::MFILE.into()));
        assert_eq!(take(full), (1, Some(now + PAUSE)));
        assert_eq!(take(|| None), (1, None), "closed");
        doors.set(Vec::new(), &mut host, now, |_, error| panic!("{error}"));
        assert!(!doors.take(token, now, |(), _| None));
    }
}
