//! Sealed datagrams: what makes an encrypted network's traffic unreadable and unforgeable on the underlay.
//!
//! [`envelope`] is the format, [`seal`] and [`open`] are its two ends for one direction between two hosts,
//! [`replay`] refuses what has been opened before, [`key`] holds secrets. Whoever owns the ends decides where
//! keys come from and when they are renewed: a renewal is a new [`seal::Sealer`] and [`open::Opener`] under a
//! new session number.
//!
//! AES-256-GCM comes from `ring` (SP 800-38D); nothing here is a cryptographic construction of its own. Bytes in,
//! bytes out: no socket, file, thread, clock or source of randomness, and no sibling crate.

#![forbid(unsafe_code)]

pub mod envelope;
pub mod key;
pub mod open;
pub mod replay;
pub mod seal;
