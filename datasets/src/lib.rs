//! The embedded toy world.
