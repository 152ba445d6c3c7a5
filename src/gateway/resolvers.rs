//! Which resolvers are asked for names that the network does not have.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::runtime::Handle;
use tracing::debug;

use super::station::Question;
use super::upstream::ask;
use crate::names::upstreams;

/// Where a host says which resolvers it uses.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Who is asked for names that the network does not have.
#[derive(Clone, Debug)]
pub struct Resolvers {
    /// What the questions run on.
    runtime: Handle,
    servers: Servers,
}

#[derive(Clone, Debug)]
enum Servers {
    /// As a file in the form of resolv.conf(5) has them, read for each question: it changes with the host's network.
    File(PathBuf),
    These(Vec<SocketAddr>),
}

impl Resolvers {
    /// Those of this host.
    #[must_use]
    pub fn host(runtime: Handle) -> Self {
        Self { runtime, servers: Servers::File(RESOLV_CONF.into()) }
    }

    /// These, in this order.
    #[must_use]
    pub fn these(runtime: Handle, servers: Vec<SocketAddr>) -> Self {
        Self { runtime, servers: Servers::These(servers) }
    }

    /// What questions run on.
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// What they say to a question, which gets that id; `None` if none answers.
    pub(super) async fn ask(&self, question: &Question, id: u16) -> Option<Vec<u8>> {
        match self.servers.list().await {
            Ok(servers) => ask(&servers, &question.query, question.through(), id).await,
            Err(error) => {
                debug!("no resolver is known: {error}");
                None
            }
        }
    }
}

impl Servers {
    async fn list(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::These(servers) => Ok(servers.clone()),
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path));
                Ok(upstreams(&read.await??))
            }
        }
    }
}
