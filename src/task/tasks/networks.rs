//! A task's places in networks.

use std::fs;
use std::io::Write;
use std::path::Path;

use rustix::fs::ftruncate;
use serde_json::Value;
use tracing::warn;

use super::make::{Wanted, bad_request};
use super::{Tasks, conflict, internal};
use crate::api::{
    AttachRequest, Attached, Call, Code, ConnectRequest, DisconnectRequest, EndpointDevice, Name,
    NetworkDetail, Refusal, ServiceView, TaskEndpoint, TaskNetwork,
};
use crate::state::{StateDir, StateError};
use crate::task::kept::{ID_SHORT, Kept, TASK};

/// Resolvers that a program asks at most (resolv.conf(5), `MAXNS`).
const RESOLVERS_MAX: usize = 3;

impl Tasks {
    /// Which places a task will have, and which of them leads out, if one does: the first that can.
    pub(super) async fn places(
        &self,
        wanted: &[TaskNetwork],
        of_service: bool,
    ) -> Result<(Vec<TaskEndpoint>, Option<usize>), Refusal> {
        let (mut places, mut way_out): (Vec<TaskEndpoint>, _) = (Vec::new(), None);
        for (index, wanted) in wanted.iter().enumerate() {
            let answer = self.node.answer(Call::Network(wanted.network.clone())).await?;
            let network = serde_json::from_value::<NetworkDetail>(answer).map_err(internal)?.network;
            if !of_service && !network.options.attachable && !network.options.ingress {
                return Err(conflict(format!(
                    "network {} is not for single programs: it was made without --attachable",
                    network.name
                )));
            }
            if places.iter().any(|place| place.network == network.id) {
                return Err(bad_request(format!("network {} is named twice", network.name)));
            }
            if !network.options.internal {
                way_out.get_or_insert(index);
            }
            places.push(TaskEndpoint {
                network: network.id,
                network_name: network.name,
                endpoint: None,
                interface: format!("eth{index}"),
                addresses: Vec::new(),
            });
        }
        Ok((places, way_out))
    }

    /// The service that a task with those places answers for.
    pub(super) async fn service_of(
        &self,
        wanted: Name,
        places: &[TaskEndpoint],
    ) -> Result<ServiceView, Refusal> {
        let answer = self.node.answer(Call::Service(wanted)).await?;
        let service = serde_json::from_value::<ServiceView>(answer).map_err(internal)?;
        if places.iter().any(|place| is_in(&service, place)) {
            return Ok(service);
        }
        let networks: Vec<&str> = service.networks.iter().map(|place| place.name.as_str()).collect();
        let of = match networks[..] {
            [] => "it is in none".to_owned(),
            _ => format!("it is in {}", networks.join(", ")),
        };
        let name = &service.spec.name;
        Err(conflict(format!("service {name} is in no network of this task: {of}; name one by --network")))
    }

    /// Gives a task its places, and writes what depends on them.
    pub(super) async fn join_networks(
        &self,
        directory: &Path,
        kept: &mut Kept,
        wanted: Wanted,
        pid: u32,
    ) -> Result<(), Refusal> {
        let short_id: Name = kept.id[..ID_SHORT].parse().map_err(internal)?;
        let Wanted { networks, mut published, backend, through } = wanted;
        let backend = backend.as_ref();
        let mut all = Vec::new();
        for (index, (place, wanted)) in kept.endpoints.iter_mut().zip(networks).enumerate() {
            let service = backend.filter(|service| is_in(service, place));
            let service = service.map(|service| service.id.parse()).transpose().map_err(internal)?;
            let published = if index == through { std::mem::take(&mut published) } else { Vec::new() };
            let request = AttachRequest {
                network: place.network.parse().map_err(internal)?,
                name: kept.name.clone(),
                device: EndpointDevice::tap(&place.interface, Some(pid.to_string())),
                ip: wanted.ip,
                mac: wanted.mac,
                aliases: wanted.aliases.into_iter().chain([short_id.clone()]).collect(),
                published,
                service,
            };
            let attached = match kept.service {
                Some(_) => self.node.attach_task(request).await?,
                None => {
                    let answer = self.node.answer(Call::Attach(request)).await?;
                    serde_json::from_value::<Attached>(answer).map_err(internal)?
                }
            };
            place.endpoint = Some(attached.id.clone());
            place.addresses.clone_from(&attached.addresses);
            all.push(attached);
        }
        let write = || write_names(directory, kept, &all)?.store(TASK, kept);
        write().map_err(internal)
    }

