//! `vswitchd node`: the members of the cluster.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::date::rfc3339;
use super::label::label;
use super::printable::{self, printable, shorten};
use super::remote::Remote;
use super::table::Table;
use super::{Format, ID_SHORT, print, say};
use crate::api::{
    Call, NAME_MAX, Name, NodeFilter, NodeStatus, NodeTerm, NodeUpdate, NodeView, RoleChange, UnboundPort,
};
use crate::crypto::identity::Role;

/// List, show, change and remove the nodes of the cluster
///
/// A NODE is named by its name, its id, the beginning of its id, or `self` for the one that is asked. Any node can list
/// them, each as it sees the others; managers change and remove them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    #[command(visible_alias = "list")]
    Ls(Ls),
    Inspect(Inspect),
    #[command(visible_alias = "remove")]
    Rm(Rm),
    Update(Update),
    Promote(Promote),
    Demote(Demote),
}

/// List nodes; the one that is asked has a star
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd node ls
  vswitchd node ls --filter role=manager --filter status=ready
  vswitchd node inspect $(vswitchd node ls -q --filter status=down)

Conditions with the same key are alternatives, and every key must be met. status= is ready or down, role= is worker \
or manager, name= is a part of the name, id= the beginning of the id.

Exit status: 0 listed, 1 not to be had, 2 wrong usage or configuration.")]
struct Ls {
    #[command(flatten)]
    remote: Remote,

    /// Only those that meet this: role=, status=, name= or id=
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<NodeTerm>,

    /// How to print them; JSON has one document a line for each node
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Print ids only
    #[arg(short, long)]
    quiet: bool,

    /// Don't shorten ids and names
    #[arg(long)]
    no_trunc: bool,
}

/// Show all that is known of nodes, as a JSON list
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd node inspect self
  vswitchd node inspect --pretty web-1 web-2

Exit status: 0 shown, 1 a node was not found, 2 wrong usage or configuration.")]
struct Inspect {
    /// Which, or self
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<Name>,

    #[command(flatten)]
    remote: Remote,

    /// How to print them
    #[arg(long, value_enum, default_value = "json")]
    format: Format,

    /// For people: the same as --format text
    #[arg(long, conflicts_with = "format")]
    pretty: bool,
}

/// Shut nodes out of the cluster; on a manager
///
/// Their certificates are refused from then on, and the shared keys are rotated.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd node rm web-3
  vswitchd node rm --force web-3 web-4

Prints each node that is removed. The others are removed all the same if one can't be.

Exit status: 0 all are removed, 1 one is not, 2 wrong usage or configuration.")]
struct Rm {
    /// Which
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<Name>,

    #[command(flatten)]
    remote: Remote,

    /// Also if it is there, or a manager
    #[arg(short, long)]
    force: bool,
}

/// Change the labels of a node; on a manager
///
/// Constraints of services ask for them, as node.labels.KEY.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd node update --label-add disk=ssd --label-add zone=a web-1
  vswitchd node update --label-rm zone self

Prints the node.

Exit status: 0 changed, 1 not, 2 wrong usage or configuration.")]
struct Update {
    /// Which, or self
    #[arg(value_name = "NODE")]
    node: Name,

    #[command(flatten)]
    remote: Remote,

    /// A label to put on, in place of one with the same key; its value may be left out
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = label, required_unless_present = "label_rm")]
    label_add: Vec<(String, String)>,

    /// The key of a label to take off
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
}

/// Make managers of nodes; on a manager
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd node promote web-1 web-2

Exit status: 0 all are managers, 1 one is not, 2 wrong usage or configuration.")]
struct Promote {
    /// Which
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<Name>,

    #[command(flatten)]
    remote: Remote,
}

/// Make workers of managers; on a manager
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd node demote web-2
  vswitchd node demote self

Exit status: 0 all are workers, 1 one is not, 2 wrong usage or configuration.")]
struct Demote {
    /// Which, or self
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<Name>,

    #[command(flatten)]
    remote: Remote,
}

impl Args {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            Command::Ls(args) => args.run(),
            Command::Inspect(args) => args.run(),
            Command::Rm(args) => args.run(),
            Command::Update(args) => args.run(),
            Command::Promote(args) => args.run(),
            Command::Demote(args) => args.run(),
        }
    }
}

impl Ls {
    fn run(self) -> ExitCode {
        let nodes: Vec<NodeView> = match self.remote.ask(&Call::Nodes(NodeFilter(self.filter))) {
            Ok(nodes) => nodes,
            Err(code) => return code,
        };
        print(&match (self.quiet, self.format) {
            (true, _) => nodes.iter().map(|node| format!("{}\n", printable(&node.id))).collect(),
            (false, Format::Json) => nodes.iter().map(printable::json).collect(),
            (false, Format::Text) => table(&nodes, !self.no_trunc),
        })
    }
}

