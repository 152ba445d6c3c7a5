//! A task's places in networks.

use std::io::Write;
use std::path::Path;

use rustix::fs::ftruncate;
use tracing::warn;

use super::make::bad_request;
use super::{Tasks, conflict, internal};
use crate::api::{
    AttachRequest, Attached, Call, Code, NAME_MAX, Name, NetworkDetail, Refusal, TaskEndpoint, TaskNetwork,
};
use crate::state::{StateDir, StateError};
use crate::task::kept::Kept;

impl Tasks {
    /// Which places a task will have.
    pub(super) async fn places(
        &self,
        task: &Name,
        wanted: &[TaskNetwork],
    ) -> Result<Vec<TaskEndpoint>, Refusal> {
        let mut places: Vec<TaskEndpoint> = Vec::new();
        for (index, wanted) in wanted.iter().enumerate() {
            let answer = self.node.answer(Call::Network(wanted.network.clone())).await?;
            let network = serde_json::from_value::<NetworkDetail>(answer).map_err(internal)?.network;
            if !network.options.attachable && !network.options.ingress {
                return Err(conflict(format!(
                    "network {} is not for single programs: it was made without --attachable",
                    network.name
                )));
            }
            if places.iter().any(|place| place.network == network.id) {
                return Err(bad_request(format!("network {} is named twice", network.name)));
            }
            let endpoint = if index == 0 { task.to_string() } else { format!("{task}.{}", network.name) };
            let endpoint = endpoint.parse().map_err(|_| {
                bad_request(format!(
                    "the name {endpoint} of an endpoint is longer than {NAME_MAX} characters"
                ))
            })?;
            let interface = format!("eth{index}");
            places.push(TaskEndpoint {
                network: network.id,
                network_name: network.name,
                endpoint,
                interface,
            });
        }
        Ok(places)
    }

    /// Gives a task its places, and the files that depend on them.
    pub(super) async fn join_networks(&self, directory: &Path, kept: &Kept, pid: u32) -> Result<(), Refusal> {
        for place in &kept.endpoints {
            let request = AttachRequest {
                network: place.network.parse().map_err(internal)?,
                name: place.endpoint.clone(),
                tap: place.interface.clone(),
                netns: Some(pid.to_string()),
            };
            let answer = self.node.answer(Call::Attach(request)).await?;
            serde_json::from_value::<Attached>(answer).map_err(internal)?;
        }
        let files = StateDir::part(directory).map_err(internal)?;
        write_shared(&files, "hosts", &hosts(&kept.hostname, &[])).map_err(internal)
    }

    /// Takes a task's places away, if they are there.
    pub(super) async fn leave_networks(&self, kept: &Kept) {
        for place in &kept.endpoints {
            match self.node.answer(Call::Detach(place.endpoint.clone())).await {
                Ok(_) => {}
                // Gone with the namespace.
                Err(refusal) if refusal.code == Code::NotFound => {}
                Err(refusal) => warn!("endpoint {} of task {}: {refusal}", place.endpoint, kept.name),
            }
        }
    }
}

/// The file of host names (hosts(5)).
pub(super) fn hosts(hostname: &Name, addresses: &[std::net::IpAddr]) -> String {
    let own = addresses.iter().map(|address| format!("{address}\t{hostname}\n"));
    let local = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    std::iter::once(local.to_owned()).chain(own).collect()
}

/// Writes a file in place, since a task sees this very file; and for all to read, since a task may have any user. The
/// directory is still closed to others of this machine.
pub(super) fn write_shared(files: &StateDir, name: &str, text: &str) -> Result<(), StateError> {
    use std::os::unix::fs::PermissionsExt;
    let mut file = files.append(name)?;
    let written = ftruncate(&file, 0)
        .map_err(std::io::Error::from)
        .and_then(|()| file.write_all(text.as_bytes()))
        .and_then(|()| file.set_permissions(std::fs::Permissions::from_mode(0o644)));
    written.map_err(|source| files.failed("write", name, source))
}
