//! Privileged instructions.
