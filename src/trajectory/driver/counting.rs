//! What a trajectory adds to what is known of the service.

use super::Driver;
use crate::trajectory::totals::Part;

impl Driver {
    /// Brings the service's totals, and its tenant's, up to date with this trajectory.
    pub(super) fn count(&mut self) {
        for answered in self.state.take_answered() {
            self.shared.observer.answered(&self.key, &answered);
            self.spans.end(&answered);
        }
        self.recount(self.state.part());
    }

    pub(super) fn recount(&mut self, now: Part) {
        let before = std::mem::replace(&mut self.counted, now);
        if before != now {
            self.account.totals.change(&before, &now);
            self.shared.count(&before, &now);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // What it answered stays counted.
        let Part { answers, unsuccessful, .. } = self.counted;
        self.recount(Part { answers, unsuccessful, ..Part::default() });
    }
}
