//! A task's log: what its program has written, line by line, in two files of bounded size.
//!
//! `log` has the newest lines, each a JSON document ([`Entry`]); at [`FILE_MAX`] bytes it becomes `log.1`, in place of the
//! one before. So at most twice as much is kept, and at least once as much if there was so much. Bytes that are not
//! UTF-8 are replaced, since a line is text; who attaches gets them as they are.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::frame::Stream;
use crate::state::{StateDir, StateError};

/// Bytes of one of the two files.
pub const FILE_MAX: u64 = 8 << 20;
/// Bytes of a line; longer ones are cut into several.
pub const LINE_MAX: usize = 16 * 1024;
/// The newest lines' file,
const NEW: &str = "log";
/// and that of those before.
const OLD: &str = "log.1";

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since 1970 when it was complete.
    pub time_ms: u64,
    /// Where it was written.
    pub stream: Stream,
    /// What, with the line's end if it has one.
    pub log: String,
}

/// The writer's side.
#[derive(Debug)]
pub struct Log {
    files: Rc<StateDir>,
    file: File,
    len: u64,
    /// How often files were changed.
    generation: u64,
    /// The beginnings of lines, of each stream.
    begun: [Vec<u8>; 2],
}

impl Log {
    /// Goes on with the log in a directory, or begins one.
    ///
    /// # Errors
    /// If the file can't be had.
    pub fn open(files: Rc<StateDir>) -> Result<Self, StateError> {
        let file = files.append(NEW)?;
        let len = file.metadata().map(|metadata| metadata.len()).unwrap_or_default();
        Ok(Self { files, file, len, generation: 0, begun: [Vec::new(), Vec::new()] })
    }

    /// Takes what a program has written; gives whether a line is complete.
    ///
    /// # Errors
    /// If the files can't be written to. What was given is lost.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8], now_ms: u64) -> Result<bool, StateError> {
        let mut any = false;
        while !bytes.is_empty() {
            let begun = &mut self.begun[stream as usize];
            let room = &bytes[..bytes.len().min(LINE_MAX - begun.len())];
            let end = room.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
            let (part, rest) = bytes.split_at(end.unwrap_or(room.len()));
            begun.extend(part);
            bytes = rest;
            if end.is_some() || begun.len() == LINE_MAX {
                self.complete(stream, now_ms)?;
                any = true;
            }
        }
        Ok(any)
    }

    /// The program has ended: lines without an end are complete.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn finish(&mut self, now_ms: u64) -> Result<(), StateError> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.begun[stream as usize].is_empty() {
                self.complete(stream, now_ms)?;
            }
        }
        Ok(())
    }

    fn complete(&mut self, stream: Stream, time_ms: u64) -> Result<(), StateError> {
        let bytes = std::mem::take(&mut self.begun[stream as usize]);
        let log = String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        let mut line =
            serde_json::to_vec(&Entry { time_ms, stream, log }).expect("an entry is a plain struct");
        line.push(b'\n');
        let len = line.len() as u64;
        if self.len + len > FILE_MAX {
            self.files.rename(NEW, OLD)?;
            self.file = self.files.append(NEW)?;
            (self.len, self.generation) = (0, self.generation + 1);
        }
        self.file.write_all(&line).map_err(|source| self.files.failed("write", NEW, source))?;
        self.len += len;
        Ok(())
    }
}

/// The lines of a log, each with its end: the last `tail`, or all that there are.
///
/// # Errors
/// If a file is there and can't be read.
pub fn lines(directory: &Path, tail: Option<u64>) -> io::Result<Vec<u8>> {
    loop {
        let there = |name: &str| match File::open(directory.join(name)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let (old, new) = (there(OLD)?, there(NEW)?);
        // The files were changed between the two: what was new is now the old one.
        if is_other(&old, there(OLD)?)? {
            continue;
        }
        let mut bytes = Vec::new();
        for file in [old, new].into_iter().flatten() {
            file.take(FILE_MAX).read_to_end(&mut bytes)?;
        }
        // The last one may be half written.
        bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1));
        return Ok(match tail {
            Some(tail) => last(&bytes, tail).to_vec(),
            None => bytes,
        });
    }
}

fn is_other(one: &Option<File>, other: Option<File>) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let inode = |file: &File| file.metadata().map(|metadata| metadata.ino());
    Ok(one.as_ref().map(inode).transpose()? != other.as_ref().map(inode).transpose()?)
}

/// The last so many lines.
fn last(bytes: &[u8], tail: u64) -> &[u8] {
    let Some(lines) = usize::try_from(tail).ok().filter(|&lines| lines > 0) else {
        return if tail == 0 { &[] } else { bytes };
    };
    let ends = bytes.iter().enumerate().rev().filter(|&(_, &byte)| byte == b'\n').map(|(at, _)| at + 1);
    // The end of the line before them.
    bytes.get(ends.take(lines + 1).nth(lines).unwrap_or(0)..).unwrap_or_default()
}

