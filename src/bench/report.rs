//! Everything that was measured.

use serde::Serialize;

use super::BenchError;
use super::aead::AeadFigures;
use super::machine::Machine;
use super::memory::MemoryFigures;
use super::stream::StreamFigures;
use super::tap::TapFigures;
use super::udp::UdpFigures;

/// What came of one measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Part<T> {
    /// Its figures.
    Measured(T),
    /// It could not be done.
    Missing {
        /// Why, in one line, with the remedy if there is one.
        missing: String,
    },
}

/// What this machine can do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What the figures were taken on.
    pub machine: Machine,
    /// TAP devices.
    pub tap: Part<TapFigures>,
    /// The underlay.
    pub udp: Part<UdpFigures>,
    /// The switch without devices.
    pub memory: Part<MemoryFigures>,
    /// Sealing and opening.
    pub aead: Part<AeadFigures>,
    /// Two switches, one stream.
    pub stream: Part<StreamFigures>,
}

impl<T> Part<T> {
    /// The figures, if there are any.
    #[must_use]
    pub fn measured(&self) -> Option<&T> {
        match self {
            Self::Measured(figures) => Some(figures),
            Self::Missing { .. } => None,
        }
    }

    /// Why there are none.
    #[must_use]
    pub fn missing(&self) -> Option<&str> {
        match self {
            Self::Measured(_) => None,
            Self::Missing { missing } => Some(missing),
        }
    }
}

impl<T> From<Result<T, BenchError>> for Part<T> {
    fn from(outcome: Result<T, BenchError>) -> Self {
        match outcome {
            Ok(figures) => Self::Measured(figures),
            Err(error) => Self::Missing { missing: error.to_string() },
        }
    }
}

impl Report {
    /// Whether there is a figure at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { tap, udp, memory, aead, stream, .. } = self;
        tap.measured().is_none()
            && udp.measured().is_none()
            && memory.measured().is_none()
            && aead.measured().is_none()
            && stream.measured().is_none()
    }
}
