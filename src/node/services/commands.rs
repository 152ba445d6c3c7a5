//! What a node is asked about services: gathers the facts, lets the modules beside this one decide, and acts.

use std::collections::BTreeMap;
use std::time::SystemTime;

use ring::rand::SystemRandom;
use tracing::info;

use super::super::cluster::{Cluster, now_ms};
use super::super::life::{bad_request, conflict, internal};
use super::super::records::{ServiceRecord, TaskPhase, TaskRecord};
use super::conflict::mark;
use super::ingress::joins_ingress;
use super::joined::is_joined;
use super::lookup::{find_one, find_service, unchanged};
use super::settle::{Around, check_name, settle, settle_update};
use crate::api::{
    HostAddress, Name, NetworkView, NodeFilter, NodeStatus, NodeView, Refusal, ServiceCreated, ServicePlace,
    ServiceView, Subnet,
};
use crate::crypto::identity::NodeId;
use crate::overlay::BackendState;
use crate::service::update::{must_replace, next_generation};
use crate::service::{Mode, NodeFacts, Port, ServiceSpec, ServiceUpdate};

impl Cluster {
    /// All services, by name and then by id.
    pub(in crate::node) fn service_views(&self) -> Vec<ServiceView> {
        let networks = self.network_views();
        let mut running = BTreeMap::<String, usize>::new();
        for (_, _, task) in self.gossip.list::<TaskRecord>() {
            if task.state == TaskPhase::Running {
                *running.entry(task.service).or_default() += 1;
            }
        }
        let nodes = self.list_briefly(&NodeFilter::default());
        let ready = nodes.iter().filter(|node| node.status == NodeStatus::Ready);
        let joined = self.joined(&ready.filter_map(|node| node.id.parse().ok()).collect());
        let counts = |id: &str, spec: &ServiceSpec| match is_joined(spec) {
            true => {
                let there = joined.get(id).into_iter().flatten();
                let count = there.filter(|(_, (_, state))| *state == BackendState::Live).count();
                (count, count)
            }
            false => (wanted(spec, &nodes), running.get(id).copied().unwrap_or_default()),
        };
        let view = |(id, record): (String, ServiceRecord)| ServiceView {
            wanted: counts(&id, &record.spec).0,
            running: counts(&id, &record.spec).1,
            networks: places(&record, &networks),
            id,
            spec: record.spec,
            generation: record.generation,
            ports: record.ports,
            created_ms: record.created_ms,
            updated_ms: record.updated_ms,
            conflicts: Vec::new(),
            unbound: Vec::new(),
        };
        let mut services: Vec<ServiceView> = self.services().into_iter().map(view).collect();
        services.sort_by(|one, other| (&one.spec.name, &one.id).cmp(&(&other.spec.name, &other.id)));
        mark(&mut services);
        let unbound = self.unbound_ports().into_iter().map(|(_, id, port)| (id, port));
        for (id, port) in unbound.chain(self.homeless_ports()) {
            services
                .iter_mut()
                .filter(|service| service.id == id)
                .for_each(|service| service.unbound.push(port.clone()));
        }
        services
    }

    /// One of them.
    pub(in crate::node) fn service_view(&self, wanted: &Name) -> Result<ServiceView, Refusal> {
        find_service(&self.service_views(), wanted).cloned()
    }

    pub(in crate::node) async fn create_service(&self, spec: ServiceSpec) -> Result<ServiceCreated, Refusal> {
        self.manages()?;
        match spec.mode {
            Mode::Replicated(replicas) if replicas != 1 && is_joined(&spec) => {
                return Err(not_scaled(&spec.name));
            }
            Mode::Replicated(_) | Mode::Global => {}
        }
        let _alone = self.creating.lock().await;
        let (services, networks) = (self.service_views(), self.network_views());
        check_name(&spec.name, &services)?;
        let around = Around { services: &services, networks: &networks, ports: &[] };
        let (spec, ports) = settle(&spec, &around)?;
        let id = NodeId::random(&SystemRandom::new()).map_err(internal)?.to_string();
        let now = now_ms();
        let generation = next_generation(0, SystemTime::now());
        let record =
            ServiceRecord { spec, generation, created_ms: now, updated_ms: now, vips: Vec::new(), ports };
        self.write_service(&id, record, None).await?;
        Ok(ServiceCreated { id })
    }

