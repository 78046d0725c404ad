//! Wires the rooms together: `serve`, `sandbox`, `check`.
