//! `vswitchd attach`, `detach`: TAP devices and virtual machines of this host in networks of the cluster; and back to a
//! task.

use std::io;
use std::net::IpAddr;
use std::path::{self, Path, PathBuf};
use std::process::ExitCode;

use super::printable::{self, printable};
use super::remote::Remote;
use super::task::{self, Keys};
use super::{Format, failed, print, say};
use crate::api::{AttachRequest, Attached, Call, EndpointDevice, Name, Publish};
use crate::switch::io::netns::NetnsRef;
use crate::switch::wire::MacAddr;

/// Give a TAP device or a virtual machine of this host a place in a network, or come back to a task
///
/// With a TASK alone it shows what that task's program writes from now on, and what is typed goes to it.
///
/// A TAP is made if it does not exist, with addresses and, in a namespace of its own, the network's gateway as its
/// way out. One that exists stays as it is.
///
/// A virtual machine is QEMU's (7.2 or newer), at a socket: its file is made in a directory that exists, for the
/// daemon's user alone, and goes with the endpoint. One machine has it at a time; another may come when it has
/// ended. The machine must have the MAC address that is printed, and nothing larger than the MTU.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("device").required(true))]
#[command(after_long_help = "\
Examples:
  vswitchd attach --network front --name web --tap tap0
  vswitchd attach --network front --name web --tap eth0 --netns web --ip 10.0.9.7 --alias www
  vswitchd attach --network front --name web-2 --tap tap1 --service web
  vswitchd attach alpine1
  vswitchd attach --network front --name vm --qemu-stream /run/vm.sock --mac 02:42:0a:00:09:08 -p 2222:22
  qemu-system-x86_64 -enable-kvm -m 1G -drive file=vm.qcow2,if=virtio \\
    -netdev stream,id=n0,server=off,addr.type=unix,addr.path=/run/vm.sock \\
    -device virtio-net-pci,netdev=n0,mac=02:42:0a:00:09:08,host_mtu=1450

For a machine, the -netdev and -device that fit are printed. With --qemu-stream the machine has to be started after \
this; with --qemu-dgram in any order, and it stays connected when the daemon is restarted.

Exit status: 0 attached, 1 not, 2 wrong usage or configuration; with a task, as that of `vswitchd run`.")]
pub(super) struct Attach {
    #[command(flatten)]
    remote: Remote,

    /// The task to come back to
    #[arg(group = "device", conflicts_with_all = ["network", "name", "netns", "ip", "mac", "aliases", "publish", "service"])]
    task: Option<Name>,

    /// Task: don't send input to it
    #[arg(long, requires = "task")]
    no_stdin: bool,

    /// Task: what leaves its terminal [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", requires = "task")]
    detach_keys: Option<Keys>,

    /// The network, by name or id
    #[arg(long, required_unless_present = "task")]
    network: Option<Name>,

    /// What it is called there; one of a kind in the network
    #[arg(long, required_unless_present = "task")]
    name: Option<Name>,

    /// The TAP device
    #[arg(long, value_name = "DEVICE", group = "device")]
    tap: Option<String>,

    /// The network namespace that the TAP is in [default: the daemon's]
    #[arg(long, value_name = "NAME|PATH|PID", conflicts_with_all = ["qemu_stream", "qemu_dgram"])]
    netns: Option<NetnsRef>,

    /// The socket that a virtual machine connects to (QEMU's -netdev stream)
    #[arg(long, value_name = "PATH", group = "device")]
    qemu_stream: Option<PathBuf>,

    /// The socket that a virtual machine sends to, and its own (QEMU's -netdev dgram) [default: where it sends
    /// from]
    #[arg(long, value_name = "PATH[,REMOTE]", group = "device")]
    qemu_dgram: Option<String>,

    /// The address that it is to have, of each IP version at most one [default: the next free ones]
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,

    /// Its MAC address [default: 02:42 and the bytes of its IPv4 address]
    #[arg(long, value_name = "MAC")]
    mac: Option<MacAddr>,

    /// Another name of it in the network
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<Name>,

    /// Have it reached at a port of this host: see `vswitchd run --help`
    #[arg(short, long, value_name = "[[IP:]PORT:]PORT[/tcp|/udp]")]
    publish: Vec<Publish>,

    /// The service that it answers for: what clients send to that may come to it
    #[arg(long, value_name = "SERVICE")]
    service: Option<Name>,

    #[command(flatten)]
    printed: Printed,
}

