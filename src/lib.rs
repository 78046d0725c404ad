//! The tool executor: runs the tool calls of agent trajectories in isolated slots. `README.md` says how it is used;
//! the public protocol is `proto/toolexecutor/v1/tool_executor.proto`.

pub mod app;
pub mod backend;
pub mod cli;
pub mod edge;
pub mod external;
pub mod id;
pub mod journal;
pub mod pb;
pub mod sandbox;
pub mod scheduler;
pub mod settings;
pub mod telemetry;
pub mod tool;
pub mod trajectory;
