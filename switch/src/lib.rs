//! The data plane of vswitchd: Ethernet frames from ports to peers and back, as VXLAN over UDP.
//!
//! # The life of a frame
//!
//! 1. [`worker`] waits on every port and socket; a readable port gives a batch of frames.
//! 2. `egress` parses each frame, checks its source, learns it, and looks its destination up.
//! 3. A local destination gets the frame as it is, super-frames and unfinished checksums included. A service's is one of
//!    its tasks', wherever that is ([`balance`]).
//! 4. A remote one gets it cut to size, checksummed and behind a VXLAN header, sealed where its network is;
//!    flooding names several.
//! 5. [`outbox`] collects both kinds; nothing is copied for a second receiver, but what is sealed for each.
//! 6. [`io::udp`] sends the transmit list; the outer source port carries the flow's entropy.
//! 7. At the other host a readable socket gives a batch of datagrams to `ingress`.
//! 8. It knows the peer or opens what is sealed, checks the VXLAN header, and asks that the peer belongs to that
//!    VNI.
//! 9. It learns the inner source behind that peer and looks the inner destination up, local only.
//! 10. [`io::tap`] writes the frame, with its checksum state in the virtio-net header.
//!
//! # Layers
//!
//! [`wire`], [`packet`], [`fdb`], [`vtep`], [`storm`], [`neighbour`], [`offload`], [`segment`] and [`balance`] hold bytes and
//! tables: no socket, file, thread or clock. `egress` and `ingress` join them into the two paths, [`tunnel`] is
//! where plain and sealed networks differ, [`probe`] asks peers whether the path to them carries anything,
//! [`datapath`] is the face of all that. [`io`] and [`worker`] drive them.
//! What a frame can die of is in [`drops`].

pub mod balance;
mod coalesce;
pub mod counters;
pub mod datapath;
mod deliver;
pub mod drops;
mod egress;
pub mod fdb;
mod icmp;
mod ingress;
pub mod io;
pub mod neighbour;
pub mod offload;
pub mod outbox;
pub mod packet;
mod path_mtu;
pub mod probe;
mod runs;
pub mod segment;
pub mod storm;
pub mod switch;
pub mod tables;
pub mod tunnel;
pub mod vtep;
pub mod wire;
pub mod worker;
