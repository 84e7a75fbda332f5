//! SDK.
#![no_std]
