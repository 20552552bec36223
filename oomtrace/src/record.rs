//! Owned form of each record of the kernel side.
