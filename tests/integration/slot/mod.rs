//! Slots as the agent uses them, with real isolation.
//!
//! What could harm the machine if isolation failed is in [`hostile`], and runs in a pid namespace of its own only.

mod artifacts;
mod attacks;
pub(crate) mod bed;
mod calls;
pub(crate) mod conditions;
mod files;
mod hostile;
pub(crate) mod image;
mod isolation;
mod level;
pub(crate) mod lifetime;
mod limits;
mod scope;
mod speed;
