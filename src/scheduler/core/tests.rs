//! Single rules one by one, and every invariant over random histories ([`world`]).

mod rules;
mod world;