/// A reader who keeps up with the writer, at a pace of its own.
#[derive(Debug)]
pub struct Follower {
    file: File,
    generation: u64,
}

impl Follower {
    /// Begins: gives the lines that are there, as [`lines`] does.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn begin(log: &Log, tail: Option<u64>) -> Result<(Self, Vec<u8>), StateError> {
        let mut file = log.files.open_file(NEW)?;
        let failed = |source| log.files.failed("read", NEW, source);
        let mut bytes = Vec::new();
        if tail != Some(0) {
            bytes.extend(log.files.read(OLD)?.iter().flat_map(|old| old.iter()));
            file.read_to_end(&mut bytes).map_err(failed)?;
        }
        file.seek(SeekFrom::Start(log.len)).map_err(failed)?;
        let bytes = tail.map_or_else(|| bytes.clone(), |tail| last(&bytes, tail).to_vec());
        Ok((Self { file, generation: log.generation }, bytes))
    }

    /// Lines that have been written since. Those of files that are gone are lost: who reads so slowly can't have them
    /// without the program waiting.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn more(&mut self, log: &Log) -> Result<Vec<u8>, StateError> {
        let failed = |source| log.files.failed("read", NEW, source);
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes).map_err(failed)?;
        if self.generation != log.generation {
            if self.generation + 1 < log.generation {
                bytes.extend(log.files.read(OLD)?.iter().flat_map(|old| old.iter()));
            }
            self.file = log.files.open_file(NEW)?;
            self.generation = log.generation;
            self.file.read_to_end(&mut bytes).map_err(failed)?;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::tests::Scratch;

    fn shown(bytes: &[u8]) -> Vec<String> {
        let lines = bytes.split_inclusive(|&byte| byte == b'\n');
        lines.map(|line| serde_json::from_slice::<Entry>(line).unwrap().log).collect()
    }

    #[test]
    fn lines_are_kept_whole_and_apart() {
        let scratch = Scratch::new("log-lines");
        let mut log = Log::open(scratch.files()).unwrap();
        assert!(!log.write(Stream::Stdout, b"one ", 1).unwrap());
        assert!(log.write(Stream::Stderr, b"bad \xff\n", 2).unwrap());
        assert!(log.write(Stream::Stdout, b"line\ntwo", 3).unwrap());
        assert_eq!(shown(&lines(scratch.path(), None).unwrap()), ["bad \u{fffd}\n", "one line\n"]);
        log.finish(4).unwrap();
        assert_eq!(shown(&lines(scratch.path(), Some(2)).unwrap()), ["one line\n", "two"]);
        assert!(lines(scratch.path(), Some(0)).unwrap().is_empty());
        assert_eq!(shown(&lines(scratch.path(), Some(9)).unwrap()).len(), 3);
    }

    #[test]
    fn long_lines_are_cut() {
        let scratch = Scratch::new("log-long");
        let mut log = Log::open(scratch.files()).unwrap();
        log.write(Stream::Stdout, &[b'x'; LINE_MAX + 3], 1).unwrap();
        log.finish(2).unwrap();
        let lens: Vec<_> = shown(&lines(scratch.path(), None).unwrap()).iter().map(String::len).collect();
        assert_eq!(lens, [LINE_MAX, 3]);
    }

    #[test]
    fn no_more_than_two_files_are_kept_and_who_follows_gets_every_line() {
        let scratch = Scratch::new("log-rotation");
        let files = scratch.files();
        let mut log = Log::open(Rc::clone(&files)).unwrap();
        let (mut follower, before) = Follower::begin(&log, None).unwrap();
        assert!(before.is_empty());
        let line = [&[b'y'; LINE_MAX - 1][..], b"\n"].concat();
        let rounds = 3 * usize::try_from(FILE_MAX).unwrap() / LINE_MAX;
        let mut followed = 0;
        for round in 0..rounds {
            log.write(Stream::Stdout, &line, 1).unwrap();
            // Now and then, but within each file.
            if round % 100 == 0 {
                followed += shown(&follower.more(&log).unwrap()).len();
            }
        }
        followed += shown(&follower.more(&log).unwrap()).len();
        assert_eq!(followed, rounds);
        let kept = lines(scratch.path(), None).unwrap().len() as u64;
        assert!((FILE_MAX..=2 * FILE_MAX).contains(&kept), "{kept}");
        assert_eq!(shown(&lines(scratch.path(), Some(2)).unwrap()).len(), 2);
        let (_, tail) = Follower::begin(&log, Some(3)).unwrap();
        assert_eq!(shown(&tail).len(), 3);
    }
}
