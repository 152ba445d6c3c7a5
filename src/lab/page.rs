//! A page that one endpoint fetches from another on another node, by its name.
//!
//! As much of HTTP/1.0 (RFC 1945) as that takes: one request for `/`, one response whose length is told.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::member::{Member, persist};
use super::names::{Asker, NamesError};
use super::plan::Plan;
use super::throughput;
use crate::namespace::netns::{NetNs, NetnsError};
use crate::switch::wire::flow::IpVersion;

/// Where pages are.
pub(super) const PAGE_PORT: u16 = 80;
/// Bytes of a request, at most.
pub(super) const REQUEST_MAX: usize = 8 * 1024;
/// Bytes of the page: some hundred full packets.
const PAGE_LEN: usize = 1 << 20;
/// Bytes of a response's head, at most.
const HEAD_MAX: usize = 1024;
/// How long a connection, or the server's next visitor, may be waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A page that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Where from, as the gateway's resolver said.
    pub address: IpAddr,
    /// What it says.
    pub body: Vec<u8>,
    /// From the question for the name until the last byte.
    pub took: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Page {
    /// Index of who fetches among the plan's endpoints.
    pub from: usize,
    /// Index of whose it is.
    pub to: usize,
    /// Every byte is right, or this is why not.
    pub outcome: Result<Fetched, PageError>,
}

/// Why a page did not come.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// A namespace can't be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Its server's name can't be asked for.
    #[error(transparent)]
    Names(#[from] NamesError),
    /// Nobody has the name.
    #[error("{0} does not resolve")]
    Unknown(String),
    /// The connection could not be made, or broke.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Something else came.
    #[error("{0} bytes came that are no response to the request, or not all of it")]
    Strange(usize),
    /// It is another page.
    #[error("the page of {0} bytes is another one")]
    Other(usize),
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> PageError {
    move |source| PageError::Io { what, source }
}

impl Page {
    /// Has the member `from` fetch a page of the member `to`; tries again until `deadline`.
    pub(super) fn fetch(members: &[Member], (from, to): (usize, usize), deadline: Instant) -> Self {
        let outcome = persist(deadline, || across(&members[from], &members[to]));
        Self { from, to, outcome }
    }

    /// In a line, for people.
    #[must_use]
    pub fn line(&self, plan: &Plan) -> String {
        let (from, to) = (plan.endpoint_name(self.from), plan.endpoint_name(self.to));
        let encrypted = if plan.is_encrypted(self.from) { ", encrypted" } else { "" };
        match &self.outcome {
            Ok(page) => {
                let (kib, ms) = (page.body.len() >> 10, page.took.as_secs_f64() * 1e3);
                format!(
                    "Page: {from} fetches http://{to}/: {kib} KiB in {ms:.1} ms, every byte checked{encrypted}"
                )
            }
            Err(error) => format!("Page: {from} fetches http://{to}/: {error}"),
        }
    }

    /// For programs.
    #[must_use]
    pub fn document(&self, plan: &Plan) -> Value {
        let (from, to) = (plan.endpoint_name(self.from), plan.endpoint_name(self.to));
        match &self.outcome {
            Ok(page) => json!({
                "from": from, "to": to, "address": page.address, "bytes": page.body.len(),
                "seconds": page.took.as_secs_f64(), "ok": true,
            }),
            Err(error) => json!({ "from": from, "to": to, "error": error.to_string(), "ok": false }),
        }
    }

    /// What is wrong with it, if anything is.
    #[must_use]
    pub fn fault(&self, plan: &Plan) -> Option<String> {
        let error = self.outcome.as_ref().err()?;
        let (from, to) = (plan.endpoint_name(self.from), plan.endpoint_name(self.to));
        Some(format!("{from} can't fetch http://{to}/: {error}"))
    }
}

/// One server for one visitor.
fn across(from: &Member, to: &Member) -> Result<Fetched, PageError> {
    let body: Vec<u8> = throughput::pattern().into_iter().cycle().take(PAGE_LEN).collect();
    let at = SocketAddr::new(to.plan.v4.into(), PAGE_PORT);
    let listener = to.netns.run(|| TcpListener::bind(at))?.map_err(failed("listen"))?;
    thread::scope(|scope| {
        let server = scope.spawn(|| serve(&listener, &body));
        let page = fetch(from, &to.plan.name, IpVersion::V4);
        let served = server.join().expect("the server does not panic");
        let page = page?;
        served.map_err(failed("serve"))?;
        if page.body == body { Ok(page) } else { Err(PageError::Other(page.body.len())) }
    })
}

/// Fetches the page of whoever has the name.
pub(super) fn fetch(from: &Member, name: &str, version: IpVersion) -> Result<Fetched, PageError> {
    let start = Instant::now();
    let unknown = || PageError::Unknown(name.into());
    let addresses = Asker::new(from)?.ok_or_else(unknown)?.ask(name, version)?;
    let &address = addresses.first().ok_or_else(unknown)?;
    let body = get(&from.netns, SocketAddr::new(address, PAGE_PORT), name)?;
    Ok(Fetched { address, body, took: start.elapsed() })
}

/// The page at an address.
pub(super) fn get(netns: &NetNs, from: SocketAddr, name: &str) -> Result<Vec<u8>, PageError> {
    let mut stream = netns.run(|| throughput::connect(from))?.map_err(failed("connect"))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed("connect"))?;
    let request = format!("GET / HTTP/1.0\r\nHost: {name}\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed("send the request"))?;
    let mut all = Vec::new();
    let most = u64::try_from(HEAD_MAX + PAGE_LEN).expect("a few bytes more than a page");
    stream.take(most).read_to_end(&mut all).map_err(failed("receive the page"))?;
    body(&all).map(<[u8]>::to_vec).ok_or(PageError::Strange(all.len()))
}

fn serve(listener: &TcpListener, body: &[u8]) -> io::Result<()> {
    let mut polled = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
    let wait = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    if rustix::io::retry_on_intr(|| poll(&mut polled, Some(&wait)))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let (mut stream, _): (TcpStream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (mut request, mut some) = (Vec::new(), [0; 512]);
    while !is_whole(&request) {
        let len = stream.read(&mut some)?;
        if len == 0 || request.len() >= REQUEST_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        request.extend_from_slice(&some[..len]);
    }
    stream.write_all(&response(body))
}

/// Whether all of a request without a body is there.
pub(super) fn is_whole(request: &[u8]) -> bool {
    request.ends_with(b"\r\n\r\n")
}

/// A page as it is sent.
pub(super) fn response(body: &[u8]) -> Vec<u8> {
    let head = "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ";
    [format!("{head}{}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

/// The page in a response, if that is whole.
fn body(response: &[u8]) -> Option<&[u8]> {
    let end = response.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&response[..end]).ok()?;
    let mut lines = head.lines();
    let code = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    let (_, len) = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    let body = &response[end + 4..];
    (code == "200" && len.trim().parse() == Ok(body.len())).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_it_is_sent() {
        for page in [&b""[..], b"198.18.0.1\n", b"a\r\n\r\nb"] {
            assert_eq!(body(&response(page)), Some(page));
        }
    }

    #[test]
    fn what_is_cut_or_no_page_is_none() {
        let whole = response(b"198.18.0.1\n");
        for len in 0..whole.len() {
            assert_eq!(body(&whole[..len]), None, "{len} bytes");
        }
        assert_eq!(body(&[&whole[..], b"more"].concat()), None);
        assert_eq!(body(b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n"), None);
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\n"), None, "no length, so nobody knows whether it is whole");
        assert_eq!(body(b"\xff\r\n\r\n"), None);
    }
}
