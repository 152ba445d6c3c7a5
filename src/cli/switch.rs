//! `vswitchd switch`.

use std::process::ExitCode;
use std::time::Duration;

use super::{Format, failed};
use crate::api::IpPrefix;
use crate::standalone::{
    self, Config, GatewaySpec, HostSpec, NetworkSpec, PeerSpec, ServiceSpec, TapSpec, VniSpec, WayOut,
};
use crate::switch::fdb::Limits;
use crate::switch::io::netns::NetnsRef;
use crate::switch::storm::StormLimit;
use crate::switch::switch::WORKERS_MAX;
use crate::switch::wire::{MacAddr, vxlan};

/// As [`Limits::default`] has it, which a test holds it to.
const TABLE_SIZE: u32 = 65_536;
/// 64 bytes each: a gigabyte, which nobody needs.
const TABLE_SIZE_MAX: i64 = 1 << 24;

/// Run one switch with peers given by hand
///
/// Creates the TAP devices (or takes over ones that are there), carries their frames to the peers as VXLAN, and back.
/// Learns where addresses are from the traffic. Peers may be other vswitchd hosts, Linux's own vxlan device, Open
/// vSwitch, or any other RFC 7348 end point.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    /// Network to serve, 0 to 16777215, with its TAPs: VNI[:TAP[,TAP]...]
    #[arg(long, value_name = "VNI[:TAP,...]", required = true)]
    vni: Vec<NetworkSpec>,

    /// TAP device in the network, when there is one --vni: NAME[@NETNS]
    ///
    /// NETNS is the namespace that the device is to be in: a name (as of `ip netns`), a path, or a process id.
    #[arg(long, value_name = "NAME[@NETNS]")]
    tap: Vec<TapSpec>,

    /// Namespace of every TAP that names none: a name, a path, or a process id
    #[arg(long, value_name = "NETNS")]
    tap_netns: Option<NetnsRef>,

    /// MAC address of a TAP; once for each TAP, in their order [default: the kernel's choice]
    #[arg(long, value_name = "MAC")]
    mac: Vec<MacAddr>,

    /// This host's address in the underlay
    #[arg(long, value_name = "ADDRESS")]
    local: std::net::IpAddr,

    /// Another host's address, and the networks that it is in [default: all]
    #[arg(long, value_name = "ADDRESS[@VNI,...]")]
    peer: Vec<PeerSpec>,

    /// UDP port, the same on all hosts
    #[arg(long, default_value_t = vxlan::PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,

    /// MTU of the TAPs [default: what the path to every peer carries, less the 50 (IPv6: 70) bytes of VXLAN]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(68..=65_521))]
    mtu: Option<u32>,

    /// Broadcast, multicast and unknown-destination frames a second that each port may have flooded
    #[arg(long, value_name = "FRAMES", default_value_t = StormLimit::default().frames_per_second)]
    storm_limit: u32,

    /// Seconds after which an address not heard from is forgotten
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().age.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    ageing: u64,

    /// Addresses that the forwarding table holds
    #[arg(long, value_name = "ENTRIES", default_value_t = TABLE_SIZE,
          value_parser = clap::value_parser!(u32).range(1..=TABLE_SIZE_MAX))]
    table_size: u32,

    /// Use no TAP offloads: frames arrive cut to size, with checksums finished
    #[arg(long)]
    no_offload: bool,

    /// Probe the path to each peer: whether it answers, round-trip time, loss, largest packet
    ///
    /// About once a second, by the way that frames take. Prints when a path goes down or comes back. Peers that are no
    /// vswitchd ignore probes, and are said not to answer them.
    #[arg(long)]
    probe: bool,

    /// Addresses of a network's gateway, IPv4 and IPv6: VNI:ADDRESS[/LENGTH][,ADDRESS[/LENGTH]]...
    ///
    /// It answers ping and resolves names: those of --host, and of others what this host's resolvers say. Every switch of
    /// the network may have it: each answers its own TAPs. It leads out of the network with --nat only.
    /// With the length of its prefix it can also tell machines their addresses (DHCP), and advertises IPv6 prefixes.
    #[arg(long, value_name = "VNI:ADDRESS[/LENGTH]")]
    gateway: Vec<GatewaySpec>,

    /// A name that the gateway resolves, also with the network as in NAME.VNI: VNI:NAME=ADDRESS[,ADDRESS]...[,MAC]
    ///
    /// The machine that has the MAC address, if one is given, gets its IPv4 address by DHCP.
    #[arg(long, value_name = "VNI:NAME=ADDRESS[,MAC]")]
    host: Vec<HostSpec>,

    /// Network whose gateway leads out: its packets for elsewhere are carried by this host's own sockets
    ///
    /// TCP, UDP and ping, IPv4 and IPv6, with this host's address and no privilege. They may go wherever this host can,
    /// but never to its loopback addresses, to link-local ones (169.254.0.0/16 with a cloud's metadata, fe80::/10), to
    /// groups, or to a switch's UDP port. Ping needs the host's leave: `sysctl net.ipv4.ping_group_range`.
    #[arg(long, value_name = "VNI")]
    nat: Vec<VniSpec>,

    /// What no network with --nat may reach outside, as other networks' subnets that this host has addresses in
    #[arg(long, value_name = "PREFIX")]
    nat_deny: Vec<IpPrefix>,

    /// A virtual address, and the endpoints that share its connections: VNI:ADDRESS=TASK[,TASK]..., a task as ADDRESS[@MAC]
    ///
    /// Every switch of the network that has clients of it should have it: each chooses for the clients at its own TAPs.
    /// Tasks see their clients' addresses, and answer on the ports that they are asked on. Without @MAC, a task's MAC
    /// address is 02:42 and its IPv4 address.
    #[arg(long, value_name = "VNI:ADDRESS=TASK,...")]
    service: Vec<ServiceSpec>,

    /// Threads that move frames, each with a queue of every TAP and a socket of its own [default: one for each core]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=WORKERS_MAX as i64))]
    workers: Option<u16>,

    /// How to print events and counters
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  One network, two hosts (run the mirror image on 192.0.2.2):
    vswitchd switch --vni 42 --tap tap0 --local 192.0.2.1 --peer 192.0.2.2
    ip address add 10.0.0.1/24 dev tap0

  Two networks, each with a device in a container's namespace:
    vswitchd switch --vni 42:eth0@web --vni 43:eth1@4711 --local 192.0.2.1 --peer 192.0.2.2

  A network with a resolver at 10.0.9.1:
    vswitchd switch --vni 42 --tap tap0 --local 192.0.2.1 --peer 192.0.2.2 \
                    --gateway 42:10.0.9.1 --host 42:web=10.0.9.2

  One that also tells a virtual machine its address:
    vswitchd switch --vni 42 --tap vm0 --local 192.0.2.1 --peer 192.0.2.2 \
                    --gateway 42:10.0.9.1/24 --host 42:guest=10.0.9.7,52:54:00:00:00:07

  One with a way out, but not into 10.0.0.0/8 (in the endpoint: ip route add default via 192.168.9.1):
    vswitchd switch --vni 42 --tap tap0 --local 192.0.2.1 --gateway 42:192.168.9.1 --nat 42 --nat-deny 10.0.0.0/8

  A virtual address for two web servers, with TAPs made as --mac 02:42:0a:00:09:02 and so on:
    vswitchd switch --vni 42 --tap tap0 --local 192.0.2.1 --peer 192.0.2.2 \
                    --service 42:10.0.9.100=10.0.9.2,10.0.9.3

  A kernel's vxlan device as the other end:
    ip link add vx0 type vxlan id 42 remote 192.0.2.1 dstport 4789 dev eth0

