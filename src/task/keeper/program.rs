//! The program: how it is started, what becomes of what it writes, and its end.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process_group, pidfd_open, waitpid};
use rustix::termios::{Winsize, tcgetpgrp, tcgetwinsize, tcsetwinsize};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::timeout;

use super::Keeper;
use crate::api::TaskState;
use crate::namespace::init::Ended;
use crate::namespace::room::Terminal;
use crate::task::frame::{CHUNK_MAX, Frame, Size, Stream};
use crate::task::kept::{NOT_EXECUTABLE, NOT_FOUND, NOT_STARTED};
use crate::task::now_ms;
use crate::task::stream::Waited;

/// How long viewers may take for what a program wrote last, and again how long that may take without them: something
/// outside may have got an end of the pipe.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// What a program reads from and writes to.
#[derive(Debug)]
pub(super) enum Console {
    /// Pipes, made with it.
    Pipes,
    /// A terminal.
    Terminal {
        /// Our side.
        outer: Rc<Waited>,
        /// The program's, kept open so that reading from ours goes on while the program has closed it.
        inner: Option<OwnedFd>,
    },
}

impl Console {
    pub(super) fn new(tty: bool) -> io::Result<Self> {
        if !tty {
            return Ok(Self::Pipes);
        }
        let Terminal { outer, inner } = Terminal::open()?;
        Ok(Self::Terminal { outer: Rc::new(Waited::new(outer)?), inner: Some(inner) })
    }
}

/// Why a program was not started.
struct Refused {
    code: u8,
    reason: String,
}

impl Keeper {
    /// Starts the program; if it can't be, the task ends.
    pub(super) fn start(self: &Rc<Self>) -> Result<(), String> {
        if self.status.borrow().state != TaskState::Created {
            return Err("it has been started already".into());
        }
        let mut pumps = JoinSet::new();
        match self.spawn(&mut pumps) {
            Ok((program, ended)) => {
                self.program.set(Some(program));
                self.note(|status| {
                    status.state = TaskState::Running;
                    status.started_ms = Some(now_ms());
                });
                let keeper = Rc::clone(self);
                spawn_local(async move { keeper.see_off(program, ended, pumps).await });
            }
            Err(Refused { code, reason }) => self.end(code, reason),
        }
        Ok(())
    }

    fn spawn(self: &Rc<Self>, pumps: &mut JoinSet<()>) -> Result<(Pid, Waited), Refused> {
        let system = |error: io::Error| Refused { code: NOT_STARTED, reason: error.to_string() };
        let mut command = self.command().map_err(system)?;
        if let Some(folder) = command.get_current_dir().filter(|folder| !folder.is_dir()) {
            let reason = format!("there is no directory {} to work in", folder.display());
            return Err(Refused { code: NOT_EXECUTABLE, reason });
        }
        let mut child = command.spawn().map_err(|error| refused(&self.kept.program.command, &error))?;
        let program = Pid::from_child(&child);
        self.connect(&mut child, pumps).map_err(system)?;
        let ended = pidfd_open(program, PidfdFlags::empty()).map_err(|errno| system(errno.into()))?;
        Ok((program, Waited::new(ended).map_err(system)?))
    }

    fn command(&self) -> io::Result<Command> {
        let program = &self.kept.program;
        let terminal = match &*self.console.borrow() {
            Console::Terminal { inner: Some(inner), .. } => Some(inner.try_clone()?),
            _ => None,
        };
        let mut streams = [const { None }; 3];
        if let Some(terminal) = &terminal {
            for stream in &mut streams {
                *stream = Some(Stdio::from(terminal.try_clone()?));
            }
        }
        let [stdin, stdout, stderr] = streams;
        let room = self.room.borrow();
        let room = room.as_ref().expect("a task that was not started has its room");
        let (first, rest) = program.command.split_first().expect("checked when it was made");
        let mut command = room.command(first, terminal);
        command.args(rest).envs(self.kept.environment(program.tty));
        let unread = if program.stdin { Stdio::piped } else { Stdio::null };
        command.stdin(stdin.unwrap_or_else(unread));
        command.stdout(stdout.unwrap_or_else(Stdio::piped)).stderr(stderr.unwrap_or_else(Stdio::piped));
        command.current_dir(program.workdir.as_deref().unwrap_or_else(|| Path::new("/")));
        if let Some((uid, gid)) = self.kept.user.ids {
            command.uid(uid).gid(gid);
        }
        Ok(command)
    }

    /// Passes on what the program reads and writes.
    fn connect(self: &Rc<Self>, child: &mut Child, pumps: &mut JoinSet<()>) -> io::Result<()> {
        let mut outputs = Vec::new();
        if let Console::Terminal { outer, .. } = &*self.console.borrow() {
            outputs.push((Stream::Stdout, Rc::clone(outer)));
            *self.input.try_lock().expect("nobody writes before the start") = Some(Rc::clone(outer));
        }
        if let Some(stdin) = child.stdin.take() {
            *self.input.try_lock().expect("nobody writes before the start") =
                Some(Rc::new(Waited::new(stdin)?));
        }
        if let Some(stdout) = child.stdout.take() {
            outputs.push((Stream::Stdout, Rc::new(Waited::new(stdout)?)));
        }
        if let Some(stderr) = child.stderr.take() {
            outputs.push((Stream::Stderr, Rc::new(Waited::new(stderr)?)));
        }
        for (stream, output) in outputs {
            let keeper = Rc::clone(self);
            pumps.spawn_local(async move { keeper.pump(stream, &output).await });
        }
        Ok(())
    }

