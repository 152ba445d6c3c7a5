//! Servers of a lab that show who visits them: those of the host outside, and of a service's tasks.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::page::{REQUEST_MAX, is_whole, response};

/// Visitors of a page at a time; others wait.
const VISITORS_MAX: usize = 64;
/// How long one may take.
const VISIT_MAX: Duration = Duration::from_secs(30);

/// Servers on a thread of their own; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Servers {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Runs what is made there. A server that ends is not there any more, as the lab's check then says.
    pub(super) fn start<F: Future>(make: impl FnOnce() -> F + Send + 'static) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread =
            thread::Builder::new().name("lab-servers".into()).spawn(move || run(&runtime, make, stopped))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; the lab is about to go in any case.
            let _panicked = thread.join();
        }
    }
}

fn run<F: Future>(runtime: &Runtime, make: impl FnOnce() -> F, stopped: oneshot::Receiver<()>) {
    runtime.block_on(async {
        let servers = async {
            make().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = stopped => {}
            () = servers => {}
        }
    });
}

/// Shows every visitor a page: `before`, its address, and a line's end.
pub(super) async fn pages(listener: TcpListener, before: Arc<str>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(VISITORS_MAX));
    loop {
        let place = Arc::clone(&room).acquire_owned().await.expect("it is never closed");
        let (stream, from) = match listener.accept().await {
            Ok(visitor) => visitor,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        let before = Arc::clone(&before);
        tokio::spawn(async move {
            // A visitor's failure is only its own.
            let _left = timeout(VISIT_MAX, show(stream, from, &before)).await;
            drop(place);
        });
    }
}

/// Answers one request, whatever it asks for.
async fn show(mut stream: TcpStream, from: SocketAddr, before: &str) -> io::Result<()> {
    let mut request = Vec::new();
    while !is_whole(&request) {
        if request.len() >= REQUEST_MAX || stream.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let from = from.ip().to_canonical();
    stream.write_all(&response(format!("{before}{from}\n").as_bytes())).await?;
    stream.shutdown().await
}
