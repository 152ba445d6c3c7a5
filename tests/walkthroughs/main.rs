//! The tutorials of docs/tutorials as their readers type them, and what surrounds them: on a lab's nodes, by the
//! program's own commands, with what is shown compared where a reader looks at it.
//!
//! Where this machine forbids labs the tests say so, in the program's own words, and fail if `CI=true`. They need
//! `busybox`, `ip` and `ping`, and no root.

#[path = "../labs/mod.rs"]
mod labs;
mod managing;
mod recipes;
mod site;
mod stand_alone;
mod transcript;
mod tutorials;
#[path = "../typist/mod.rs"]
mod typist;
mod user_defined;
