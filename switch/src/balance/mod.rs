//! Virtual addresses: what clients send to a service goes to one of its tasks, from the switch of the client's host.
//!
//! ```text
//!                     client's host                                             task's host
//! client ──► port ──► egress ──► to_task: virtual address → a task's ──► VXLAN ──► ingress ──► port ──► task
//!        ◄── port ◄── to_client: the task's → virtual ◄── ingress ◄───── VXLAN ◄── egress ◄─── port ◄──
//! ```
//!
//! Per connection: `choice` is asked at a flow's first packet, `flows` remembers the answer. Only the service's side
//! of a packet is rewritten, MAC and IP address, so that the task sees its client's own address and answers it directly.
//! Ports are not changed: a virtual address carries all of them. What goes from a task to a client that
//! does not belong to a balanced flow stays as it is; but a client can't have two flows of the same two ports to one task,
//! one through the virtual address and one directly: both would be the same flow for the task.
//!
//! - `service`: what the control plane says.
//! - `packet`, `rewrite`, `refuse`: bytes. ICMP errors are rewritten with what they quote; fragments by the
//!   identification that their first one has shown.
//! - `standing`: what a flow's packets have shown of it, and how long it is remembered for that.
//! - `path`: the two directions, and the sweep, which forgets what has ended and resets what has lost its task.
//!
//! A frame without a virtual address costs nothing: that its destination is one is an outcome of the look-up that there is
//! anyway. What is handed to a port costs a look at whether its network has services, and only then one in the flow table.
//! A super-frame is rewritten once: on its way out before it is cut, and on its way in when it has been joined.

mod choice;
mod flows;
mod packet;
pub(crate) mod path;
mod refuse;
mod rewrite;
mod service;
mod standing;

pub use flows::{FLOWS_MAX, FlowCounts, Flows};
pub use service::{
    ADDRESSES_MAX, IdleLimits, SERVICES_MAX, Service, ServiceError, ServiceSpec, TASKS_MAX, Task, TaskState,
};
