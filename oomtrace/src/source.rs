//! Where incidents come from.
//!
//! A source is an `Iterator<Item = Result<Incident>>`, or is polled for the next incident; there is
//! no trait of our own. Sources never import views.

#[cfg(feature = "live")]
pub mod live;
