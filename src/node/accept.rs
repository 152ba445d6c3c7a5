//! Taking connections from whoever calls: as many at a time, from one address, and for as long as is decent.
//!
//! Strangers may call, so everything is bounded. One address gets a part of the room only, so that nobody fills it
//! alone.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 128;
/// Of these, from one address: several nodes may be behind one, or on one machine.
const CONNECTIONS_OF_ONE_MAX: usize = 64;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait if descriptors are used up: accepting would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a port that somebody else has is tried again.
const BIND_PAUSE: Duration = Duration::from_secs(1);

/// Listens at `address`, as often as it takes; says once that it is taken. `purpose` is for that.
pub(super) async fn listen(address: SocketAddr, purpose: &str) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    warn!("can't listen at TCP {address} for {purpose}, trying on: {error}");
                }
                sleep(BIND_PAUSE).await;
            }
        }
    }
}

/// Has `converse` talk to each that calls, until this is dropped. Those who are turned away, break off or take too long
/// are counted in `refused`.
pub(super) async fn serve<C, F>(
    listener: &TcpListener,
    purpose: &'static str,
    refused: &Arc<AtomicU64>,
    converse: C,
) where
    C: Fn(TcpStream, SocketAddr) -> F,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let callers = Arc::new(Callers::default());
    let mut connections = JoinSet::new();
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!("can't accept connections for {purpose}: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Their results are logged where they arise; here they only make room.
        while connections.try_join_next().is_some() {}
        let Some(place) = Callers::admit(&callers, from.ip()) else {
            refused.fetch_add(1, Ordering::Relaxed);
            debug!("{from}, {purpose}: too many connections at a time");
            continue;
        };
        let conversation = converse(stream, from);
        let refused = Arc::clone(refused);
        connections.spawn(async move {
            let outcome = timeout(PATIENCE, conversation).await;
            if !matches!(outcome, Ok(Ok(()))) {
                refused.fetch_add(1, Ordering::Relaxed);
            }
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!("{from}, {purpose}: {error}"),
                Err(_) => debug!("{from}, {purpose}: it took longer than {PATIENCE:?}"),
            }
            drop((permit, place));
        });
    }
}

/// Who has how many connections.
#[derive(Debug, Default)]
struct Callers(Mutex<HashMap<IpAddr, usize>>);

/// One connection's share.
#[derive(Debug)]
struct Place(Arc<Callers>, IpAddr);

impl Callers {
    fn admit(this: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let mut counts = this.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(from).or_default();
        (*count < CONNECTIONS_OF_ONE_MAX).then(|| {
            *count += 1;
            Place(Arc::clone(this), from)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_gets_its_share_and_gives_it_back() {
        let callers = Arc::new(Callers::default());
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let mut places: Vec<_> =
            (0..CONNECTIONS_OF_ONE_MAX).map(|_| Callers::admit(&callers, one).unwrap()).collect();
        assert!(Callers::admit(&callers, one).is_none());
        assert!(Callers::admit(&callers, other).is_some());
        places.pop();
        assert!(Callers::admit(&callers, one).is_some());
        drop(places);
        assert!(callers.0.lock().unwrap().is_empty());
    }
}
