//! The lab's own process: builds, checks, prints, and stays up if asked to.
//!
//! The work goes on in a thread of its own, and `main` waits for whatever happens first: that it is done, a
//! signal, or somebody's `down`. Returning from here ends the process and with it, by the kernel's hand,
//! everything in the sandbox; so an interruption needs no clean-up and can come at any time.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::signal::unix::{SignalKind, signal};

use super::{Format, failed, resolv_conf};
use crate::cli::say;
use crate::lab::check::{CheckError, Findings, check};
use crate::lab::control::LabName;
use crate::lab::control::server::{Server, name_of};
use crate::lab::{Lab, LabError, Plan, report};
use crate::namespace::init::THIS_PROGRAM;
use crate::namespace::names::{Names, PRIVATE_DIR};

/// Whatever happens.
enum Event {
    /// The lab is checked.
    Checked(Box<(Lab, Findings)>),
    /// It could not be built or checked.
    Failed(Error),
    /// This signal came.
    Signal(SignalKind),
    /// Somebody asks it to end, and learns that it has by this connection's end.
    Down(UnixStream),
    /// The program of the node of that index has ended.
    NodeEnded(usize),
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error("the check failed: {0}")]
    Check(#[from] CheckError),
    #[error("can't make the lab a /run of its own, for its nodes' state: {0}")]
    Private(io::Error),
    #[error("the lab's own process: {0}")]
    System(#[from] io::Error),
}

pub(super) fn run(plan: Plan, listener: UnixListener, format: Format, keep: bool) -> ExitCode {
    match attempt(plan, listener, format, keep) {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

fn attempt(plan: Plan, listener: UnixListener, format: Format, keep: bool) -> Result<ExitCode, Error> {
    let name = name_of(&listener)?;
    let (sender, events) = channel();
    start("lab-signals", &sender, |sender| watch_signals(&sender))?;
    let lab_name = name.clone();
    start("lab-work", &sender, move |sender| {
        let event = match work(plan, &lab_name, listener, format, &sender) {
            Ok(checked) => Event::Checked(Box::new(checked)),
            Err(error) => Event::Failed(error),
        };
        // Nobody listens only if the process is ending.
        let _ending = sender.send(event);
    })?;
    // Kept until the process ends, which is what its other end waits for.
    let mut last_connection = None;
    let (lab, findings) = match first(&events, &mut last_connection) {
        Ok(checked) => *checked,
        Err(Interrupted::By(code)) => return Ok(code),
        Err(Interrupted::Failed(error)) => return Err(error),
    };
    print(&name, lab.plan(), &findings, format)?;
    let verdict = if findings.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if keep {
        last_connection = stay(lab, &name, &events, &sender, format)?;
    } else {
        drop(lab);
    }
    drop(last_connection);
    Ok(verdict)
}

fn start(
    name: &str,
    sender: &Sender<Event>,
    work: impl FnOnce(Sender<Event>) + Send + 'static,
) -> Result<(), Error> {
    let sender = sender.clone();
    thread::Builder::new().name(name.into()).spawn(move || work(sender))?;
    Ok(())
}

enum Interrupted {
    By(ExitCode),
    Failed(Error),
}

/// Waits until the lab is checked, or something comes first.
fn first(
    events: &Receiver<Event>,
    last_connection: &mut Option<UnixStream>,
) -> Result<Box<(Lab, Findings)>, Interrupted> {
    loop {
        match events.recv().expect("a sender is kept") {
            Event::Checked(checked) => return Ok(checked),
            Event::Failed(error) => return Err(Interrupted::Failed(error)),
            Event::Signal(kind) => return Err(Interrupted::By(code_of(kind))),
            Event::Down(connection) => {
                *last_connection = Some(connection);
                return Err(Interrupted::By(ExitCode::FAILURE));
            }
            Event::NodeEnded(_) => {}
        }
    }
}

/// As shells have it: 128 and the signal's number.
fn code_of(kind: SignalKind) -> ExitCode {
    ExitCode::from(u8::try_from(128 + kind.as_raw_value()).unwrap_or(1))
}

/// Builds and checks; serves other terminals as soon as there is something to enter.
fn work(
    plan: Plan,
    name: &LabName,
    listener: UnixListener,
    format: Format,
    sender: &Sender<Event>,
) -> Result<(Lab, Findings), Error> {
    let mut lab = Lab::build(plan)?;
    publish_names(&lab)?;
    lab.start(THIS_PROGRAM, Path::new(PRIVATE_DIR))?;
    publish_resolvers(&lab)?;
    if format == Format::Text {
        tell(&format!("{}\n", report::picture(lab.plan())))?;
    }
    let server = Server::new(name, &lab)?;
    start("lab-control", sender, move |sender| {
        // Without its socket the lab can still be ended by a signal.
        if let Ok(connection) = server.serve(&listener) {
            let _ending = sender.send(Event::Down(connection));
        }
    })?;
    let findings = check(&lab)?;
    Ok((lab, findings))
}

/// Makes `/run` the lab's own, for `ip netns` in the lab and for what the nodes keep: it is in memory, and goes with the
/// last process of the lab, however that ends.
fn publish_names(lab: &Lab) -> Result<(), Error> {
    let names = Names::prepare().map_err(Error::Private)?;
    let nodes = lab.nodes().iter().map(|node| (&node.plan().name, node.netns()));
    let endpoints = lab.endpoints().map(|endpoint| (&endpoint.plan().name, endpoint.netns()));
    let outside = (&lab.outside().plan().name, lab.outside().netns());
    for (name, netns) in nodes.chain([outside]).chain(endpoints) {
        // A convenience: nothing here goes by names.
        let _refused = names.publish(name, netns);
    }
    Ok(())
}

/// Writes for visitors of each place whom it asks for names.
fn publish_resolvers(lab: &Lab) -> io::Result<()> {
    let outside = Some(lab.plan().outside.address);
    let hosts = lab.plan().hosts().map(|host| (&host.name, outside));
    let endpoints = lab.endpoints().map(|endpoint| (&endpoint.plan().name, endpoint.resolver()));
    for (place, resolver) in hosts.chain(endpoints) {
        // Names of endpoints have no dots.
        let lines = resolver.map(|resolver| format!("nameserver {resolver}\noptions ndots:0\n"));
        fs::write(resolv_conf(place), lines.unwrap_or_default())?;
    }
    Ok(())
}

/// Prints; a reader that has seen enough is no failure, and the exit code says the rest.
fn tell(text: &str) -> io::Result<()> {
    match say(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

fn print(name: &LabName, plan: &Plan, findings: &Findings, format: Format) -> io::Result<()> {
    let text = match format {
        Format::Text if plan.bare => return Ok(()),
        Format::Text => report::findings(plan, findings),
        Format::Json => format!("{}\n", report::document(name.as_str(), plan, findings)),
    };
    tell(&text)
}

/// Keeps the lab up until a signal comes or somebody ends it; gives their connection.
fn stay(
    mut lab: Lab,
    name: &LabName,
    events: &Receiver<Event>,
    sender: &Sender<Event>,
    format: Format,
) -> Result<Option<UnixStream>, Error> {
    for (index, node) in lab.nodes().iter().enumerate() {
        if let Some(program) = node.program() {
            let end = program.end_fd()?;
            start("lab-watch", sender, move |sender| watch_end(&end, index, &sender))?;
        }
    }
    if format == Format::Text {
        // Behind a picture there is room already.
        let room = if lab.plan().bare { "" } else { "\n" };
        tell(&format!("{room}{}", instructions(name, lab.plan())))?;
    }
    loop {
        match events.recv().expect("a sender is kept") {
            Event::NodeEnded(index) => tell_end(&mut lab, index)?,
            Event::Down(connection) => return Ok(Some(connection)),
            Event::Signal(_) => return Ok(None),
            Event::Checked(_) | Event::Failed(_) => {}
        }
    }
}

fn instructions(name: &LabName, plan: &Plan) -> String {
    let option = if name.as_str() == "lab" { String::new() } else { format!(" --name {name}") };
    let shell = format!("vswitchd lab exec{option} {}", plan.nodes[0].name);
    let mut lines = vec![(shell.clone(), "a shell in a node, whose daemon $VSWITCHD_SOCKET names")];
    if plan.bare {
        lines
            .push((format!("{shell} -- vswitchd init"), "makes a cluster, and says how other nodes join it"));
    } else {
        lines.push((format!("{shell} -- vswitchd node ls"), "what that daemon says"));
    }
    let mut endpoints = plan.endpoints().map(|(_, endpoint)| endpoint);
    if let Some(first) = endpoints.next() {
        let other = endpoints.find(|endpoint| endpoint.network == first.network).unwrap_or(first);
        let ping = format!("vswitchd lab exec{option} {} -- ping {}", first.name, other.name);
        lines.insert(0, (ping, "from an endpoint"));
    }
    lines.push((format!("vswitchd lab down{option}"), "the end, as is Ctrl-C here"));
    let width = lines.iter().map(|(line, _)| line.len()).max().unwrap_or(0);
    let lines: Vec<String> =
        lines.iter().map(|(line, meaning)| format!("  {line:<width$}   {meaning}\n")).collect();
    format!("Staying up. From another terminal:\n{}", lines.concat())
}

fn tell_end(lab: &mut Lab, index: usize) -> Result<(), Error> {
    let node = &mut lab.nodes_mut()[index];
    let name = node.plan().name.clone();
    if let Some(program) = node.program_mut()
        && let Some(status) = program.ended().map_err(LabError::from)?
    {
        let words = program.last_words();
        let words = if words.is_empty() { String::new() } else { format!(": {}", words.join(" / ")) };
        eprintln!("vswitchd: {name}: its daemon has ended ({status}){words}");
    }
    Ok(())
}

fn watch_end(end: &OwnedFd, index: usize, sender: &Sender<Event>) {
    loop {
        match poll(&mut [PollFd::new(end, PollFlags::IN)], None) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            // Then its end is not told, which is all that this is for.
            Err(_) => return,
        }
    }
    let _ending = sender.send(Event::NodeEnded(index));
}

fn watch_signals(sender: &Sender<Event>) {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let outcome = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let mut interrupt = signal(kinds[0])?;
            let mut terminate = signal(kinds[1])?;
            let mut hangup = signal(kinds[2])?;
            loop {
                let kind = tokio::select! {
                    _ = interrupt.recv() => kinds[0],
                    _ = terminate.recv() => kinds[1],
                    _ = hangup.recv() => kinds[2],
                };
                let _ending = sender.send(Event::Signal(kind));
            }
        })
    });
    let error: io::Result<()> = outcome;
    if let Err(error) = error {
        let _ending = sender.send(Event::Failed(error.into()));
    }
}
