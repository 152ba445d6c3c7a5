//! This process's own terminal.

use std::io;

use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use crate::task::frame::Size;

/// Standard input's terminal while keys come as they are typed; as it was before when this is dropped.
#[derive(Debug)]
pub(super) struct Raw(Termios);

impl Raw {
    /// Begins (termios(3), "Raw mode").
    ///
    /// # Errors
    /// If standard input is no terminal.
    pub(super) fn begin() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing.
        let _gone = tcsetattr(stdin(), OptionalActions::Drain, &self.0);
    }
}

/// Whether what is typed comes from a terminal.
pub(super) fn has_input() -> bool {
    isatty(stdin())
}

/// The size of the terminal that is written to.
pub(super) fn size() -> Option<Size> {
    let size = tcgetwinsize(stdout()).ok()?;
    Some(Size { rows: size.ws_row, columns: size.ws_col })
}
