//! Requests: method, path with query, and body to a [`Call`], and back.

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::refusal::{Code, Refusal};
use super::types::{InitRequest, JoinRequest, LeaveRequest};
use super::{
    AttachRequest, ClusterUpdate, ConnectRequest, DisconnectRequest, ExposeRequest, KillRequest, LogsRequest,
    Name, NetworkCreate, NetworkFilter, NodeFilter, NodeUpdate, StopRequest, TaskCreate,
};
use crate::crypto::identity::Role;
use crate::service::{ServiceSpec, ServiceUpdate};

#[cfg(test)]
mod tests;

/// What can be asked of a daemon. A node is named by its id, the beginning of that, its name, or `self`; a network in
/// the same way, but for `self`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// How it is.
    Status,
    /// To make a cluster.
    Init(InitRequest),
    /// To enter one.
    Join(JoinRequest),
    /// To leave it.
    Leave(LeaveRequest),
    /// The join token of a role.
    Token(Role),
    /// A new one, in place of the old.
    RotateToken(Role),
    /// The cluster's settings.
    Cluster,
    /// To change them.
    UpdateCluster(ClusterUpdate),
    /// New shared keys, now.
    RotateKeys,
    /// The members.
    Nodes(NodeFilter),
    /// One of them.
    Node(Name),
    /// To shut one out.
    RemoveNode {
        /// Which.
        node: Name,
        /// Also if it is there.
        force: bool,
    },
    /// To change what managers have written on one.
    UpdateNode(Name, NodeUpdate),
    /// To make one a manager.
    Promote(Name),
    /// To make one a worker.
    Demote(Name),
    /// How this node sees the others.
    Peers,
    /// The networks.
    Networks,
    /// To make one.
    CreateNetwork(NetworkCreate),
    /// To remove those that nobody uses and that are meant.
    PruneNetworks(NetworkFilter),
    /// One of them.
    Network(Name),
    /// To remove one.
    RemoveNetwork(Name),
    /// The services.
    Services,
    /// To make one.
    CreateService(Box<ServiceSpec>),
    /// One of them.
    Service(Name),
    /// Its tasks.
    ServiceTasks(Name),
    /// What they have written.
    ServiceLogs(Name, LogsRequest),
    /// To change one.
    UpdateService(Name, Box<ServiceUpdate>),
    /// To remove one.
    RemoveService(Name),
    /// To give the namespace of an endpoint a place in a network besides.
    Connect(Name, ConnectRequest),
    /// To take it away.
    Disconnect(Name, DisconnectRequest),
    /// To give this host a place in a network.
    Expose(Name, ExposeRequest),
    /// To take it away.
    Unexpose(Name),
    /// To give a TAP device a place in a network.
    Attach(AttachRequest),
    /// To take it away from this endpoint: by its id, its name, or the beginning of its id.
    Detach(Name),
    /// The tasks.
    Tasks,
    /// To make one, ready to be started.
    CreateTask(TaskCreate),
    /// One of them.
    Task(Name),
    /// To start its program.
    StartTask(Name),
    /// To have its program end, by force after a while; answered at once.
    StopTask(Name, StopRequest),
    /// To send a signal to its program.
    KillTask(Name, KillRequest),
    /// To remove one.
    RemoveTask {
        /// Which.
        task: Name,
        /// Also if it runs.
        force: bool,
    },
}

/// The only version there is.
const VERSION: &str = "v1";
/// The only parameter of a removal.
const FORCE: &str = "force";

