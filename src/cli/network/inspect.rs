//! `vswitchd network inspect`.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::option::{MTU, VNIS};
use super::{DRIVER, SCOPE};
use crate::api::{Call, EndpointDevice, Name, NetworkDetail, Subnet};
use crate::cli::date::rfc3339;
use crate::cli::printable;
use crate::cli::remote::Remote;
use crate::cli::{failed, say};

/// Show all that is known of networks, as a JSON list
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd network inspect front back

The list has the shape of Docker's: Containers are the endpoints of the node that is asked (null without any), Peers the \
nodes that have some. VNI, Encrypted, MTU and Conflicts are ours.

Exit status: 0 shown, 1 a network was not found, 2 wrong usage or configuration.")]
pub(super) struct Inspect {
    /// Which
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<Name>,

    #[command(flatten)]
    remote: Remote,
}

impl Inspect {
    pub(super) fn run(self) -> ExitCode {
        let mut networks = Vec::new();
        let outcome = self.remote.ask_each(self.networks, Call::Network, |_, network: NetworkDetail| {
            networks.push(document(&network));
            Ok(())
        });
        match say(&printable::json_pretty(&networks)) {
            Ok(()) => outcome,
            Err(error) => failed(&error),
        }
    }
}

/// In the shape of `docker network inspect`, and what Docker has no field for.
fn document(detail: &NetworkDetail) -> Value {
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
        "Conflicts": network.conflicts.iter().map(ToString::to_string).collect::<Vec<_>>(),
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

/// This node's endpoints by name, with what stands for a container's place.
fn containers(detail: &NetworkDetail) -> Value {
    if detail.endpoints.is_empty() {
        return Value::Null;
    }
    let endpoint = |endpoint: &crate::api::NetworkEndpoint| {
        let mut document = json!({ "Name": endpoint.name, "MTU": endpoint.mtu, "Carried": endpoint.carried });
        match &endpoint.device {
            EndpointDevice::Tap { tap, netns } => {
                (document["Tap"], document["Netns"]) = (json!(tap), json!(netns))
            }
            EndpointDevice::QemuStream { qemu_stream } => document["QemuStream"] = json!(qemu_stream),
            EndpointDevice::QemuDgram { qemu_dgram, qemu_remote } => {
                (document["QemuDgram"], document["QemuRemote"]) = (json!(qemu_dgram), json!(qemu_remote));
            }
        }
        (endpoint.name.clone(), document)
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
    options
}

#[cfg(test)]
mod tests {
    use super::super::tests::network;
    use super::*;
    use crate::api::{
        NetworkConflict, NetworkEndpoint, NetworkOptions, NetworkPeer, NetworkRef, NetworkView,
    };

    fn detail(network: NetworkView) -> NetworkDetail {
        NetworkDetail { network, peers: Vec::new(), endpoints: Vec::new() }
    }

    #[test]
    fn a_bare_network_has_dockers_shape() {
        let shown = document(&detail(network("front", &[("10.0.0.0/24", "10.0.0.1")])));
        assert_eq!(shown["Created"], "1970-01-01T00:00:00.000Z");
        assert_eq!(shown["IPAM"]["Config"], json!([{ "Subnet": "10.0.0.0/24", "Gateway": "10.0.0.1" }]));
        assert_eq!(shown["Options"], json!({ "com.docker.network.driver.overlay.vxlanid_list": "4096" }));
        assert_eq!((&shown["Containers"], &shown["Peers"]), (&Value::Null, &json!([])));
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
            ..NetworkOptions::default()
        };
        front.conflicts =
            vec![NetworkConflict::Name { holder: NetworkRef { id: "zzz".into(), name: "front".into() } }];
        let peer = NetworkPeer { id: "n1".into(), name: "one".into(), address: Some([192, 0, 2, 1].into()) };
        let endpoint = NetworkEndpoint {
            name: "web".into(),
            device: EndpointDevice::tap("tap0", Some("web".into())),
            mtu: 1450,
            carried: true,
        };
        let shown = document(&NetworkDetail { network: front, peers: vec![peer], endpoints: vec![endpoint] });
        assert_eq!(shown["IPAM"]["Config"][0]["IPRange"], "10.0.0.128/25");
        assert_eq!(shown["IPAM"]["Config"][0]["AuxiliaryAddresses"], json!({ "a": "10.0.0.7" }));
        assert_eq!(shown["IPAM"]["Config"][1], json!({ "Subnet": "fd00::/64", "Gateway": "fd00::1" }));
        assert_eq!(shown["Options"]["com.docker.network.driver.mtu"], "1200");
        assert_eq!((&shown["Options"]["encrypted"], &shown["Encrypted"]), (&json!(""), &json!(true)));
        assert_eq!([&shown["EnableIPv6"], &shown["Internal"]], [&json!(true); 2]);
        assert_eq!(shown["Peers"], json!([{ "Name": "one", "IP": "192.0.2.1" }]));
        assert_eq!(shown["Containers"]["web"]["Netns"], "web");
        assert_eq!(shown["Conflicts"], json!(["name means zzz"]));
        assert_eq!(shown["Labels"], json!({ "stage": "test" }));
    }
}