impl Inspect {
    fn run(self) -> ExitCode {
        let text = self.pretty || self.format == Format::Text;
        let mut nodes = Vec::new();
        let outcome = self.remote.ask_each(self.nodes, Call::Node, |_, node: NodeView| {
            nodes.push(node);
            Ok(())
        });
        let shown = if text {
            nodes.iter().map(pretty).collect::<Vec<_>>().join("\n")
        } else {
            printable::json_pretty(&nodes.iter().map(document).collect::<Vec<_>>())
        };
        match say(&shown) {
            Ok(()) => outcome,
            Err(error) => super::failed(&error),
        }
    }
}

impl Rm {
    fn run(self) -> ExitCode {
        let force = self.force;
        self.remote.ask_each(
            self.nodes,
            |node| Call::RemoveNode { node, force },
            |name, ()| say(&format!("{name}\n")),
        )
    }
}

impl Update {
    fn run(self) -> ExitCode {
        let update = NodeUpdate { label_rm: self.label_rm, label_add: self.label_add };
        match self.remote.ask(&Call::UpdateNode(self.node.clone(), update)) {
            Ok(()) => print(&format!("{}\n", self.node)),
            Err(code) => code,
        }
    }
}

impl Promote {
    fn run(self) -> ExitCode {
        self.remote
            .ask_each(self.nodes, Call::Promote, |name, change| say(&changed(name, change, Role::Manager)))
    }
}

impl Demote {
    fn run(self) -> ExitCode {
        self.remote
            .ask_each(self.nodes, Call::Demote, |name, change| say(&changed(name, change, Role::Worker)))
    }
}

fn changed(node: &Name, change: RoleChange, role: Role) -> String {
    let already = if change.changed { "now" } else { "already" };
    format!("Node {node} is {already} a {role}.\n")
}

fn table(nodes: &[NodeView], shortened: bool) -> String {
    let mut table = Table::new(["ID", "NAME", "STATUS", "ROLE", "MANAGER STATUS", "ADDRESS", "VERSION"]);
    let cut = |text: &str, max| if shortened { shorten(&printable(text), max) } else { text.into() };
    for node in nodes {
        let id: String = if shortened { node.id.chars().take(ID_SHORT).collect() } else { node.id.clone() };
        let own = if node.own { " *" } else { "" };
        table.row([
            format!("{id}{own}"),
            cut(&node.name, NAME_MAX),
            status(node).into(),
            node.role.name().into(),
            manager_status(node).unwrap_or_default().into(),
            node.address.map_or_else(String::new, |address| address.to_string()),
            cut(node.version.as_deref().unwrap_or_default(), NAME_MAX),
        ]);
    }
    table.to_string()
}

fn status(node: &NodeView) -> &'static str {
    match node.status {
        NodeStatus::Ready => "Ready",
        NodeStatus::Down => "Down",
    }
}

/// As Docker has it, but for `Leader`: there is none.
fn manager_status(node: &NodeView) -> Option<&'static str> {
    match (node.role, node.status) {
        (Role::Worker, _) => None,
        (Role::Manager, NodeStatus::Ready) => Some("Reachable"),
        (Role::Manager, NodeStatus::Down) => Some("Unreachable"),
    }
}

/// In the shape of `docker node inspect`, as far as it has a meaning here, and where data goes.
fn document(node: &NodeView) -> Value {
    let mut document = json!({
        "ID": node.id,
        "CreatedAt": rfc3339(node.joined_ms),
        "Spec": { "Role": node.role.name(), "Labels": node.labels },
        "Description": { "Hostname": node.name, "Engine": { "EngineVersion": node.version } },
        "Status": { "State": node.status, "Addr": node.address.map(|address| address.ip()) },
        "Self": node.own,
        "Tasks": node.tasks,
        "GossipAddr": node.address,
        "DataPathAddr": node.data,
        "NotListening": node.unbound.iter().map(not_listening).collect::<Vec<_>>(),
    });
    if let Some(reachability) = manager_status(node) {
        document["ManagerStatus"] = json!({ "Reachability": reachability.to_lowercase(), "Addr": node.door });
    }
    document
}

/// A port of a service, in the words of `docker service inspect`.
fn not_listening(port: &UnboundPort) -> Value {
    json!({
        "Service": port.service,
        "PublishedPort": port.published,
        "Protocol": port.protocol,
        "HostIP": port.address,
        "Reason": port.reason,
    })
}

