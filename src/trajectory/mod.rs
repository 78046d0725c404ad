//! One episode of an agent.
