//! The client of Nomad's API, against answers that a real Nomad gave (`tests/data/nomad`), and against servers that
//! misbehave.

mod matching;
mod player;
mod recorded;
mod recording;
mod retries;
mod streams;
mod sweep;
mod tls;