impl Call {
    /// Makes sense of a request, of which nothing is trusted.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::MethodNotAllowed`] or [`Code::BadRequest`], and why.
    pub fn parse(method: &str, target: &str, body: &[u8]) -> Result<Self, Refusal> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let inside = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let Some((VERSION, resource)) = inside else {
            return Err(Refusal::new(Code::NotFound, "no such path: those of this daemon begin with /v1/"));
        };
        let parts: Vec<&str> = resource.split('/').collect();
        let given = Given { query, body };
        match (parts.as_slice(), method) {
            (["status"], "GET") => given.nothing().map(|()| Self::Status),
            (["init"], "POST") => given.document().map(Self::Init),
            (["join"], "POST") => given.document().map(Self::Join),
            (["leave"], "POST") => given.document().map(Self::Leave),
            (["token", role], "GET") => given.nothing().and_then(|()| role_of(role)).map(Self::Token),
            (["token", role, "rotate"], "POST") => {
                given.nothing().and_then(|()| role_of(role)).map(Self::RotateToken)
            }
            (["cluster"], "GET") => given.nothing().map(|()| Self::Cluster),
            (["cluster"], "PATCH") => given.document().map(Self::UpdateCluster),
            (["keys", "rotate"], "POST") => given.nothing().map(|()| Self::RotateKeys),
            (["nodes"], "GET") => given.filter().map(Self::Nodes),
            (["nodes", node], "GET") => given.nothing().and_then(|()| name(node)).map(Self::Node),
            (["nodes", node], "DELETE") => Ok(Self::RemoveNode { force: given.force()?, node: name(node)? }),
            (["nodes", node], "PATCH") => Ok(Self::UpdateNode(name(node)?, given.document()?)),
            (["nodes", node, "promote"], "POST") => {
                given.nothing().and_then(|()| name(node)).map(Self::Promote)
            }
            (["nodes", node, "demote"], "POST") => {
                given.nothing().and_then(|()| name(node)).map(Self::Demote)
            }
            (["peers"], "GET") => given.nothing().map(|()| Self::Peers),
            (["networks"], "GET") => given.nothing().map(|()| Self::Networks),
            (["networks"], "POST") => given.document().map(Self::CreateNetwork),
            (["networks", "prune"], "POST") => given.document().map(Self::PruneNetworks),
            (["networks", network], "GET") => given.nothing().and_then(|()| name(network)).map(Self::Network),
            (["networks", network], "DELETE") => {
                given.nothing().and_then(|()| name(network)).map(Self::RemoveNetwork)
            }
            (["networks", network, "connect"], "POST") => {
                Ok(Self::Connect(name(network)?, given.document()?))
            }
            (["networks", network, "disconnect"], "POST") => {
                Ok(Self::Disconnect(name(network)?, given.document()?))
            }
            (["networks", network, "expose"], "POST") => Ok(Self::Expose(name(network)?, given.document()?)),
            (["networks", network, "expose"], "DELETE") => {
                given.nothing().and_then(|()| name(network)).map(Self::Unexpose)
            }
            (["endpoints"], "POST") => given.document().map(Self::Attach),
            (["endpoints", endpoint], "DELETE") => {
                given.nothing().and_then(|()| name(endpoint)).map(Self::Detach)
            }
            (["services", rest @ ..], _) => Self::parse_service(rest, method, given),
            (["tasks", rest @ ..], _) => Self::parse_task(rest, method, given),
            (parts, _) => Err(no_such_request(parts)),
        }
    }

    fn parse_service(parts: &[&str], method: &str, given: Given<'_>) -> Result<Self, Refusal> {
        match (parts, method) {
            ([], "GET") => given.nothing().map(|()| Self::Services),
            ([], "POST") => given.document().map(Self::CreateService),
            ([service], "GET") => given.nothing().and_then(|()| name(service)).map(Self::Service),
            ([service, "tasks"], "GET") => {
                given.nothing().and_then(|()| name(service)).map(Self::ServiceTasks)
            }
            ([service, "logs"], "POST") => Ok(Self::ServiceLogs(name(service)?, given.document()?)),
            ([service], "PATCH") => Ok(Self::UpdateService(name(service)?, given.document()?)),
            ([service], "DELETE") => given.nothing().and_then(|()| name(service)).map(Self::RemoveService),
            _ => Err(no_such_request(&[&["services"], parts].concat())),
        }
    }

    fn parse_task(parts: &[&str], method: &str, given: Given<'_>) -> Result<Self, Refusal> {
        match (parts, method) {
            ([], "GET") => given.nothing().map(|()| Self::Tasks),
            ([], "POST") => given.document().map(Self::CreateTask),
            ([task], "GET") => given.nothing().and_then(|()| name(task)).map(Self::Task),
            ([task], "DELETE") => Ok(Self::RemoveTask { force: given.force()?, task: name(task)? }),
            ([task, "start"], "POST") => given.nothing().and_then(|()| name(task)).map(Self::StartTask),
            ([task, "stop"], "POST") => Ok(Self::StopTask(name(task)?, given.document()?)),
            ([task, "kill"], "POST") => Ok(Self::KillTask(name(task)?, given.document()?)),
            _ => Err(no_such_request(&[&["tasks"], parts].concat())),
        }
    }

    /// Its method.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self {
            Self::Status | Self::Token(_) | Self::Cluster | Self::Peers => "GET",
            Self::Nodes(_) | Self::Node(_) | Self::Networks | Self::Network(_) => "GET",
            Self::Services | Self::Service(_) | Self::ServiceTasks(_) | Self::Tasks | Self::Task(_) => "GET",
            Self::CreateService(_) | Self::ServiceLogs(..) => "POST",
            Self::CreateTask(_) | Self::StartTask(_) | Self::StopTask(..) | Self::KillTask(..) => "POST",
            Self::RemoveTask { .. } | Self::RemoveService(_) => "DELETE",
            Self::Init(_) | Self::Join(_) | Self::Leave(_) | Self::RotateToken(_) | Self::RotateKeys => {
                "POST"
            }
            Self::Promote(_) | Self::Demote(_) | Self::CreateNetwork(_) | Self::Attach(_) => "POST",
            Self::PruneNetworks(_) | Self::Connect(..) | Self::Disconnect(..) | Self::Expose(..) => "POST",
            Self::RemoveNode { .. } | Self::RemoveNetwork(_) => "DELETE",
            Self::Detach(_) | Self::Unexpose(_) => "DELETE",
            Self::UpdateCluster(_) | Self::UpdateNode(..) | Self::UpdateService(..) => "PATCH",
        }
    }

    /// Its path, with the query if it has one.
    #[must_use]
    pub fn path(&self) -> String {
        let resource = match self {
            Self::Status => "status".into(),
            Self::Init(_) => "init".into(),
            Self::Join(_) => "join".into(),
            Self::Leave(_) => "leave".into(),
            Self::Token(role) => format!("token/{role}"),
            Self::RotateToken(role) => format!("token/{role}/rotate"),
            Self::Cluster | Self::UpdateCluster(_) => "cluster".into(),
            Self::RotateKeys => "keys/rotate".into(),
            Self::Nodes(filter) if filter.0.is_empty() => "nodes".into(),
            Self::Nodes(filter) => format!("nodes?{}", filter.query()),
            Self::Node(node) | Self::RemoveNode { node, force: false } => format!("nodes/{node}"),
            Self::RemoveNode { node, force: true } => format!("nodes/{node}?{FORCE}"),
            Self::UpdateNode(node, _) => format!("nodes/{node}"),
            Self::Promote(node) => format!("nodes/{node}/promote"),
            Self::Demote(node) => format!("nodes/{node}/demote"),
            Self::Peers => "peers".into(),
            Self::Networks | Self::CreateNetwork(_) => "networks".into(),
            Self::PruneNetworks(_) => "networks/prune".into(),
            Self::Network(network) | Self::RemoveNetwork(network) => format!("networks/{network}"),
            Self::Services | Self::CreateService(_) => "services".into(),
            Self::ServiceTasks(service) => format!("services/{service}/tasks"),
            Self::ServiceLogs(service, _) => format!("services/{service}/logs"),
            Self::Service(service) | Self::UpdateService(service, _) | Self::RemoveService(service) => {
                format!("services/{service}")
            }
            Self::Connect(network, _) => format!("networks/{network}/connect"),
            Self::Disconnect(network, _) => format!("networks/{network}/disconnect"),
            Self::Expose(network, _) | Self::Unexpose(network) => format!("networks/{network}/expose"),
            Self::Attach(_) => "endpoints".into(),
            Self::Detach(endpoint) => format!("endpoints/{endpoint}"),
            Self::Tasks | Self::CreateTask(_) => "tasks".into(),
            Self::Task(task) | Self::RemoveTask { task, force: false } => format!("tasks/{task}"),
            Self::RemoveTask { task, force: true } => format!("tasks/{task}?{FORCE}"),
            Self::StartTask(task) => format!("tasks/{task}/start"),
            Self::StopTask(task, _) => format!("tasks/{task}/stop"),
            Self::KillTask(task, _) => format!("tasks/{task}/kill"),
        };
        format!("/{VERSION}/{resource}")
    }

    /// Its body, which may hold a secret.
    #[must_use]
    pub fn body(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Init(request) => emit(request),
            Self::Join(request) => emit(request),
            Self::Leave(request) => emit(request),
            Self::UpdateCluster(request) => emit(request),
            Self::UpdateNode(_, update) => emit(update),
            Self::CreateService(spec) => emit(spec),
            Self::UpdateService(_, update) => emit(update),
            Self::ServiceLogs(_, request) => emit(request),
            Self::CreateNetwork(request) => emit(request),
            Self::PruneNetworks(filter) => emit(filter),
            Self::Connect(_, request) => emit(request),
            Self::Disconnect(_, request) => emit(request),
            Self::Expose(_, request) => emit(request),
            Self::Attach(request) => emit(request),
            Self::CreateTask(request) => emit(request),
            Self::StopTask(_, request) => emit(request),
            Self::KillTask(_, request) => emit(request),
            _ => Zeroizing::default(),
        }
    }
}