/// How a place in a network is shown that has just been given.
#[derive(Debug, clap::Args)]
pub(super) struct Printed {
    /// How to print what came of it
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Print its id only
    #[arg(short, long)]
    quiet: bool,
}

/// Take TAP devices and virtual machines of this host out of their networks
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd detach web

Prints each name that is detached. The others are detached all the same if one can't be.

Exit status: 0 all are detached, 1 one is not, 2 wrong usage or configuration.")]
pub(super) struct Detach {
    /// Their names, ids, or beginnings of ids
    #[arg(required = true, value_name = "ENDPOINT")]
    names: Vec<Name>,

    #[command(flatten)]
    remote: Remote,
}

impl Attach {
    pub(super) fn run(self) -> ExitCode {
        if let Some(task) = self.task {
            return task::reattach(self.remote, task, self.no_stdin, self.detach_keys.unwrap_or_default());
        }
        let device = match self.device() {
            Ok(device) => device,
            Err(error) => return failed(&error),
        };
        let (network, name) = self.network.zip(self.name).expect("the parser wants both without a task");
        let Self { remote, ip, mac, aliases, publish, service, printed, .. } = self;
        let published = publish.into_iter().flat_map(|Publish(ports)| ports).collect();
        let (who, place) = (name.to_string(), network.clone());
        let device_given = device.clone();
        let request =
            AttachRequest { network, name, device: device_given, ip, mac, aliases, published, service };
        match remote.ask::<Attached>(&Call::Attach(request)) {
            Ok(attached) => printed.show(&who, &place, &attached, &arguments(&device, &attached)),
            Err(code) => code,
        }
    }

    /// The device, in words that mean the same to the daemon.
    fn device(&self) -> io::Result<EndpointDevice> {
        let dgram = self.qemu_dgram.as_deref();
        match (&self.tap, &self.qemu_stream, dgram.map(|both| both.split_once(',').unwrap_or((both, "")))) {
            (Some(tap), ..) => {
                let netns = self.netns.clone().map(absolute).transpose()?;
                Ok(EndpointDevice::tap(tap, netns.map(|netns| netns.to_string())))
            }
            (None, Some(path), _) => Ok(EndpointDevice::QemuStream { qemu_stream: socket(path)? }),
            (None, None, Some((path, remote))) => {
                let remote = Some(Path::new(remote)).filter(|remote| !remote.as_os_str().is_empty());
                Ok(EndpointDevice::QemuDgram {
                    qemu_dgram: socket(Path::new(path))?,
                    qemu_remote: remote.map(socket).transpose()?,
                })
            }
            (None, None, None) => Err(io::Error::other("want --tap, --qemu-stream or --qemu-dgram")),
        }
    }
}

impl Detach {
    pub(super) fn run(self) -> ExitCode {
        self.remote.ask_each(self.names, Call::Detach, |name, ()| say(&format!("{name}\n")))
    }
}

impl Printed {
    /// Says that `who` is in a network, and how; for people with `more` below.
    pub(super) fn show(&self, who: &str, network: &Name, attached: &Attached, more: &str) -> ExitCode {
        let interface = printable(&attached.interface);
        print(&match (self.quiet, self.format) {
            (true, _) => format!("{}\n", printable(&attached.id)),
            (false, Format::Text) => {
                format!(
                    "{interface} is {who} in network {network} now: {}\n{}{more}",
                    parts(attached),
                    ports(attached)
                )
            }
            (false, Format::Json) => printable::json(attached),
        })
    }
}

/// `10.0.9.2/24, 02:42:0a:00:09:02, MTU 1450, endpoint ID`
fn parts(attached: &Attached) -> String {
    let addresses: String = attached.addresses.iter().map(|own| format!("{own}, ")).collect();
    format!("{addresses}{}, MTU {}, endpoint {}", attached.mac, attached.mtu, printable(&attached.id))
}

/// `reached at 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp`, if it is
fn ports(attached: &Attached) -> String {
    let ports: Vec<String> = attached.published.iter().map(ToString::to_string).collect();
    if ports.is_empty() { String::new() } else { format!("reached at {}\n", ports.join(", ")) }
}

