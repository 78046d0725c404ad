//! Descriptors of this process: a connection of a client takes one, and so does much else.

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::{debug, warn};

/// For all but connections of clients: journal, agents, transfers, calls of external tools.
const OTHERS: u64 = 1_024;

/// Takes all descriptors that this process may have, and returns how many connections there may be of those that are
/// wanted.
pub(super) fn connections(wanted: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            debug!(error = &error as &dyn std::error::Error, "the limit of open files stays as it is");
            limit = getrlimit(Resource::Nofile);
        }
    }
    let granted = within(wanted, limit.current);
    if granted < wanted {
        warn!(
            max_connections = granted,
            open_files = limit.current,
            "fewer connections than max_connections says: this process may not have as many files open"
        );
    }
    granted
}

/// Where there are few, connections get half.
fn within(wanted: usize, open_files: Option<u64>) -> usize {
    let Some(open_files) = open_files else { return wanted };
    let free = (open_files / 2).max(open_files.saturating_sub(OTHERS)).max(1);
    usize::try_from(free).map_or(wanted, |free| wanted.min(free))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_others() {
        assert_eq!(within(10_000, None), 10_000);
        assert_eq!(within(10_000, Some(20_000)), 10_000);
        assert_eq!(within(10_000, Some(10_000)), 8_976);
        assert_eq!(within(10_000, Some(1_024)), 512);
        assert_eq!(within(100, Some(1_024)), 100);
        assert_eq!(within(100, Some(0)), 1);
    }
}