    pub(in crate::node) async fn update_service(
        &self,
        wanted: &Name,
        update: &ServiceUpdate,
    ) -> Result<(), Refusal> {
        self.manages()?;
        let _alone = self.creating.lock().await;
        let (mut services, networks) = (self.service_views(), self.network_views());
        let id = find_one(&services, wanted)?.id.clone();
        let (_, before) =
            self.services().into_iter().find(|(known, _)| *known == id).ok_or_else(|| gone(wanted))?;
        // Its own ports are in nobody's way.
        services.retain(|service| service.id != id);
        let update = settle_update(update, &networks)?;
        let spec = update.apply(&before.spec).map_err(|error| unchanged(error, &networks))?;
        if update.replicas.is_some() && is_joined(&spec) {
            return Err(not_scaled(&spec.name));
        }
        let had = chosen_ports(&before);
        let (spec, ports) = settle(&spec, &Around { services: &services, networks: &networks, ports: &had })?;
        let enters = |spec: &ServiceSpec| joins_ingress(spec, &networks);
        let replaces =
            update.force || must_replace(&before.spec, &spec) || enters(&before.spec) != enters(&spec);
        let generation = match replaces {
            true => next_generation(before.generation, SystemTime::now()),
            false => before.generation,
        };
        let record = ServiceRecord { generation, updated_ms: now_ms(), ports, spec, ..before.clone() };
        if record.spec == before.spec && !update.force {
            return Ok(());
        }
        self.write_service(&id, record, Some(&before)).await
    }

    pub(in crate::node) async fn remove_service(&self, wanted: &Name) -> Result<(), Refusal> {
        self.manages()?;
        let _alone = self.creating.lock().await;
        let service = find_one(&self.service_views(), wanted)?.clone();
        self.delete::<ServiceRecord>(&service.id).await.map_err(internal)?;
        self.note_services();
        // Its ports are free on this node when this is answered.
        self.follow_mesh();
        info!("service {} is removed", service.spec.name);
        Ok(())
    }

    /// Writes a service with virtual addresses, those that it has already among them, in place of `before`.
    ///
    /// To ask others for addresses takes time, in which another manager's change may have come: it is not overwritten.
    async fn write_service(
        &self,
        id: &str,
        record: ServiceRecord,
        before: Option<&ServiceRecord>,
    ) -> Result<(), Refusal> {
        let coming = self.addresses.begin_attach(id);
        let written = async {
            let vips = before.map(|before| before.vips.as_slice()).unwrap_or_default();
            let vips = self.settle_vips(id, &record.spec, vips).await?;
            let now = self.services().into_iter().find(|(known, _)| known == id).map(|(_, record)| record);
            if now.as_ref() != before {
                let name = &record.spec.name;
                return Err(conflict(format!(
                    "service {name} has been changed on another node meanwhile: try again"
                )));
            }
            let record = ServiceRecord { vips, ..record };
            self.write(id, &record).await.map_err(internal)?;
            // Nobody else gets them, even once they are not leased any more.
            self.note_services();
            self.follow_mesh();
            info!("service {}, generation {}", record.spec.name, record.generation);
            Ok(())
        };
        let written = written.await;
        drop(coming);
        self.release_addresses();
        written
    }
}

fn not_scaled(name: &Name) -> Refusal {
    bad_request(format!(
        "service {name} has no command, so it has no number of replicas: it has as many tasks as endpoints answer for it \
         (`vswitchd run --service {name}`, `attach --service {name}`)"
    ))
}

fn gone(wanted: &Name) -> Refusal {
    conflict(format!("service {wanted} has just been removed"))
}

/// How many tasks there are to be.
fn wanted(spec: &ServiceSpec, nodes: &[NodeView]) -> usize {
    let meets = |node: &&NodeView| {
        let facts = NodeFacts { id: &node.id, name: &node.name, role: node.role, labels: &node.labels };
        node.status == NodeStatus::Ready
            && node.tasks
            && spec.constraints.iter().all(|constraint| constraint.holds(&facts))
    };
    match spec.mode {
        Mode::Replicated(replicas) => replicas.into(),
        Mode::Global => nodes.iter().filter(meets).count(),
    }
}

/// The ports that nobody named a number of, with what was chosen.
fn chosen_ports(record: &ServiceRecord) -> Vec<Port> {
    let pairs = record.spec.ports.iter().zip(&record.ports);
    pairs.filter(|(wanted, _)| wanted.published.is_none()).map(|(_, &settled)| settled).collect()
}

fn places(record: &ServiceRecord, networks: &[NetworkView]) -> Vec<ServicePlace> {
    let place = |id: &str| {
        let network = networks.iter().find(|network| network.id == id);
        let vip = record.vips.iter().find(|vip| vip.network == id);
        let length = |subnets: &[Subnet], address| {
            let subnet = subnets.iter().find(|subnet| subnet.subnet.contains(address))?;
            HostAddress::new(address, subnet.subnet.length())
        };
        let vips = network.zip(vip).map(|(network, vip)| {
            vip.addresses.iter().filter_map(|&address| length(&network.subnets, address)).collect()
        });
        ServicePlace {
            network: id.into(),
            name: network.map_or(id, |network| &network.name).into(),
            vips: vips.unwrap_or_default(),
        }
    };
    record.spec.networks.iter().map(|network| place(network.network.as_str())).collect()
}
