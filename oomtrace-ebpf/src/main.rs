//! Root of the BPF object.
#![no_std]
#![no_main]
