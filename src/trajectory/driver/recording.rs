//! That what has happened is kept, and told of in the log.

use super::{Driver, payloads};

impl Driver {
    /// Keeps what has happened, so that whatever follows from it may.
    pub(super) async fn record(&mut self) {
        let records = self.state.take_records();
        self.spans.begin(&records);
        payloads::log(&records, self.shared.limits.logged_payload_bytes);
        if let Some(journal) = &mut self.journal
            && !records.is_empty()
        {
            journal.append(&records).await;
        }
    }

    pub(super) async fn checkpoint(&mut self) {
        // They are among what is stated anew.
        self.state.take_records();
        if let Some(journal) = &mut self.journal {
            journal.checkpoint(&self.state.restate()).await;
        }
    }
}