/// What comes with a path.
#[derive(Clone, Copy)]
struct Given<'a> {
    query: &'a str,
    body: &'a [u8],
}

impl Given<'_> {
    fn no_query(self) -> Result<(), Refusal> {
        if self.query.is_empty() { Ok(()) } else { Err(bad("this request has no parameters")) }
    }

    fn no_body(self) -> Result<(), Refusal> {
        if self.body.is_empty() { Ok(()) } else { Err(bad("this request has no body")) }
    }

    fn nothing(self) -> Result<(), Refusal> {
        self.no_query()?;
        self.no_body()
    }

    fn document<T: DeserializeOwned>(self) -> Result<T, Refusal> {
        self.no_query()?;
        // Serde's messages name fields and places, and quote only what is of a wrong type.
        serde_json::from_slice(self.body).map_err(|error| bad(format!("the body: {error}")))
    }

    fn filter(self) -> Result<NodeFilter, Refusal> {
        self.no_body()?;
        NodeFilter::from_query(self.query).map_err(bad)
    }

    fn force(self) -> Result<bool, Refusal> {
        self.no_body()?;
        match self.query {
            "" => Ok(false),
            FORCE => Ok(true),
            _ => Err(bad("the only parameter of this request is force")),
        }
    }
}

/// Of a path that is there, but not so; or of one that is not.
fn no_such_request(parts: &[&str]) -> Refusal {
    let allowed = match parts {
        ["status" | "peers"] | ["token", _] => "GET",
        ["init" | "join" | "leave" | "endpoints"] | ["token", _, "rotate"] | ["keys", "rotate"] => "POST",
        ["nodes", _, "promote" | "demote"] | ["networks", "prune"] => "POST",
        ["networks", _, "connect" | "disconnect"] => "POST",
        ["networks", _, "expose"] => "POST or DELETE",
        ["cluster"] => "GET or PATCH",
        ["nodes"] => "GET",
        ["nodes" | "services", _] => "GET, PATCH or DELETE",
        ["networks", _] => "GET or DELETE",
        ["networks" | "services"] => "GET or POST",
        ["endpoints", _] => "DELETE",
        ["tasks"] => "GET or POST",
        ["tasks", _] => "GET or DELETE",
        ["services", _, "tasks"] => "GET",
        ["services", _, "logs"] => "POST",
        ["tasks", _, "start" | "stop" | "kill"] => "POST",
        _ => {
            return Refusal::new(
                Code::NotFound,
                "no such path: perhaps the daemon is older than what asks (`vswitchd status` shows its version)",
            );
        }
    };
    Refusal::new(Code::MethodNotAllowed, format!("want {allowed}"))
}

fn emit(document: &impl Serialize) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(serde_json::to_vec(document).expect("requests are plain structs"))
}

fn role_of(text: &str) -> Result<Role, Refusal> {
    let refused = |error| Refusal::new(Code::NotFound, format!("no such role: {error}"));
    text.parse().map_err(refused)
}

fn name(text: &str) -> Result<Name, Refusal> {
    text.parse().map_err(|error| bad(format!("neither name nor id: {error}")))
}

fn bad(message: impl AsRef<str>) -> Refusal {
    Refusal::new(Code::BadRequest, message)
}
