//! `vswitchd run` and the other commands about tasks.

mod end;
mod exec;
mod keep;
mod keys;
mod logs;
pub(super) mod options;
mod ps;
mod run;
mod session;
mod signal;
mod terminal;

pub(super) use end::{Kill, Rm, Stop, Wait};
pub(super) use exec::Exec;
pub(super) use keep::{Envoy, Keep};
pub(super) use keys::Keys;
pub(super) use logs::Logs;
pub(super) use ps::Ps;
pub(super) use run::{Run, reattach};

use std::io;

use tokio::runtime::{Builder, Runtime};

/// What waits with this thread alone. A connection lives as long as the one that it was made in.
fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
