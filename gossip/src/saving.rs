//! A node's memory on its way to the [`Store`]: one snapshot at a time, off the driver's task.
//!
//! Changes are numbered; a snapshot holds all up to the number that was the latest when it was made. So any number of
//! changes made during one save cost one more, and who waits for a change waits for a snapshot of its number or a later
//! one. A save that failed is repeated, with pauses of [`RETRY_MIN`] to [`RETRY_MAX`], or at the next change.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::engine::Engine;
use crate::parts::Store;

const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How far the store is.
#[derive(Debug, Default)]
struct Progress {
    /// The last snapshot that was handed to it.
    tried: u64,
    /// The last one that it holds.
    durable: u64,
    /// Why the last one isn't, if so.
    fault: Option<(io::ErrorKind, String)>,
}

pub(crate) struct Saving {
    latest: watch::Sender<u64>,
    progress: watch::Sender<Progress>,
    failures: AtomicU64,
}

impl Saving {
    pub(crate) fn new() -> Self {
        Self {
            latest: watch::channel(0).0,
            progress: watch::channel(Progress::default()).0,
            failures: AtomicU64::new(0),
        }
    }

    /// Saves that failed.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// There is something to be saved. To be called with the engine locked.
    pub(crate) fn note(&self) {
        self.latest.send_modify(|latest| *latest += 1);
    }

    /// Waits until all that was noted before is durable, or an attempt to make it so has failed; one that did earlier
    /// is repeated.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        if self.progress.borrow().fault.is_some() {
            self.note();
        }
        let wanted = *self.latest.borrow();
        let mut progress = self.progress.subscribe();
        let progress = progress
            .wait_for(|progress| progress.durable >= wanted || progress.tried >= wanted)
            .await
            .expect("the sender is ours");
        match &progress.fault {
            Some((kind, reason)) if progress.durable < wanted => Err(io::Error::new(*kind, reason.clone())),
            _ => Ok(()),
        }
    }

    /// Saves for ever.
    pub(crate) async fn run(&self, engine: &Mutex<Engine>, store: &Arc<dyn Store>) {
        let mut latest = self.latest.subscribe();
        let (mut tried, mut pause) = (0, RETRY_MIN);
        loop {
            let failed = self.progress.borrow().fault.is_some();
            let change = latest.wait_for(|latest| *latest > tried);
            if failed {
                // Whichever comes first.
                tokio::time::timeout(pause, change).await.map(drop).ok();
                pause = (pause * 2).min(RETRY_MAX);
            } else {
                change.await.expect("the sender is ours");
                pause = RETRY_MIN;
            }
            let (number, bytes) = {
                let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
                if engine.take_dirty() {
                    self.note();
                }
                (*self.latest.borrow(), engine.snapshot())
            };
            tried = number;
            let store = Arc::clone(store);
            let saved = tokio::task::spawn_blocking(move || store.save(&bytes)).await;
            self.finished(number, saved.unwrap_or_else(|panic| Err(io::Error::other(panic))));
        }
    }

    fn finished(&self, number: u64, saved: io::Result<()>) {
        if saved.is_err() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        self.progress.send_modify(|progress| {
            progress.tried = number;
            match saved {
                Ok(()) => (progress.durable, progress.fault) = (number, None),
                Err(error) => progress.fault = Some((error.kind(), error.to_string())),
            }
        });
    }
}
