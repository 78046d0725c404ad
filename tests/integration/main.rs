//! All integration tests are one binary: they link once.

mod slot;