Signals: SIGUSR1 prints the counters; SIGINT and SIGTERM stop, printing them.
Exit status: 0 stopped by a signal, 1 failed, 2 wrong usage.";

impl Args {
    pub(super) fn run(self) -> ExitCode {
        let json = self.format == Format::Json;
        let outcome = self.config().and_then(|config| Ok(standalone::run(config, json)?));
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Usage(error)) => {
                eprintln!("vswitchd: {error} (see vswitchd switch --help)");
                ExitCode::from(2)
            }
            Err(Failure::Run(error)) => failed(&error),
        }
    }

    fn config(self) -> Result<Config, Failure> {
        let limits = Limits {
            age: Duration::from_secs(self.ageing),
            entries_max: usize::try_from(self.table_size).unwrap_or(usize::MAX),
            ..Limits::default()
        };
        let storm = StormLimit { frames_per_second: self.storm_limit, burst: self.storm_limit };
        let networks = standalone::assign(self.vni, self.tap, self.tap_netns.as_ref(), &self.mac)?;
        let local = standalone::check_local(self.local)?;
        let peers = standalone::check_peers(self.peer, local, &networks)?;
        let mut gateways = standalone::check_gateways(self.gateway, self.host, &networks)
            .map_err(standalone::ConfigError::from)?;
        let way_out = WayOut { networks: self.nat, denied: self.nat_deny };
        standalone::check_way_out(&mut gateways, &way_out).map_err(standalone::ConfigError::from)?;
        let services =
            standalone::check_services(self.service, &networks).map_err(standalone::ConfigError::from)?;
        Ok(Config {
            local: std::net::SocketAddr::new(local, self.port),
            networks,
            peers,
            mtu: self.mtu,
            limits,
            storm,
            offload: !self.no_offload,
            probe: self.probe,
            gateways,
            services,
            denied: way_out.denied,
            workers: standalone::workers(self.workers.map(usize::from)),
        })
    }
}

enum Failure {
    Usage(standalone::ConfigError),
    Run(standalone::RunError),
}

impl From<standalone::ConfigError> for Failure {
    fn from(error: standalone::ConfigError) -> Self {
        Self::Usage(error)
    }
}

impl From<standalone::RunError> for Failure {
    fn from(error: standalone::RunError) -> Self {
        Self::Run(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_large_as_the_librarys() {
        assert_eq!(usize::try_from(TABLE_SIZE), Ok(Limits::default().entries_max));
    }
}
