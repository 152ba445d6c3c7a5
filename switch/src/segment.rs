//! Cutting super-frames into segments.
