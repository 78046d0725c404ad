//! Every integration test is part of this one program: it is linked once.

mod architecture;
mod backend;
mod deploy;
mod docs;
mod hostile;
mod link;
mod mesh;
mod nomad;
mod scheduler;
mod serve;
mod slot;
mod support;
