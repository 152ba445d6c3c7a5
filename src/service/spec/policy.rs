//! How many tasks a service has, how they are reached, started again and replaced.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::service::rollout::Rollout;

/// Until a failed task is started again, as in Docker.
const RESTART_DELAY_MS: u64 = 5_000;

/// How many tasks there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// So many, numbered slots.
    Replicated(u16),
    /// One on each node that may run it.
    Global,
}

/// How the service's name leads to its tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// By a virtual address in each network, from which connections go to tasks.
    #[default]
    Vip,
    /// By the addresses of all tasks.
    Dnsrr,
}

/// When an ended task is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// Never.
    None,
    /// When it failed.
    OnFailure,
    /// However it ended.
    #[default]
    Any,
}

/// How an ended task is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartPolicy {
    /// When.
    #[serde(default)]
    pub condition: RestartCondition,
    /// How long after the first failure, in milliseconds; later more and more.
    pub delay_ms: u64,
    /// How often at most, within the window; none: without end.
    #[serde(default)]
    pub max_attempts: Option<u32>,
    /// What counts as one series of failures, in milliseconds; 0: all of them.
    #[serde(default)]
    pub window_ms: u64,
}

/// Which of two comes first when a task is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The old one is ended, then the new one is started: there is nothing in between.
    #[default]
    StopFirst,
    /// The new one is started, and when it runs the old one is ended.
    StartFirst,
}

/// How tasks are replaced when the service has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdatePolicy {
    /// How many at a time; 0: all.
    pub parallelism: u16,
    /// From when some run until the next are replaced, in milliseconds.
    #[serde(default)]
    pub delay_ms: u64,
    /// Which comes first.
    #[serde(default)]
    pub order: UpdateOrder,
}

impl Default for RestartPolicy {
    /// Docker's.
    fn default() -> Self {
        let condition = RestartCondition::default();
        Self { condition, delay_ms: RESTART_DELAY_MS, max_attempts: None, window_ms: 0 }
    }
}

impl Default for UpdatePolicy {
    /// Docker's.
    fn default() -> Self {
        Self { parallelism: 1, delay_ms: 0, order: UpdateOrder::StopFirst }
    }
}

impl UpdatePolicy {
    /// For [`crate::service::rollout`].
    #[must_use]
    pub fn rollout(self) -> Rollout {
        Rollout { parallelism: self.parallelism, delay: Duration::from_millis(self.delay_ms) }
    }
}

impl Mode {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Replicated(_) => "replicated",
            Self::Global => "global",
        }
    }
}

impl EndpointMode {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vip => "vip",
            Self::Dnsrr => "dnsrr",
        }
    }
}

impl UpdateOrder {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StopFirst => "stop-first",
            Self::StartFirst => "start-first",
        }
    }
}

impl RestartCondition {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::OnFailure => "on-failure",
            Self::Any => "any",
        }
    }
}
