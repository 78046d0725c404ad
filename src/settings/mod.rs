//! The settings of a start: plain data, loaded from every source and checked whole.
