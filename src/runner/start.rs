//! How a task of a service is made and started, and why it is not.

use std::path::PathBuf;
use std::sync::Arc;

use tracing::info;

use crate::api::{Code, Name, Refusal, TaskCreate, TaskNetwork, TaskProgram, TaskService};
use crate::config::TaskPolicy;
use crate::node::Node;
use crate::node::records::ServiceRecord;
use crate::service::PortMode;
use crate::task::Tasks;
use crate::task::kept::{NOT_EXECUTABLE, NOT_FOUND};

/// Why there is no task.
#[derive(Debug)]
pub(super) enum Refused {
    /// Not as things are: mostly it has no address, or a port is in use.
    NotYet(String),
    /// This node can't or may not.
    Rejected(String),
}

/// Makes a task and starts it.
pub(super) async fn start(
    (node, tasks): (&Node, &Arc<Tasks>),
    policy: &TaskPolicy,
    service: &ServiceRecord,
    of: TaskService,
) -> Result<(), Refused> {
    let spec = &service.spec;
    let program = spec.command.first().map(String::as_str).unwrap_or_default();
    if let Some(allowed) = &policy.commands
        && !allowed.iter().any(|allowed| allowed == program)
    {
        let allowed = allowed.join(", ");
        return Err(Refused::Rejected(format!("{program} is not allowed here: task-commands are {allowed}")));
    }
    let network = |network: Name| TaskNetwork { network, ip: Vec::new(), mac: None, aliases: Vec::new() };
    let networks = node.task_networks(spec).map_err(refused)?;
    let request = TaskCreate {
        name: None,
        program: TaskProgram {
            command: spec.command.clone(),
            workdir: spec.workdir.as_ref().map(PathBuf::from),
            env: spec.env.clone(),
            user: policy.user.clone(),
            hostname: None,
            tty: false,
            stdin: false,
        },
        networks: networks.into_iter().map(network).collect(),
        published: service
            .ports
            .iter()
            .filter(|port| port.mode == PortMode::Host)
            .map(|port| port.on_host())
            .collect(),
        remove: false,
        service: None,
    };
    let id = of.id.clone();
    let view = tasks.run_for_service(request, of).await.map_err(refused)?;
    match (view.error, view.exit_code) {
        (Some(reason), Some(NOT_FOUND | NOT_EXECUTABLE)) => {
            tasks.forget_ended(&id);
            Err(Refused::Rejected(reason))
        }
        _ => {
            // How it has ended, if it has already, is seen as that of any other.
            info!("task {} is started", view.name);
            Ok(())
        }
    }
}

/// What makes no sense here makes none at the next attempt.
fn refused(refusal: Refusal) -> Refused {
    match refusal.code {
        Code::BadRequest => Refused::Rejected(refusal.message),
        _ => Refused::NotYet(refusal.message),
    }
}
