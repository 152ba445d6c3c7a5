//! The fast path gives what the plain one gives: super-frames are cut to what a kernel would have sent, joining is
//! the inverse of cutting, and whole flows through two switches come out the same with every offload and with none.
//!
//! The oracle is a [`packet::Packet`], written with etherparse: it knows each segment of a super-frame by itself,
//! without this crate's code. Failures are shrunk, and printed with the seed that brings them back.

mod host;
mod inverse;
mod packet;
mod paths;
