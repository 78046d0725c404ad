//! The stand-in's own tests.