/// What QEMU is to be told, of a virtual machine: nothing for a TAP.
fn arguments(device: &EndpointDevice, attached: &Attached) -> String {
    // A comma ends an option's value, unless there are two.
    let quoted = |path: &str| printable(path).replace(',', ",,");
    let netdev = match device {
        EndpointDevice::Tap { .. } => return String::new(),
        EndpointDevice::QemuStream { qemu_stream } => {
            format!("stream,id=n0,server=off,addr.type=unix,addr.path={}", quoted(qemu_stream))
        }
        EndpointDevice::QemuDgram { qemu_dgram, qemu_remote } => {
            let own = qemu_remote.clone().unwrap_or_else(|| format!("{qemu_dgram}.vm"));
            let (own, ours) = (quoted(&own), quoted(qemu_dgram));
            format!("dgram,id=n0,local.type=unix,local.path={own},remote.type=unix,remote.path={ours}")
        }
    };
    let Attached { mac, mtu, .. } = attached;
    format!("-netdev {netdev} -device virtio-net-pci,netdev=n0,mac={mac},host_mtu={mtu}\n")
}

/// A socket's path as it is sent: the daemon has another working directory.
fn socket(path: &Path) -> io::Result<String> {
    let path = path::absolute(path)?;
    path.into_os_string().into_string().map_err(|path| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{}: want a path in UTF-8", path.display()))
    })
}

/// The daemon has another working directory.
fn absolute(netns: NetnsRef) -> io::Result<NetnsRef> {
    match netns {
        NetnsRef::Path(path) => path::absolute(path).map(NetnsRef::Path),
        netns => Ok(netns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_mean_the_same_to_the_daemon() {
        let sent = |text: &str| absolute(text.parse().unwrap()).unwrap().to_string();
        assert_eq!([sent("web"), sent("42"), sent("/run/x")], ["web", "42", "/run/x"]);
        let here = std::env::current_dir().unwrap();
        assert_eq!(sent("./web"), here.join("web").display().to_string());
        for text in ["web", "42", "./web"] {
            assert_eq!(sent(text).parse::<NetnsRef>().unwrap(), absolute(text.parse().unwrap()).unwrap());
        }
    }

    fn parse(arguments: &[&str]) -> Result<Attach, clap::Error> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            attach: Attach,
        }
        let given = [&["attach", "--network", "n", "--name", "x"], arguments].concat();
        <Line as clap::Parser>::try_parse_from(given).map(|line| line.attach)
    }

    #[test]
    fn one_device_is_given() {
        let device = |arguments: &[&str]| parse(arguments).unwrap().device().unwrap();
        assert_eq!(device(&["--tap", "t", "--netns", "web"]), EndpointDevice::tap("t", Some("web".into())));
        let here = std::env::current_dir().unwrap();
        let vm = here.join("vm").display().to_string();
        assert_eq!(device(&["--qemu-stream", "vm"]), EndpointDevice::QemuStream { qemu_stream: vm.clone() });
        let dgram = |remote: Option<&str>| EndpointDevice::QemuDgram {
            qemu_dgram: vm.clone(),
            qemu_remote: remote.map(Into::into),
        };
        assert_eq!(device(&["--qemu-dgram", "vm"]), dgram(None));
        assert_eq!(device(&["--qemu-dgram", "vm,/run/b"]), dgram(Some("/run/b")));
        for wrong in [
            &[][..],
            &["--tap", "t", "--qemu-stream", "a"],
            &["--qemu-dgram", "a", "--qemu-stream", "a"],
            &["--qemu-stream", "a", "--netns", "web"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_machine_is_told_its_sockets_and_its_address() {
        let attached = Attached {
            id: "i".into(),
            network: "n".into(),
            interface: "/run/a,b".into(),
            mac: "02:42:0a:00:09:08".parse().unwrap(),
            addresses: Vec::new(),
            gateways: Vec::new(),
            resolver: None,
            mtu: 1_450,
            published: Vec::new(),
        };
        let device = "-device virtio-net-pci,netdev=n0,mac=02:42:0a:00:09:08,host_mtu=1450\n";
        let stream = EndpointDevice::QemuStream { qemu_stream: "/run/a,b".into() };
        let netdev = "-netdev stream,id=n0,server=off,addr.type=unix,addr.path=/run/a,,b";
        assert_eq!(arguments(&stream, &attached), format!("{netdev} {device}"));
        let dgram = EndpointDevice::QemuDgram { qemu_dgram: "/run/a".into(), qemu_remote: None };
        let netdev =
            "-netdev dgram,id=n0,local.type=unix,local.path=/run/a.vm,remote.type=unix,remote.path=/run/a";
        assert_eq!(arguments(&dgram, &attached), format!("{netdev} {device}"));
        assert_eq!(arguments(&EndpointDevice::tap("t", None), &attached), "");
    }
}
