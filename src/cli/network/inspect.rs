//! `vswitchd network inspect`.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::option::{FOREIGN, MTU, VNIS};
use super::{DRIVER, SCOPE};
use crate::api::{
    Call, EndpointDevice, HostAddress, Name, NetworkDetail, NetworkMember, NodeUse, Subnet, SubnetUse,
};
use crate::cli::date::rfc3339;
use crate::cli::printable;
use crate::cli::remote::Remote;
use crate::cli::{failed, say};

/// Show all that is known of networks, as a JSON list
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd network inspect front back
  vswitchd network inspect --verbose front

The list has the shape of Docker's: Containers are the endpoints of the node that is asked, by id (null without any), Peers \
the nodes that have some. VNI, Encrypted, MTU, Foreign, Conflicts, Endpoints (of all nodes) and Addresses are ours. Owned are \
addresses that only the node that is asked gives to endpoints; others are given to it when it runs out of them. With \
--verbose it is shown what each node holds.

Exit status: 0 shown, 1 a network was not found, 2 wrong usage or configuration.")]
pub(super) struct Inspect {
    /// Which
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<Name>,

    /// Show which node holds how many addresses, too
    #[arg(short, long)]
    verbose: bool,

    #[command(flatten)]
    remote: Remote,
}

impl Inspect {
    pub(super) fn run(self) -> ExitCode {
        let mut networks = Vec::new();
        let outcome = self.remote.ask_each(self.networks, Call::Network, |_, network: NetworkDetail| {
            networks.push(document(&network, self.verbose));
            Ok(())
        });
        match say(&printable::json_pretty(&networks)) {
            Ok(()) => outcome,
            Err(error) => failed(&error),
        }
    }
}

/// In the shape of `docker network inspect`, and what Docker has no field for.
fn document(detail: &NetworkDetail, verbose: bool) -> Value {
    let network = &detail.network;
    let options = &network.options;
    let has_v6 = network.subnets.iter().any(|subnet| !subnet.subnet.is_ipv4());
    let peers = detail.peers.iter().map(|peer| json!({ "Name": peer.name, "IP": peer.address }));
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(network.created_ms),
        "Scope": SCOPE,
        "Driver": DRIVER,
        "EnableIPv4": true,
        "EnableIPv6": has_v6,
        "IPAM": {
            "Driver": "default",
            "Options": null,
            "Config": network.subnets.iter().map(config).collect::<Vec<_>>(),
        },
        "Internal": options.internal,
        "Attachable": options.attachable,
        "Ingress": options.ingress,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers(detail),
        "Options": docker_options(detail),
        "Labels": options.labels,
        "Peers": peers.collect::<Vec<_>>(),
        "VNI": network.vni,
        "Encrypted": options.encrypted,
        "MTU": options.mtu,
        "Foreign": options.foreign,
        "Conflicts": network.conflicts.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "Endpoints": detail.members.iter().map(member).collect::<Vec<_>>(),
        "Addresses": detail.addresses.iter().map(|of| addresses(of, verbose)).collect::<Vec<_>>(),
    })
}

fn config(subnet: &Subnet) -> Value {
    let mut config = json!({ "Subnet": subnet.subnet, "Gateway": subnet.gateway });
    if let Some(range) = subnet.ip_range {
        config["IPRange"] = json!(range);
    }
    if !subnet.reserved.is_empty() {
        config["AuxiliaryAddresses"] = json!(subnet.reserved);
    }
    config
}

/// An endpoint of any node.
fn member(member: &NetworkMember) -> Value {
    json!({
        "Id": member.id,
        "Name": member.name,
        "Aliases": member.aliases,
        "Node": member.node,
        "MacAddress": member.mac.to_string(),
        "IPv4Address": of_version(&member.addresses, true),
        "IPv6Address": of_version(&member.addresses, false),
    })
}

/// The address of an IP version; empty without one, as in Docker.
fn of_version(addresses: &[HostAddress], v4: bool) -> String {
    let found = addresses.iter().find(|own| own.address().is_ipv4() == v4);
    found.map(ToString::to_string).unwrap_or_default()
}

