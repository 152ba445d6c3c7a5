//! Services in the data path: what goes to a virtual address, what comes back, and what their ends are.
//!
//! The oracle is a frame built anew with etherparse for the stations that it should be between: what is rewritten has to be
//! the same to the byte, checksums included.

#![expect(clippy::unwrap_used, reason = "a test")]

mod ends;
mod errors;
mod flows;
mod frames;
mod hairpin;
mod random;
mod world;
