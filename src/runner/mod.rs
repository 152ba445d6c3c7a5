//! This node's own part in services: it starts, keeps and stops the tasks that are its to run.
//!
//! Everything follows from what is known of services, nodes and tasks, looked at anew whenever that changes: which slots
//! are to run here is `goals`' to say, what to do next about one is `slot`'s, about all is `slots`', which are pure; [`run`]
//! does it and tells all what came of it. A task is one of [`crate::task`], so it outlives the daemon and is found again.
//! It counts as running when its program has been started, or if the service publishes TCP ports, when somebody listens at
//! each (`ready`): from then on others send connections to it, and may stop theirs.

mod goals;
mod ready;
mod run;
mod slot;
mod slots;
mod start;

#[cfg(test)]
mod simulation;

pub(crate) use run::run;
