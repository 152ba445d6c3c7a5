//! Nodes that run a plain `vswitchd switch` each, whose peers are given: for tests and measurements of the switch alone.
//!
//! Its networks are never sealed, whatever the plan says.

use std::ffi::OsString;
use std::ops::Range;
use std::process::{Command, Stdio};

use super::build::{ENDPOINT_LINK, Endpoint, Lab, LabError, READY_PATIENCE};

impl Lab {
    /// Runs `program switch …` in every node, waits until all are ready, and gives every endpoint its addresses.
    ///
    /// # Errors
    /// If a program can't be started, ends or is late, or an endpoint can't be set up. What was started goes on.
    pub fn start_switches(&mut self, program: impl Into<OsString>) -> Result<(), LabError> {
        self.start_nodes(0..self.nodes.len(), program, &[])
    }

    /// As [`Self::start_switches`], but only some nodes, and with more arguments to their programs. The others stay bare.
    ///
    /// # Errors
    /// As [`Self::start_switches`].
    ///
    /// # Panics
    /// If there are no such nodes.
    pub fn start_nodes(
        &mut self,
        nodes: Range<usize>,
        program: impl Into<OsString>,
        arguments: &[&str],
    ) -> Result<(), LabError> {
        let program = program.into();
        for index in nodes.clone() {
            let mut command = self.switch_command(index, &program);
            command.args(arguments);
            self.run_program(index, command)?;
        }
        for node in &mut self.nodes[nodes] {
            if let Some(program) = &mut node.program {
                program.wait_ready(READY_PATIENCE)?;
            }
            node.endpoints.iter().try_for_each(Endpoint::configure)?;
        }
        Ok(())
    }

    /// The command line of a node's switch: `switch --format json --local … --peer … --vni 42:eth0@…`.
    fn switch_command(&self, index: usize, program: &OsString) -> Command {
        let node = &self.nodes[index];
        let inherited = node.endpoints.iter().map(|endpoint| endpoint.netns.shared_fd()).collect();
        let mut command = node.netns.command_with(program, inherited);
        command.args(["switch", "--format", "json", "--local"]).arg(node.plan.address.to_string());
        // The nodes share this machine's cores; two show what several do.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = (cores / self.nodes.len().max(1)).max(2).min(cores);
        command.args(["--workers", &workers.to_string()]);
        for (_, peer) in self.plan.nodes.iter().enumerate().filter(|&(other, _)| other != index) {
            command.arg("--peer").arg(peer.address.to_string());
        }
        for network in node.plan.networks() {
            let members = node.endpoints.iter().filter(|endpoint| endpoint.plan.network == network);
            let ports: Vec<String> = members
                .map(|endpoint| format!("{ENDPOINT_LINK}@{}", endpoint.netns.inherited_path()))
                .collect();
            command.arg("--vni").arg(format!("{}:{}", self.plan.networks[network].vni, ports.join(",")));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}
