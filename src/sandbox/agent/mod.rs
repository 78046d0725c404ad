//! The agent of one container: owns its slots and runs what it is sent.
