//! Threads for what is carried, each with a runtime of its own: the daemon's has one thread, which no client may keep busy.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle, available_parallelism};

use tokio::runtime::{self, Handle};
use tokio::sync::watch;

/// Threads at most: by then encryption is not what bounds it.
const THREADS_MAX: usize = 8;

/// They run as long as this is there; what is still under way is dropped with it.
#[derive(Debug)]
pub(super) struct Threads {
    handles: Vec<Handle>,
    next: AtomicUsize,
    stop: watch::Sender<bool>,
    joins: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts one for each processor.
    ///
    /// # Errors
    /// No thread or descriptor can be had.
    pub(super) fn start() -> io::Result<Self> {
        let count = available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX));
        let mut threads = Self {
            handles: Vec::new(),
            next: AtomicUsize::new(0),
            stop: watch::Sender::new(false),
            joins: Vec::new(),
        };
        for _ in 0..count {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let (handle, mut stopped) = (runtime.handle().clone(), threads.stop.subscribe());
            let work = move || {
                // It ends as well if nobody could stop it any more.
                let _ended = runtime.block_on(stopped.wait_for(|&stop| stop)).is_ok();
            };
            threads.joins.push(Builder::new().name("mesh".into()).spawn(work)?);
            threads.handles.push(handle);
        }
        Ok(threads)
    }

    /// Has one of them run that.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(handle) = self.handles.get(next % self.handles.len().max(1)) {
            drop(handle.spawn(work));
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.joins.drain(..) {
            // One that has panicked has said so.
            let _ended = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_is_under_way_ends_with_them() {
        struct Told(mpsc::Sender<&'static str>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.send("dropped").unwrap();
            }
        }
        let threads = Threads::start().unwrap();
        let (tell, told) = mpsc::channel();
        let work = Told(tell.clone());
        threads.spawn(async move {
            let work = work;
            work.0.send("runs").unwrap();
            std::future::pending::<()>().await;
        });
        assert_eq!(told.recv().unwrap(), "runs");
        drop(threads);
        assert_eq!(told.recv().unwrap(), "dropped");
    }
}