/// How a subnet's addresses are used.
fn addresses(of: &SubnetUse, verbose: bool) -> Value {
    let sum = |part: fn(&NodeUse) -> u64| of.nodes.iter().map(part).fold(0, u64::saturating_add);
    let own = of.nodes.iter().find(|node| node.own);
    let mut document = json!({
        "Subnet": of.subnet,
        "Capacity": of.capacity,
        "Used": sum(|node| node.used),
        "Free": of.capacity.saturating_sub(sum(|node| node.used)),
        "Owned": own.map_or(0, |node| node.owned),
    });
    if verbose {
        let node = |node: &NodeUse| json!({ "Node": node.node, "Owned": node.owned, "Used": node.used, "Free": node.free });
        document["Nodes"] = of.nodes.iter().map(node).collect();
        document["Unheard"] = of.capacity.saturating_sub(sum(|node| node.owned)).into();
    }
    document
}

/// This node's endpoints by id, with what stands for a container's place.
fn containers(detail: &NetworkDetail) -> Value {
    if detail.endpoints.is_empty() {
        return Value::Null;
    }
    let endpoint = |endpoint: &crate::api::NetworkEndpoint| {
        let mut document = json!({
            "Name": endpoint.name,
            "EndpointID": endpoint.id,
            "MacAddress": endpoint.mac.to_string(),
            "IPv4Address": of_version(&endpoint.addresses, true),
            "IPv6Address": of_version(&endpoint.addresses, false),
            "Aliases": endpoint.aliases,
            "MTU": endpoint.mtu,
            "Carried": endpoint.carried,
            "Ports": endpoint.published,
        });
        match &endpoint.device {
            EndpointDevice::Tap { tap, netns } => {
                (document["Tap"], document["Netns"]) = (json!(tap), json!(netns))
            }
            EndpointDevice::QemuStream { qemu_stream } => document["QemuStream"] = json!(qemu_stream),
            EndpointDevice::QemuDgram { qemu_dgram, qemu_remote } => {
                (document["QemuDgram"], document["QemuRemote"]) = (json!(qemu_dgram), json!(qemu_remote));
            }
        }
        (endpoint.id.clone(), document)
    };
    Value::Object(detail.endpoints.iter().map(endpoint).collect())
}

fn docker_options(detail: &NetworkDetail) -> Map<String, Value> {
    let network = &detail.network;
    let mut options = Map::new();
    options.insert(VNIS.into(), network.vni.to_string().into());
    if network.options.encrypted {
        options.insert("encrypted".into(), "".into());
    }
    if let Some(mtu) = network.options.mtu {
        options.insert(MTU.into(), mtu.to_string().into());
    }
    if !network.options.foreign.is_empty() {
        let addresses: Vec<_> = network.options.foreign.iter().map(ToString::to_string).collect();
        options.insert(FOREIGN.into(), addresses.join(",").into());
    }
    options
}

#[cfg(test)]
mod tests {
    use super::super::tests::network;
    use super::*;
    use crate::api::{
        NetworkConflict, NetworkEndpoint, NetworkOptions, NetworkPeer, NetworkRef, NetworkView,
    };
    use crate::switch::wire::MacAddr;

    fn detail(network: NetworkView) -> NetworkDetail {
        NetworkDetail {
            network,
            peers: Vec::new(),
            endpoints: Vec::new(),
            members: Vec::new(),
            addresses: Vec::new(),
        }
    }

    #[test]
    fn a_bare_network_has_dockers_shape() {
        let shown = document(&detail(network("front", &[("10.0.0.0/24", "10.0.0.1")])), false);
        assert_eq!(shown["Created"], "1970-01-01T00:00:00.000Z");
        assert_eq!(shown["IPAM"]["Config"], json!([{ "Subnet": "10.0.0.0/24", "Gateway": "10.0.0.1" }]));
        assert_eq!(shown["Options"], json!({ "com.docker.network.driver.overlay.vxlanid_list": "4096" }));
        assert_eq!(
            [&shown["Containers"], &shown["Peers"], &shown["Foreign"]],
            [&Value::Null, &json!([]), &json!([])]
        );
        assert_eq!([&shown["Labels"], &shown["Conflicts"]], [&json!({}), &json!([])]);
        assert_eq!([&shown["EnableIPv6"], &shown["Internal"]], [&json!(false); 2]);
    }

