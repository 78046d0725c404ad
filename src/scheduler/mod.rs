//! Who gets which slot, and how many containers there are; nothing else. Whoever has a slot holds a [`Lease`] and
//! speaks to the container itself.
//!
//! ```text
//! trajectory --acquire--> driver --what happened--> core --what to do--> driver --grant--> trajectory
//!                            '--start, stop--> supervisor (one a container) --> backend, link
//! ```

mod config;
pub mod core;
mod driver;
mod handle;
mod pool;
mod status;
mod supervise;

pub use self::{
    config::PoolConfig,
    driver::spawn,
    handle::{Grant, Handle, Lease, WaitEvent, WaitFailure, Waiting},
    status::{ContainerState, ContainerStatus, PoolStatus},
};
