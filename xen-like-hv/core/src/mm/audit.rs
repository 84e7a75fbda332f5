//! Recounting.
