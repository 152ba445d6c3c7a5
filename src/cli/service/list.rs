//! `vswitchd service ls`.

use std::process::ExitCode;

use super::cell;
use crate::api::{Call, ServiceFilter, ServiceTerm, ServiceView};
use crate::cli::print;
use crate::cli::remote::Remote;
use crate::cli::table::Table;
use crate::cli::template::ListFormat;

/// List services
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd service ls
  vswitchd service ls --filter label=stage=test --filter mode=global
  vswitchd service ls --format '{{.Name}}: {{.Replicas}} {{.Ports}}'
  vswitchd service ls --format json

Conditions with the same key are alternatives, and every key must be met; of labels all must be there. id= and name= are \
the beginning of it, label= is KEY or KEY=VALUE, mode= is replicated or global.

REPLICAS are the tasks that run, and how many are to. A port with a * is open on every node, one without on those of tasks.

Templates know .ID .Name .Mode .Replicas .Ports and .Label \"KEY\" as Docker's, and .Command .CreatedAt .UpdatedAt \
.EndpointMode .Networks .VIPs .Labels .Generation .NotListening .Conflicts; 'table ' before one lines them up under a head.

Of two services that were made at once with one name or port, the older holds it; the other shows so in a column CONFLICT. \
What nodes can't have of its ports is in a column NOT LISTENING (`vswitchd service ps` says why).

Exit status: 0 listed, 1 not to be had, 2 wrong usage or configuration.")]
pub(super) struct Ls {
    #[command(flatten)]
    remote: Remote,

    /// Only those that meet this: id=, name=, label= or mode=
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<ServiceTerm>,

    /// How to print them: text, json (one document a line for each service), or a template
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: ListFormat<ServiceView>,

    /// Print ids only
    #[arg(short, long)]
    quiet: bool,

    /// Don't shorten ids and commands
    #[arg(long)]
    no_trunc: bool,
}

impl Ls {
    pub(super) fn run(self) -> ExitCode {
        let services: Vec<ServiceView> = match self.remote.ask(&Call::Services) {
            Ok(services) => services,
            Err(code) => return code,
        };
        let filter = ServiceFilter(self.filter);
        let services: Vec<ServiceView> =
            services.into_iter().filter(|service| filter.admits(service)).collect();
        let shortened = !self.no_trunc;
        let id = |service: &ServiceView| cell::id(service, shortened);
        print(&self.format.show(&services, (self.quiet, shortened), id, table))
    }
}

/// The last columns are there only if there is something in them.
fn table(services: &[ServiceView], shortened: bool) -> String {
    let head = ["ID", "NAME", "MODE", "REPLICAS", "COMMAND", "PORTS", "NOT LISTENING", "CONFLICT"];
    let mut table = Table::new(head).optional_from(6);
    for service in services {
        table.row([
            cell::id(service, shortened),
            service.spec.name.to_string(),
            service.spec.mode.name().into(),
            cell::replicas(service),
            cell::command(service, shortened),
            cell::ports(service),
            cell::unbound(service),
            cell::conflicts(service),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{service, unbound};
    use super::*;
    use crate::api::{ServiceConflict, ServiceRef, UnboundPort};

    #[test]
    fn the_table_is_dockers_with_commands() {
        assert_eq!(
            table(&[service("web")], true),
            "ID            NAME  MODE        REPLICAS  COMMAND           PORTS\n\
             0123456789ab  web   replicated  0/1       busybox httpd -f  *:30000->80/tcp, 5353->53/udp\n"
        );
        assert!(table(&[service("web")], false).contains("0123456789abcdefghijklmno  web"));
    }

    #[test]
    fn a_conflict_has_a_column() {
        let holder = ServiceRef { id: "zzz".into(), name: "older\u{1b}".into() };
        let port = ServiceConflict::Port { published: 80, protocol: Default::default(), holder };
        let young = ServiceView { conflicts: vec![port], ..service("young") };
        let shown = table(&[service("web"), young], true);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].ends_with("  CONFLICT") && lines[1].ends_with("53/udp"), "{shown}");
        assert!(lines[2].ends_with("  port 80/tcp is that of older\\u{1b} (zzz)"), "{shown}");
    }

    #[test]
    fn ports_that_nodes_can_not_have_have_a_column() {
        let port = |node: &str, published| UnboundPort { published, ..unbound(node) };
        let lacking = ServiceView {
            unbound: vec![port("one", 80), port("two", 53), port("one", 53)],
            ..service("web")
        };
        let shown = table(&[service("db"), lacking], true);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].ends_with("  NOT LISTENING") && lines[1].ends_with("53/udp"), "{shown}");
        assert!(lines[2].ends_with("  53/tcp on 2 nodes, 80/tcp on one"), "{shown}");
    }

    #[test]
    fn templates_know_services() {
        let rendered = |template: &str| match template.parse::<ListFormat<ServiceView>>().unwrap() {
            ListFormat::Template(template) => template.render(&[service("web")], true),
            other => panic!("{other:?} is no template"),
        };
        assert_eq!(
            rendered("{{.Name}} {{.Replicas}} {{.VIPs}} {{.Label \"stage\"}}"),
            "web 0/1 10.0.9.5,fd00:9::5 test\n"
        );
        assert_eq!(rendered("table {{.Name}}\\t{{.Networks}}"), "NAME  NETWORKS\nweb   front\n");
    }
}
