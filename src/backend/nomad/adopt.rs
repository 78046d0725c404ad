//! What an executor of the same name has left: found by its meta, and opened with the same secret.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use super::{
    Shared,
    api::{ApiError, JobStub},
    sight::Sight,
    template::{self, NONCE, USER_IDS},
};
use crate::{backend::Container, id::PoolName};

/// A child whose meta makes sense.
struct Left {
    pool: PoolName,
    nonce: String,
    sight: watch::Receiver<Sight>,
}

impl Shared {
    /// Containers that run and can be reached; all else of this executor's is ended.
    pub(super) async fn adopt(self: &Arc<Self>) -> Result<Vec<(PoolName, Container)>, ApiError> {
        // Both before anything is done: it may fail, and is then asked for again.
        let children = self.client.jobs(&self.own_children()).await?;
        let listed = self.client.allocations(&self.filter("Job.ParentID")).await?;
        listed.value.iter().for_each(|allocation| self.registry.see(allocation));
        let mut adopted = Vec::new();
        for child in children {
            let runs = !child.stop && child.status != "dead" && !self.config.purge_on_start;
            let container = self.claim_left(&child).filter(|_| runs).map(|left| {
                let container = self.container(&left.nonce, &child.id, left.sight);
                container.map(|container| (left.pool, container))
            });
            match container {
                Some(Ok(container)) => adopted.push(container),
                Some(Err(error)) => {
                    info!(child = child.id, reason = %error, "a container of an earlier executor is of no use");
                    self.end_soon(child.id);
                }
                None => self.end_soon(child.id),
            }
        }
        self.sweep_from_now_on();
        Ok(adopted)
    }

    fn claim_left(&self, child: &JobStub) -> Option<Left> {
        let parent = child.parent_id.as_deref()?;
        let pool = self.config.pools.iter().find(|pool| template::id(&self.config, pool) == parent)?;
        let nonce = child.meta.get(NONCE)?;
        let ids = self.ids.claim_printed(child.meta.get(USER_IDS)?)?;
        Some(Left { pool: pool.name.clone(), nonce: nonce.clone(), sight: self.registry.claim(&child.id, ids) })
    }
}
