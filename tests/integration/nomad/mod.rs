//! Nomad: the client of its API, against answers that a real one gave (`tests/data/nomad`) and against servers that
//! misbehave; and the stand-in for it, held against the same recordings.

mod backend;
mod bed;
mod hostile;
mod matching;
mod node_cues;
mod player;
mod real;
mod recorded;
mod recording;
mod retries;
mod server_cues;
mod shapes;
mod standin;
mod streams;
mod suite;
mod sweep;
mod task_cues;
mod tls;