    /// Connects a task, or another endpoint, to a network, or disconnects it; what its program knows of names follows.
    pub(super) async fn change_networks(&self, mut call: Call) -> Result<Value, Refusal> {
        let (Call::Connect(_, ConnectRequest { endpoint, .. })
        | Call::Disconnect(_, DisconnectRequest { endpoint, .. })) = &mut call
        else {
            return Err(internal("a call that is answered elsewhere"));
        };
        let task = self.find(endpoint).ok().filter(|task| task.is_kept());
        if let Some(task) = &task {
            // Endpoints don't know a task's id.
            endpoint.clone_from(&task.kept.name);
        }
        let answer = self.node.answer(call).await?;
        if let Some(task) = task {
            let pid = task.status.borrow().pid;
            write_names(&task.directory, &task.kept, &self.node.attached_in(pid)).map_err(internal)?;
        }
        Ok(answer)
    }

    /// Takes a task's places away, if they are there.
    pub(super) async fn leave_networks(&self, kept: &Kept) {
        for place in &kept.endpoints {
            let Some(Ok(endpoint)) = place.endpoint.as_ref().map(|id| id.parse()) else { continue };
            match self.node.answer(Call::Detach(endpoint)).await {
                Ok(_) => {}
                // Gone with the namespace.
                Err(refusal) if refusal.code == Code::NotFound => {}
                Err(refusal) => {
                    warn!("task {} can't leave network {}: {refusal}", kept.name, place.network_name);
                }
            }
        }
    }
}

fn is_in(service: &ServiceView, place: &TaskEndpoint) -> bool {
    service.networks.iter().any(|other| other.network == place.network)
}

/// Writes what a task's programs know of names, by the places that it has; gives the directory.
fn write_names(directory: &Path, kept: &Kept, places: &[Attached]) -> Result<StateDir, StateError> {
    let files = StateDir::part(directory)?;
    write_shared(&files, "hosts", &hosts(&kept.hostname, places))?;
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    write_shared(&files, "resolv.conf", &resolvers(places, &host))?;
    Ok(files)
}

/// The file of host names (hosts(5)) of a task with those places.
pub(super) fn hosts(hostname: &Name, places: &[Attached]) -> String {
    let addresses = places.iter().flat_map(|place| &place.addresses);
    let own = addresses.map(|own| format!("{}\t{hostname}\n", own.address()));
    let local = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    std::iter::once(local.to_owned()).chain(own).collect()
}

/// Whom a task with those places asks for names (resolv.conf(5)). Domains that are searched are the `host`'s; a name is
/// first looked for as it is, since names of endpoints have no dots.
fn resolvers(places: &[Attached], host: &str) -> String {
    let search = host.lines().filter(|line| line.starts_with("search ")).map(|line| format!("{line}\n"));
    let servers = places.iter().filter_map(|place| place.resolver);
    let servers = servers.take(RESOLVERS_MAX).map(|server| format!("nameserver {server}\n"));
    servers.chain(search).chain(["options ndots:0\n".to_owned()]).collect()
}

/// Writes a file in place, since a task sees this very file; and for all to read, since a task may have any user. The
/// directory is still closed to others of this machine.
pub(super) fn write_shared(files: &StateDir, name: &str, text: &str) -> Result<(), StateError> {
    use std::os::unix::fs::PermissionsExt;
    let mut file = files.append(name)?;
    let written = ftruncate(&file, 0)
        .map_err(std::io::Error::from)
        .and_then(|()| file.write_all(text.as_bytes()))
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(0o644)));
    written.map_err(|source| files.failed("write", name, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(address: &str, resolver: Option<&str>) -> Attached {
        Attached {
            id: "0123".into(),
            network: "4567".into(),
            interface: "eth0".into(),
            mac: "02:42:0a:00:09:07".parse().unwrap(),
            addresses: vec![address.parse().unwrap()],
            gateways: Vec::new(),
            resolver: resolver.map(|resolver| resolver.parse().unwrap()),
            mtu: 1450,
            published: Vec::new(),
        }
    }

    #[test]
    fn a_task_knows_itself_and_whom_to_ask() {
        let places = [attached("10.0.9.7/24", Some("10.0.9.1")), attached("fd00::7/64", None)];
        let hosts = hosts(&"wren".parse().unwrap(), &places);
        assert!(hosts.ends_with("10.0.9.7\twren\nfd00::7\twren\n"), "{hosts}");
        let host = "nameserver 192.0.2.1\nsearch example.org\noptions ndots:5\n";
        assert_eq!(resolvers(&places, host), "nameserver 10.0.9.1\nsearch example.org\noptions ndots:0\n");
        assert_eq!(resolvers(&[], ""), "options ndots:0\n", "nobody of the host's is asked");
    }
}
