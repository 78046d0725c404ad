//! The stand-in for Nomad, held against what was recorded of the real one.

mod bed;
mod node_cues;
mod server_cues;
mod shapes;
mod standin;
mod task_cues;
