//! What services share that should have it for themselves. See [`ServiceConflict`] for the rule.

use crate::api::{ServiceConflict, ServiceRef, ServiceView};
use crate::service::{Port, PortMode};

/// Of two services the one with the smaller age holds what both have.
fn age(service: &ServiceView) -> (u64, &str) {
    (service.created_ms, &service.id)
}

/// Says of each service what it shares with older ones, in place of what was said of it before.
pub(super) fn mark(services: &mut [ServiceView]) {
    let mut found: Vec<Vec<ServiceConflict>> = Vec::new();
    for service in services.iter() {
        let mut older: Vec<&ServiceView> =
            services.iter().filter(|other| age(other) < age(service)).collect();
        older.sort_by_key(|other| age(other));
        let name = older.iter().find(|other| other.spec.name == service.spec.name);
        let name = name.map(|other| ServiceConflict::Name { holder: reference(other) });
        let ports = service.ports.iter().filter_map(|port| taken(port, &older));
        found.push(name.into_iter().chain(ports).collect());
    }
    services.iter_mut().zip(found).for_each(|(service, found)| service.conflicts = found);
}

/// Of the oldest that has it.
fn taken(port: &Port, older: &[&ServiceView]) -> Option<ServiceConflict> {
    let same = |other: &Port| other.clashes(port) && [other.mode, port.mode].contains(&PortMode::Ingress);
    let holder = older.iter().find(|service| service.ports.iter().any(same))?;
    let (published, protocol) = (port.published?.get(), port.protocol);
    Some(ServiceConflict::Port { published, protocol, holder: reference(holder) })
}

fn reference(service: &ServiceView) -> ServiceRef {
    ServiceRef { id: service.id.clone(), name: service.spec.name.to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::settle::tests::{port, service};
    use super::*;

    #[test]
    fn the_older_holds_what_both_have_on_every_node() {
        let mesh = [port("8080:80", PortMode::Ingress), port("53:53/udp", PortMode::Ingress)];
        let host = [port("8080:80", PortMode::Host), port("53:53", PortMode::Host)];
        let old = ServiceView { created_ms: 1, ..service("b", "web", &mesh) };
        let young = ServiceView { created_ms: 2, ..service("a", "web", &host) };
        let third = ServiceView { created_ms: 3, ..service("c", "other", &host) };
        for mut services in [vec![old.clone(), young.clone(), third.clone()], vec![third, young, old]] {
            mark(&mut services);
            let said = |id: &str| {
                let service = services.iter().find(|service| service.id == id).unwrap();
                service.conflicts.iter().map(ToString::to_string).collect::<Vec<_>>()
            };
            assert_eq!(said("b"), [""; 0]);
            assert_eq!(said("a"), ["name means b", "port 8080/tcp is that of web (b)"]);
            assert_eq!(said("c"), ["port 8080/tcp is that of web (b)"], "hosts share their ports by turns");
        }
    }

    #[test]
    fn of_equally_old_ones_the_smaller_id_holds() {
        let mut services = [service("b", "web", &[]), service("a", "web", &[])];
        mark(&mut services);
        assert_eq!([services[0].conflicts.len(), services[1].conflicts.len()], [1, 0]);
    }
}
