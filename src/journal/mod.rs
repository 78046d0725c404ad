//! The records of a trajectory.