    #[test]
    fn everything_that_is_known_is_shown() {
        let mut front = network("front", &[("10.0.0.0/24", "10.0.0.1"), ("fd00::/64", "fd00::1")]);
        front.subnets[0].ip_range = Some("10.0.0.128/25".parse().unwrap());
        front.subnets[0].reserved = [("a".parse().unwrap(), "10.0.0.7".parse().unwrap())].into();
        let labels = [("stage".into(), "test".into())].into();
        front.options = NetworkOptions {
            encrypted: true,
            internal: true,
            mtu: Some(1200),
            labels,
            foreign: [[192, 0, 2, 8].into(), [192, 0, 2, 9].into()].into(),
            ..NetworkOptions::default()
        };
        front.conflicts =
            vec![NetworkConflict::Name { holder: NetworkRef { id: "zzz".into(), name: "front".into() } }];
        let peer = NetworkPeer { id: "n1".into(), name: "one".into(), address: Some([192, 0, 2, 1].into()) };
        let endpoint = NetworkEndpoint {
            id: "e1".into(),
            name: "web".into(),
            aliases: vec!["www".into()],
            mac: MacAddr([2, 0x42, 10, 0, 0, 2]),
            addresses: vec!["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
            device: EndpointDevice::tap("tap0", Some("web".into())),
            mtu: 1450,
            carried: true,
            published: Vec::new(),
        };
        let member = NetworkMember {
            id: "e2".into(),
            name: "db".into(),
            aliases: Vec::new(),
            node: "two".into(),
            mac: MacAddr([2, 0x42, 10, 0, 0, 3]),
            addresses: vec!["10.0.0.3/24".parse().unwrap()],
        };
        let node = |node: &str, own, owned, used| NodeUse {
            node: node.into(),
            own,
            owned,
            free: owned - used,
            used,
        };
        let nodes = vec![node("one", true, 100, 1), node("two", false, 50, 1)];
        let of = SubnetUse { subnet: front.subnets[0].subnet, capacity: 253, nodes };
        let detail = NetworkDetail {
            peers: vec![peer],
            endpoints: vec![endpoint],
            members: vec![member],
            addresses: vec![of],
            ..detail(front)
        };
        let shown = document(&detail, true);
        assert_eq!(
            shown["Addresses"][0],
            json!({ "Subnet": "10.0.0.0/24", "Capacity": 253, "Used": 2, "Free": 251, "Owned": 100, "Unheard": 103,
                "Nodes": [{ "Node": "one", "Owned": 100, "Used": 1, "Free": 99 },
                    { "Node": "two", "Owned": 50, "Used": 1, "Free": 49 }] })
        );
        assert_eq!(document(&detail, false)["Addresses"][0].get("Nodes"), None);
        assert_eq!(
            shown["Endpoints"],
            json!([{ "Id": "e2", "Name": "db", "Aliases": [], "Node": "two", "MacAddress": "02:42:0a:00:00:03",
                "IPv4Address": "10.0.0.3/24", "IPv6Address": "" }])
        );
        let web = &shown["Containers"]["e1"];
        assert_eq!((&web["IPv4Address"], &web["IPv6Address"]), (&json!("10.0.0.2/24"), &json!("fd00::2/64")));
        assert_eq!(shown["IPAM"]["Config"][0]["IPRange"], "10.0.0.128/25");
        assert_eq!(shown["IPAM"]["Config"][0]["AuxiliaryAddresses"], json!({ "a": "10.0.0.7" }));
        assert_eq!(shown["IPAM"]["Config"][1], json!({ "Subnet": "fd00::/64", "Gateway": "fd00::1" }));
        assert_eq!(shown["Options"]["com.docker.network.driver.mtu"], "1200");
        assert_eq!(shown["Options"]["foreign"], "192.0.2.8,192.0.2.9");
        assert_eq!(shown["Foreign"], json!(["192.0.2.8", "192.0.2.9"]));
        assert_eq!((&shown["Options"]["encrypted"], &shown["Encrypted"]), (&json!(""), &json!(true)));
        assert_eq!([&shown["EnableIPv6"], &shown["Internal"]], [&json!(true); 2]);
        assert_eq!(shown["Peers"], json!([{ "Name": "one", "IP": "192.0.2.1" }]));
        assert_eq!(web["Netns"], "web");
        assert_eq!(shown["Conflicts"], json!(["name means zzz"]));
        assert_eq!(shown["Labels"], json!({ "stage": "test" }));
    }
}