fn pretty(node: &NodeView) -> String {
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "not known".into());
    let line = |name: &str, value: &str| format!("{name}: {}\n", printable(value));
    let mut text = [
        line("id", &node.id),
        line("name", &node.name),
        line("joined", &rfc3339(node.joined_ms)),
        line("status", status(node)),
        line("role", node.role.name()),
        line("address", &or_unknown(node.address.map(|address| address.to_string()))),
        line("data", &or_unknown(node.data.map(|data| data.to_string()))),
        line("version", &or_unknown(node.version.clone())),
        line("runs tasks of services", if node.tasks { "yes" } else { "no" }),
    ]
    .concat();
    for (key, value) in &node.labels {
        text += &line("label", &format!("{key}={value}"));
    }
    for port in &node.unbound {
        text += &line("does not listen at", &format!("{port} of service {}: {}", port.service, port.reason));
    }
    if let Some(status) = manager_status(node) {
        text += &line("manager status", status);
        text += &line("lets nodes in at", &or_unknown(node.door.map(|door| door.to_string())));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdefghijklmno";

    fn nodes() -> [NodeView; 2] {
        let one = NodeView {
            id: ID.into(),
            name: "one".into(),
            own: true,
            role: Role::Manager,
            status: NodeStatus::Ready,
            joined_ms: 0,
            address: Some("192.0.2.1:7946".parse().unwrap()),
            door: Some("192.0.2.1:2377".parse().unwrap()),
            data: Some("198.51.100.1:4789".parse().unwrap()),
            version: Some("0.1.0".into()),
            tasks: true,
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            unbound: Vec::new(),
        };
        let hostile = NodeView {
            id: ID.replace('0', "z"),
            name: format!("\u{1b}[2J{}", "x".repeat(80)),
            own: false,
            role: Role::Worker,
            status: NodeStatus::Down,
            address: None,
            door: None,
            data: None,
            version: None,
            ..one.clone()
        };
        [one, hostile]
    }

    #[test]
    fn the_table_is_dockers_with_addresses() {
        let text = table(&nodes()[..1], true);
        assert_eq!(
            text,
            "ID              NAME  STATUS  ROLE     MANAGER STATUS  ADDRESS         VERSION\n\
             0123456789ab *  one   Ready   manager  Reachable       192.0.2.1:7946  0.1.0\n"
        );
        assert!(table(&nodes()[..1], false).contains(&format!("{ID} *")));
    }

    #[test]
    fn hostile_names_are_cut_and_harmless() {
        let lines = |text: String| text.lines().map(String::from).collect::<Vec<_>>();
        let short = lines(table(&nodes(), true));
        assert!(short[2].contains("  \\u{1b}[2Jxxx") && short[2].contains("x…  Down"), "{}", short[2]);
        let long = lines(table(&nodes(), false));
        assert!(long[2].contains(&format!("\\u{{1b}}[2J{}  Down", "x".repeat(80))), "{}", long[2]);
        for text in
            [short.concat(), long.concat(), pretty(&nodes()[1]), printable::json(&document(&nodes()[1]))]
        {
            assert!(!text.contains('\u{1b}'), "{text}");
        }
    }

    #[test]
    fn inspect_has_dockers_shape() {
        let [manager, worker] = nodes().map(|node| document(&node));
        assert_eq!(manager["Status"], json!({ "State": "ready", "Addr": "192.0.2.1" }));
        assert_eq!(
            manager["ManagerStatus"],
            json!({ "Reachability": "reachable", "Addr": "192.0.2.1:2377" })
        );
        assert_eq!(manager["CreatedAt"], "1970-01-01T00:00:00.000Z");
        assert_eq!((&worker["ManagerStatus"], &worker["Status"]["Addr"]), (&Value::Null, &Value::Null));
        assert_eq!(manager["Spec"], json!({ "Role": "manager", "Labels": { "zone": "a" } }));
        let text = pretty(&nodes()[0]);
        assert!(text.contains("\nversion: 0.1.0\nruns tasks of services: yes\nlabel: zone=a\n"), "{text}");
        assert!(
            text.contains("\nrole: manager\naddress: 192.0.2.1:7946\ndata: 198.51.100.1:4789\n"),
            "{text}"
        );
    }

    #[test]
    fn changes_of_roles_say_whether_there_was_one() {
        let name: Name = "one".parse().unwrap();
        assert_eq!(
            changed(&name, RoleChange { changed: true }, Role::Manager),
            "Node one is now a manager.\n"
        );
        assert_eq!(
            changed(&name, RoleChange { changed: false }, Role::Worker),
            "Node one is already a worker.\n"
        );
    }
}