    async fn pump(&self, stream: Stream, output: &Waited) {
        let mut buffer = vec![0; CHUNK_MAX];
        loop {
            let len = match output.read(&mut buffer).await {
                Ok(0) => return,
                Ok(len) => len,
                Err(error) => return eprintln!("what the program writes can't be read: {error}"),
            };
            let written = self.log.borrow_mut().write(stream, &buffer[..len], now_ms());
            let failed = written.is_err();
            match written {
                Ok(true) => self.written.send_replace(()),
                Err(error) if !self.log_fails.get() => eprintln!("{error}"),
                _ => {}
            }
            self.log_fails.set(failed);
            self.show(&Frame::Output(stream, buffer[..len].into())).await;
        }
    }

    /// Shows it to all viewers, and waits until each has room for it.
    async fn show(&self, frame: &Frame) {
        let viewers = self.viewers.borrow().clone();
        let mut cut = self.cut.subscribe();
        for viewer in viewers {
            tokio::select! {
                // One that has gone takes itself off the list.
                _gone = viewer.send(frame.clone()) => {}
                _ = cut.wait_for(|&cut| cut) => return,
            }
        }
    }

    /// Waits for the program's end, and sees to what follows from it.
    async fn see_off(self: Rc<Self>, program: Pid, ended: Waited, mut pumps: JoinSet<()>) {
        let code = loop {
            match waitpid(Some(program), WaitOptions::NOHANG) {
                Ok(Some((_, status))) => break Ended::from(status).code,
                Ok(None) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => {
                    eprintln!("the program can't be waited for: {errno}");
                    break NOT_EXECUTABLE;
                }
            }
            if let Err(error) = ended.readable().await {
                eprintln!("the program's end can't be waited for: {error}");
            }
        };
        self.program.set(None);
        // What it has left running goes with it, as in a container.
        if let Some(Err(error)) = self.room.borrow_mut().take().map(crate::namespace::room::Room::close) {
            eprintln!("can't end what the program has left: {error}");
        }
        if let Console::Terminal { inner, .. } = &mut *self.console.borrow_mut() {
            drop(inner.take());
        }
        if timeout(DRAIN_PATIENCE, finish(&mut pumps)).await.is_err() {
            self.cut.send_replace(true);
            let _open = timeout(DRAIN_PATIENCE, finish(&mut pumps)).await;
        }
        if let Err(error) = self.log.borrow_mut().finish(now_ms()) {
            eprintln!("{error}");
        }
        self.written.send_replace(());
        self.note(|status| {
            status.state = TaskState::Exited;
            status.ended_ms = Some(now_ms());
            status.exit_code = Some(code);
        });
    }

    /// Gives the program's terminal a size. One that it has already makes the program draw anew.
    pub(super) fn resize(&self, size: Size) {
        let console = self.console.borrow();
        let Console::Terminal { outer, .. } = &*console else { return };
        let wanted = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        let same = tcgetwinsize(outer.get())
            .is_ok_and(|now| (now.ws_row, now.ws_col) == (wanted.ws_row, wanted.ws_col));
        if !same {
            if let Err(errno) = tcsetwinsize(outer.get(), wanted) {
                eprintln!("the terminal's size can't be set: {errno}");
            }
        } else if let Ok(group) = tcgetpgrp(outer.get()) {
            // It may have ended.
            let _gone = kill_process_group(group, Signal::WINCH);
        }
    }
}

async fn finish(pumps: &mut JoinSet<()>) {
    while pumps.join_next().await.is_some() {}
}

fn refused(command: &[String], error: &io::Error) -> Refused {
    let name = command.first().map_or("", String::as_str);
    let code = code_of(error);
    match code {
        NOT_FOUND => Refused { code, reason: format!("{name}: there is no such program") },
        _ => Refused { code, reason: format!("{name}: {error}") },
    }
}

/// What is not the program's fault passes: memory, processes or descriptors are used up, or somebody is writing to its
/// file (fork(2), execve(2)).
fn code_of(error: &io::Error) -> u8 {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => NOT_FOUND,
        Some(
            Errno::ACCESS
            | Errno::PERM
            | Errno::NOEXEC
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::LOOP
            | Errno::NAMETOOLONG
            | Errno::TOOBIG,
        ) => NOT_EXECUTABLE,
        _ => NOT_STARTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_so_is_the_programs_fault() {
        for (errno, code) in [
            (Errno::NOENT, NOT_FOUND),
            (Errno::ACCESS, NOT_EXECUTABLE),
            (Errno::NOEXEC, NOT_EXECUTABLE),
            (Errno::ISDIR, NOT_EXECUTABLE),
            (Errno::TOOBIG, NOT_EXECUTABLE),
            (Errno::AGAIN, NOT_STARTED),
            (Errno::NOMEM, NOT_STARTED),
            (Errno::TXTBSY, NOT_STARTED),
            (Errno::MFILE, NOT_STARTED),
        ] {
            let refused = refused(&["x".into()], &errno.into());
            assert!(refused.code == code && refused.reason.starts_with("x: "), "{errno}: {}", refused.code);
        }
    }
}
