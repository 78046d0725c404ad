//! Every integration test is part of this one program: it is linked once.

mod architecture;
mod link;
mod serve;
mod slot;
mod support;
