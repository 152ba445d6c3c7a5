//! Tasks in the routing mesh's network: those of services that publish ports and have no way out of their own.
//!
//! What comes from outside comes by a gateway, and its answers leave by the same one. A service none of whose networks leads
//! out gets the mesh's as the last, as in Docker, where that is the one for services without any network.

use super::super::cluster::Cluster;
use super::super::life::{conflict, internal};
use crate::api::{AttachRequest, Attached, Name, NetworkView, Refusal};
use crate::node::Node;
use crate::service::{ServiceNetwork, ServiceSpec};

/// Whether the tasks of a service, whose networks are named by their ids, are in the routing mesh's network, too.
pub(super) fn joins_ingress(spec: &ServiceSpec, networks: &[NetworkView]) -> bool {
    let leads_out = |wanted: &ServiceNetwork| {
        let known = networks.iter().find(|network| network.id == wanted.network.as_str());
        known.is_some_and(|network| !network.options.internal)
    };
    spec.needs_ingress() && !spec.networks.iter().any(leads_out)
}

/// The routing mesh's network. Of two, made on two sides of a partition, it is the older on every node.
///
/// # Errors
/// If there is none.
pub(super) fn ingress<'n>(name: &Name, networks: &'n [NetworkView]) -> Result<&'n NetworkView, Refusal> {
    let all = networks.iter().filter(|network| network.options.ingress);
    all.min_by_key(|network| (network.created_ms, &network.id)).ok_or_else(|| {
        conflict(format!(
            "service {name} needs ingress network, but no ingress network is present: make one with `vswitchd network \
             create --ingress ingress`"
        ))
    })
}

/// The networks of a service's tasks, by their ids, in the order of their interfaces.
fn task_networks(spec: &ServiceSpec, networks: &[NetworkView]) -> Result<Vec<Name>, Refusal> {
    let mut all: Vec<Name> = spec.networks.iter().map(|network| network.network.clone()).collect();
    if joins_ingress(spec, networks) {
        all.push(ingress(&spec.name, networks)?.id.parse().map_err(internal)?);
    }
    Ok(all)
}

impl Node {
    /// The networks that the tasks of a service are in, by their ids, in the order of their interfaces: its own, and that of
    /// the routing mesh if that is the only way out.
    ///
    /// # Errors
    /// If this node is in no cluster, or a network of the mesh is needed and there is none.
    pub(crate) fn task_networks(&self, spec: &ServiceSpec) -> Result<Vec<Name>, Refusal> {
        task_networks(spec, &self.cluster_now()?.network_views())
    }

    /// Gives a task of a service a place in a network, which may be the routing mesh's.
    ///
    /// # Errors
    /// As for any endpoint.
    pub(crate) async fn attach_task(&self, request: AttachRequest) -> Result<Attached, Refusal> {
        Cluster::attach_task(&self.cluster_now()?, request).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::settle::tests::{network, port, spec};
    use super::*;
    use crate::api::NetworkOptions;
    use crate::service::PortMode::{Host, Ingress};

    fn networks() -> Vec<NetworkView> {
        let internal = |id: &str| {
            let options = NetworkOptions { internal: true, ..NetworkOptions::default() };
            NetworkView { options, ..network(id, id, false) }
        };
        vec![network("mesh", "ingress", true), internal("in"), network("out", "front", false)]
    }

    #[test]
    fn who_publishes_and_has_no_way_out_is_in_the_mesh() {
        let of = |networks: &[&str], ports: &[crate::service::Port], all: &[NetworkView]| {
            let ids = task_networks(&spec("web", networks, ports), all).map_err(|refusal| refusal.message)?;
            Ok::<String, String>(ids.iter().map(Name::as_str).collect::<Vec<_>>().join(" "))
        };
        let (mesh, host, all) = (port("8080:80", Ingress), port("8080:80", Host), networks());
        assert_eq!(of(&[], &[], &all), Ok(String::new()), "without ports there is no need");
        assert_eq!([of(&[], &[mesh], &all), of(&[], &[host], &all)], [Ok("mesh".into()), Ok("mesh".into())]);
        assert_eq!(of(&["in"], &[mesh], &all), Ok("in mesh".into()), "an internal one leads nowhere");
        assert_eq!(of(&["in"], &[host], &all), Ok("in".into()));
        assert_eq!(of(&["in", "out"], &[mesh], &all), Ok("in out".into()));
        let refused = of(&[], &[host], &all[1..]).unwrap_err();
        assert!(refused.contains("needs ingress network, but no ingress network is present"), "{refused}");
        assert_eq!(
            of(&["out"], &[mesh], &all[1..]),
            Ok("out".into()),
            "it was there when the service was made"
        );
    }

    #[test]
    fn of_two_meshes_the_older_is_it() {
        let younger = NetworkView { created_ms: 9, ..network("a", "mesh", true) };
        for networks in
            [[younger.clone(), network("b", "ingress", true)], [network("b", "ingress", true), younger]]
        {
            assert_eq!(ingress(&"web".parse().unwrap(), &networks).unwrap().id, "b");
        }
    }
}
