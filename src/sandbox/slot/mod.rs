//! A slot: an isolated workspace and process tree.
