//! Slots as the agent uses them, with real isolation.
//!
//! What could harm the machine if isolation failed is in [`hostile`], and runs in a pid namespace of its own only.

pub(crate) mod bed;
mod calls;
mod files;
mod hostile;
pub(crate) mod image;
mod isolation;
mod level;
mod lifetime;
mod speed;
