//! Records in, incidents out.
