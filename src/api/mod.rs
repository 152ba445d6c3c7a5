//! The daemon's local API: HTTP/1.1 with JSON bodies on a UNIX socket.
//!
//! ```text
//! method and path                body            answer
//! GET    /v1/status              –               Status
//! POST   /v1/init                InitRequest     Initialized
//! POST   /v1/join                JoinRequest     Joined
//! POST   /v1/leave               LeaveRequest    null
//! GET    /v1/token/ROLE          –               TokenAnswer
//! POST   /v1/token/ROLE/rotate   –               TokenAnswer
//! GET    /v1/cluster             –               ClusterSettings
//! PATCH  /v1/cluster             ClusterUpdate   ClusterSettings
//! POST   /v1/keys/rotate         –               KeysRotated
//! GET    /v1/nodes[?FILTER]      –               [NodeView]
//! GET    /v1/nodes/NODE          –               NodeView
//! PATCH  /v1/nodes/NODE          NodeUpdate      null
//! DELETE /v1/nodes/NODE[?force]  –               null
//! POST   /v1/nodes/NODE/promote  –               RoleChange
//! POST   /v1/nodes/NODE/demote   –               RoleChange
//! GET    /v1/peers               –               [PeerView]
//! GET    /v1/networks            –               [NetworkView]
//! POST   /v1/networks            NetworkCreate   NetworkCreated
//! POST   /v1/networks/prune      NetworkFilter   Pruned
//! GET    /v1/networks/NETWORK    –               NetworkDetail
//! DELETE /v1/networks/NETWORK    –               null
//! GET    /v1/services            –               [ServiceView]
//! POST   /v1/services            ServiceSpec     ServiceCreated
//! GET    /v1/services/SERVICE    –               ServiceView
//! GET    /v1/services/SERVICE/tasks  –           [ServiceTaskView]
//! POST   /v1/services/SERVICE/logs   LogsRequest ServiceLogs
//! PATCH  /v1/services/SERVICE    ServiceUpdate   null
//! DELETE /v1/services/SERVICE    –               null
//! POST   /v1/endpoints           AttachRequest   Attached
//! DELETE /v1/endpoints/ENDPOINT  –               null
//! GET    /v1/tasks               –               [TaskView]
//! POST   /v1/tasks               TaskCreate      TaskView
//! GET    /v1/tasks/TASK          –               TaskView
//! DELETE /v1/tasks/TASK[?force]  –               null
//! POST   /v1/tasks/TASK/start    –               TaskView
//! POST   /v1/tasks/TASK/stop     StopRequest     null
//! POST   /v1/tasks/TASK/kill     KillRequest     null
//! ```
//!
//! `NODE`, `NETWORK`, `SERVICE`, `ENDPOINT` and `TASK` are a name, an id or the beginning of one; `FILTER` is `KEY=VALUE` of `role`,
//! `status`, `name` and `id`, several joined by `&`.
//!
//! A path begins with the version of what it means. Every refusal has the status of its [`Code`] and the body
//! `{"error": "<code>", "message": "<one line that says what to do>"}`. One request a connection.
//!
//! Who may talk is settled by the socket's file (its owner, and a group if one is named) and, again, by what the
//! kernel says of the peer. [`Call`] is the one place where paths and bodies are parsed and emitted: the server and
//! the [`client`] share it.

mod attach;
mod call;
pub mod client;
mod connect;
mod device;
mod host_address;
mod name;
mod network_filter;
mod networks;
mod nodes;
mod peers;
mod prefix;
mod publish;
mod refusal;
pub mod server;
mod service_filter;
mod services;
pub mod settings;
mod socket;
mod tasks;
mod terms;
pub(crate) mod text;
mod types;

pub use attach::{ALIASES_MAX, AttachRequest, Attached};
pub use call::Call;
pub use connect::{ConnectRequest, DisconnectRequest, ExposeRequest};
pub use device::EndpointDevice;
pub use host_address::{HostAddress, HostAddressError};
pub use name::{NAME_MAX, Name, NameError};
pub use network_filter::{NETWORK_TERMS_MAX, NetworkFilter, NetworkTerm, NetworkTermError};
pub use networks::{
    FOREIGN_MAX, KeysRotated, LABEL_KEY_MAX, LABEL_VALUE_MAX, LABELS_MAX, NetworkConflict, NetworkCreate,
    NetworkCreated, NetworkDetail, NetworkEndpoint, NetworkMember, NetworkOptions, NetworkPeer, NetworkRef,
    NetworkView, NodeUse, Pruned, RESERVED_MAX, SUBNETS_MAX, Subnet, SubnetRequest, SubnetUse,
};
pub use nodes::{NodeFilter, NodeStatus, NodeTerm, NodeUpdate, NodeView, RoleChange, TERMS_MAX, TermError};
pub use peers::{DataPath, DataState, Digest, Liveness, PeerView, Quality};
pub use prefix::{IpPrefix, Ipv4Prefix, PrefixError};
pub use publish::{PUBLISHED_MAX, Protocol, Publish, PublishError, PublishedPort, PublishedView};
pub use refusal::{Code, Refusal};
pub use service_filter::{ServiceFilter, ServiceTerm, ServiceTermError};
pub use services::{
    LogMark, LogsRequest, ServiceConflict, ServiceCreated, ServiceLogs, ServicePlace, ServiceRef,
    ServiceTaskView, ServiceView, TaskLog, UnboundPort,
};
pub use settings::{ClusterSettings, ClusterUpdate, SettingsError};
pub(crate) use socket::listen_at;
pub use socket::{Socket, SocketError};
pub use tasks::{
    KillRequest, StopRequest, TASK_NETWORKS_MAX, TaskCreate, TaskEndpoint, TaskNetwork, TaskProgram,
    TaskService, TaskState, TaskView, WORDS_MAX,
};
pub(crate) use terms::every_key_is_met;
pub use types::{
    ClusterStatus, DataStatus, GatewayStatus, GossipStatus, InitRequest, Initialized, JoinRequest, Joined,
    KeysStatus, LeaveRequest, SecretText, Status, TokenAnswer,
};

/// Bytes of a request's body: a mark in the log of each of two thousand tasks ([`LogsRequest`]).
pub const BODY_MAX: usize = 256 * 1024;
/// Bytes of an answer's body: a row of a thousand bytes for each of many thousand nodes.
pub const ANSWER_MAX: usize = 16 << 20;
