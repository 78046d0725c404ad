//! Who gets which slot, and how many containers there are. Nothing else: a trajectory that has a slot holds a [`Lease`]
//! and writes its calls straight to the container's link.
//!
//! ```text
//! Handle --acquire--> Waiting --> Grant --open--> Lease --dropped or released--.
//!    |                                                                         |
//!    '---------------------> Driver (one task) <-------------------------------'
//!                             |  ^        core: events in, effects out
//!                  start, stop|  |ready, slots, draining, lost
//!                             v  |
//!                        Supervisor (one task a container) --> backend, sandbox::client
//! ```

mod claim;
mod config;
pub mod core;
mod driver;
mod handle;
mod lease;
mod names;
mod status;
mod supervisor;

pub use self::{
    claim::{Claim, FormerOwner, FormerOwners, Reclaimed},
    config::PoolConfig,
    core::SlotState,
    driver::spawn,
    handle::{Handle, WaitEvent, WaitFailure, Waiting},
    lease::{Grant, Lease},
    status::{ContainerState, ContainerStatus, Extent, PoolOverview, PoolStatus, SlotStatus, WaitingStatus},
};
