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
use crate::api::LogMark;
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
            match self.files.rename(NEW, OLD) {
                // Somebody took it away; or that was done, and the next one could not be made then.
                Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
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
    let mut bytes = Vec::new();
    for file in both(directory)?.into_iter().flatten() {
        file.take(FILE_MAX).read_to_end(&mut bytes)?;
    }
    // The last one may be half written.
    bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1));
    Ok(match tail {
        Some(tail) => last(&bytes, tail).to_vec(),
        None => bytes,
    })
}

/// The older file and the newer one, those that are there, as they are at one time.
fn both(directory: &Path) -> io::Result<[Option<File>; 2]> {
    let there = |name: &str| match File::open(directory.join(name)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    loop {
        let both = [there(OLD)?, there(NEW)?];
        // Otherwise the files were changed between the two: what was new is now the old one.
        if !is_other(&both[0], there(OLD)?)? {
            return Ok(both);
        }
    }
}

/// Lines of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Each with its end.
    pub lines: Vec<u8>,
    /// Where they end; none if there is no log yet.
    pub mark: Option<LogMark>,
    /// Whether there were more behind them already.
    pub more: bool,
}

/// The lines behind a mark, of at most `most` bytes unless the first is longer. Without a mark the last `tail` of all
/// lines, or all of them. What is in files that are gone is left out.
///
/// # Errors
/// If a file is there and can't be read.
pub fn after(directory: &Path, mark: Option<LogMark>, tail: Option<u64>, most: usize) -> io::Result<Passage> {
    let parts = parts_behind(both(directory)?, mark)?;
    let bytes: Vec<u8> = parts.iter().flat_map(|(_, _, bytes)| bytes.iter().copied()).collect();
    let begin = match (mark, tail) {
        (None, Some(tail)) => bytes.len() - last(&bytes, tail).len(),
        _ => 0,
    };
    let rest = &bytes[begin..];
    let line_end = |bytes: &[u8]| bytes.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
    let fits = rest.len().min(most);
    let whole = rest[..fits].iter().rposition(|&byte| byte == b'\n').map(|at| at + 1);
    let taken = whole.or_else(|| line_end(rest)).unwrap_or(0);
    let mut end = begin + taken;
    let mut mark = mark;
    for (file, offset, bytes) in &parts {
        mark = Some(LogMark { file: *file, offset: offset + end.min(bytes.len()) as u64 });
        if end < bytes.len() {
            break;
        }
        end -= bytes.len();
    }
    Ok(Passage { lines: rest[..taken].to_vec(), mark, more: taken < rest.len() })
}

/// A file by its inode, where in it, and the whole lines from there on.
type Part = (u64, u64, Vec<u8>);

/// What there is of each file from a mark on; the older one first.
fn parts_behind(files: [Option<File>; 2], mark: Option<LogMark>) -> io::Result<Vec<Part>> {
    let mut parts = Vec::<Part>::new();
    for mut file in files.into_iter().flatten() {
        let inode = inode(&file)?;
        let here = mark.filter(|mark| mark.file == inode);
        if here.is_some() {
            // What is older was read.
            parts.clear();
        }
        let offset = here.map_or(0, |mark| mark.offset);
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(FILE_MAX).read_to_end(&mut bytes)?;
        // The last one may be half written.
        bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1));
        parts.push((inode, offset, bytes));
    }
    Ok(parts)
}

fn inode(file: &File) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(file.metadata()?.ino())
}

fn is_other(one: &Option<File>, other: Option<File>) -> io::Result<bool> {
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
    fn who_comes_back_gets_what_was_written_since() {
        let scratch = Scratch::new("log-marks");
        let nothing = |mark| Passage { lines: Vec::new(), mark, more: false };
        assert_eq!(after(&scratch.path().join("none"), None, None, 1_000).unwrap(), nothing(None));
        let mut log = Log::open(scratch.files()).unwrap();
        log.write(Stream::Stdout, b"one\ntwo\nthree\nfo", 1).unwrap();
        let Passage { lines, mark, .. } = after(scratch.path(), None, Some(2), 1_000).unwrap();
        assert_eq!(shown(&lines), ["two\n", "three\n"]);
        let Passage { lines, mark: first, more } = after(scratch.path(), None, None, 1).unwrap();
        assert!(more);
        assert_eq!(shown(&lines), ["one\n"], "a line at least");
        let Passage { lines, mark: second, more } = after(scratch.path(), first, None, 1_000).unwrap();
        assert!(!more);
        assert_eq!((shown(&lines).join(""), second), ("two\nthree\n".into(), mark));
        assert_eq!(after(scratch.path(), mark, Some(2), 1_000).unwrap(), nothing(mark));
        log.write(Stream::Stdout, b"ur\n", 2).unwrap();
        assert_eq!(shown(&after(scratch.path(), mark, None, 1_000).unwrap().lines), ["four\n"]);
        // Until it is in a file that is gone.
        let line = [&[b'y'; LINE_MAX - 1][..], b"\n"].concat();
        let (mut mark, mut followed, rounds) = (mark, 0, 3 * usize::try_from(FILE_MAX).unwrap() / LINE_MAX);
        for round in 0..rounds {
            log.write(Stream::Stdout, &line, 3).unwrap();
            if round % 300 == 0 {
                let Passage { lines, mark: next, .. } =
                    after(scratch.path(), mark, None, usize::MAX).unwrap();
                (mark, followed) = (next, followed + shown(&lines).len());
            }
        }
        let Passage { lines, mark: end, .. } = after(scratch.path(), mark, None, usize::MAX).unwrap();
        assert_eq!(followed + shown(&lines).len(), rounds + 1, "and the fourth");
        assert!(after(scratch.path(), end, None, usize::MAX).unwrap().lines.is_empty());
        let gone = LogMark { file: 1, offset: 7 };
        let Passage { lines, .. } = after(scratch.path(), Some(gone), None, usize::MAX).unwrap();
        assert!(lines.len() as u64 >= FILE_MAX, "all that is left");
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

    #[test]
    fn a_log_whose_new_file_is_gone_is_read_and_goes_on() {
        let scratch = Scratch::new("log-gone");
        let mut log = Log::open(scratch.files()).unwrap();
        log.write(Stream::Stdout, b"one\n", 1).unwrap();
        // As between the two steps of a change of files, or for good if the second fails.
        log.files.rename(NEW, OLD).unwrap();
        let Passage { lines: read, mark, .. } = after(scratch.path(), None, None, 1_000).unwrap();
        assert_eq!(shown(&read), ["one\n"]);
        assert!(after(scratch.path(), mark, None, 1_000).unwrap().lines.is_empty());
        log.len = FILE_MAX;
        log.write(Stream::Stdout, b"two\n", 2).unwrap();
        log.write(Stream::Stdout, b"three\n", 3).unwrap();
        assert_eq!(shown(&after(scratch.path(), mark, None, 1_000).unwrap().lines), ["two\n", "three\n"]);
        assert_eq!(shown(&lines(scratch.path(), None).unwrap()), ["one\n", "two\n", "three\n"]);
    }
}
