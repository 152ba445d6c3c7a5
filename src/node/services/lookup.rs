//! Which service is meant, and which networks are needed by one.

use super::super::life::bad_request;
use super::super::requests::{conflict, find};
use crate::api::{Name, NetworkView, Refusal, ServiceConflict, ServiceView};
use crate::service::SpecError;

/// Services that a refusal names at most.
const NAMED_MAX: usize = 4;

/// The service that `wanted` names: an id, a name, or the beginning of an id. A name that several have means the oldest.
///
/// # Errors
/// If it names none, or several.
pub(in crate::node) fn find_service<'a>(
    services: &'a [ServiceView],
    wanted: &Name,
) -> Result<&'a ServiceView, Refusal> {
    let gives_way = |service: &ServiceView| {
        service.spec.name == *wanted
            && service.conflicts.iter().any(|conflict| matches!(conflict, ServiceConflict::Name { .. }))
    };
    let meant: Vec<&ServiceView> = services.iter().filter(|service| !gives_way(service)).collect();
    find("service", wanted, &meant, |service| (service.id.clone(), service.spec.name.as_str())).copied()
}

/// The same of a service that is to be changed or removed: nobody loses one for a name that another has, too.
///
/// # Errors
/// If it names none, or several.
pub(super) fn find_one<'a>(services: &'a [ServiceView], wanted: &Name) -> Result<&'a ServiceView, Refusal> {
    find("service", wanted, services, |service| (service.id.clone(), service.spec.name.as_str()))
}

/// Why a change can't be made, with the names of networks, which it had by their ids.
pub(super) fn unchanged(error: SpecError, networks: &[NetworkView]) -> Refusal {
    let name = |id: String| match networks.iter().find(|network| network.id == id) {
        Some(network) => network.name.clone(),
        None => id,
    };
    let error = match error {
        SpecError::Missing { what: what @ "network", which } => {
            SpecError::Missing { what, which: name(which) }
        }
        other => other,
    };
    bad_request(error.to_string())
}

/// Whether no service needs a network: is in it, or publishes ports by it.
///
/// # Errors
/// If some do: they are named.
pub(in crate::node) fn network_is_free(
    network: &NetworkView,
    services: &[ServiceView],
) -> Result<(), Refusal> {
    let is_in = |service: &&ServiceView| service.networks.iter().any(|place| place.network == network.id);
    let publishes = |service: &&ServiceView| network.options.ingress && service.spec.needs_ingress();
    let users: Vec<&ServiceView> =
        services.iter().filter(|service| is_in(service) || publishes(service)).collect();
    if users.is_empty() {
        return Ok(());
    }
    let named: Vec<&str> = users.iter().take(NAMED_MAX).map(|service| service.spec.name.as_str()).collect();
    let more = users.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let (of, publish, them, their) = match users.len() {
        1 => ("service", "publishes", "it", "its"),
        _ => ("services", "publish", "them", "their"),
    };
    let remedy = match network.options.ingress {
        true => format!(
            ", which {publish} ports by it: `vswitchd service rm` {them}, or `service update --publish-rm` {their} ports"
        ),
        false => {
            format!(": `vswitchd service rm` {them}, or take {them} out by `service update --network-rm`")
        }
    };
    Err(conflict(format!("network {} is in use by {of} {}{more}{remedy}", network.name, named.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::super::conflict::mark;
    use super::super::settle::tests::{network, port, service, spec};
    use super::*;
    use crate::api::{Code, ServicePlace};
    use crate::service::PortMode;

    #[test]
    fn a_name_that_two_have_means_the_older_but_removes_neither() {
        let mut services = [
            ServiceView { created_ms: 9, ..service("aa", "web", &[]) },
            ServiceView { created_ms: 8, ..service("bb", "web", &[]) },
            service("cc", "db", &[]),
        ];
        mark(&mut services);
        let found =
            |wanted: &str| find_service(&services, &wanted.parse().unwrap()).map(|found| found.id.as_str());
        assert_eq!(
            [found("web"), found("aa"), found("a"), found("db")],
            [Ok("bb"), Ok("aa"), Ok("aa"), Ok("cc")]
        );
        assert_eq!(found("api").unwrap_err().code, Code::NotFound);
        let refused = find_one(&services, &"web".parse().unwrap()).unwrap_err();
        assert_eq!(refused.message, "web is not one service but 2: give its id (aa, bb)");
        assert_eq!(find_one(&services, &"aa".parse().unwrap()).unwrap().id, "aa");
    }

    #[test]
    fn a_network_that_a_service_is_not_in_is_named() {
        let front = network("n1", "front", false);
        let said = |which: &str| {
            let error = SpecError::Missing { what: "network", which: which.into() };
            unchanged(error, std::slice::from_ref(&front)).message
        };
        assert_eq!(said("n1"), "the service has no network front");
        assert_eq!(said("back"), "the service has no network back");
        let label = SpecError::Missing { what: "label", which: "n1".into() };
        assert_eq!(unchanged(label, std::slice::from_ref(&front)).message, "the service has no label n1");
    }

    #[test]
    fn services_that_need_a_network_are_named() {
        let network = |ingress| network("n1", "front", ingress);
        let inside = |name: &str| {
            let place = ServicePlace { network: "n1".into(), name: "front".into(), vips: Vec::new() };
            ServiceView { networks: vec![place], ..service(name, name, &[]) }
        };
        let mesh = service("s", "mesh", &[port("8080:80", PortMode::Ingress)]);
        let host = service("t", "host", &[port("8080:80", PortMode::Host)]);
        assert_eq!(network_is_free(&network(false), &[mesh.clone(), host.clone()]), Ok(()));
        let said = |ingress, services: &[ServiceView]| {
            network_is_free(&network(ingress), services).unwrap_err().message
        };
        let one = mesh.clone();
        let placed = ServiceView { spec: spec("host", &["n2"], &host.ports), ..host.clone() };
        let said_of_both = said(true, &[mesh, host, placed]);
        assert_eq!(
            said_of_both,
            "network front is in use by services mesh, host, which publish ports by it: `vswitchd service rm` them, or \
             `service update --publish-rm` their ports"
        );
        assert!(
            said(true, &[one])
                .contains(" by service mesh, which publishes ports by it: `vswitchd service rm` it, or")
        );
        let many: Vec<ServiceView> = ["a", "b", "c", "d", "e", "f"].map(inside).into();
        assert!(
            said(false, &many)
                .starts_with("network front is in use by services a, b, c, d and 2 more: `vswitchd")
        );
    }
}
