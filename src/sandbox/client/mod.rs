//! The executor's side of a container.
