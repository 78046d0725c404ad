//! What an executor of the same name has left: found by its meta, and opened with the same secret.

use std::sync::Arc;

use tracing::{info, warn};

use super::{
    Shared,
    api::{ApiError, JobStub},
    template::{self, NONCE, USER_IDS},
};
use crate::{backend::Container, id::PoolName};

impl Shared {
    /// Containers that run and can be reached; all else of this executor's is ended.
    pub(super) async fn adopt(self: &Arc<Self>) -> Result<Vec<(PoolName, Container)>, ApiError> {
        let children = self.client.jobs(&self.own_children()).await?;
        let mut claimed = Vec::new();
        for child in children {
            let usable = !child.stop && child.status != "dead" && !self.config.purge_on_start;
            match self.claim_left(&child).filter(|_| usable) {
                Some((pool, nonce, sight)) => claimed.push((child.id, pool, nonce, sight)),
                None => {
                    let shared = self.clone();
                    self.tasks.spawn(async move {
                        if shared.registry.knows(&child.id) {
                            shared.end(&child.id).await;
                        } else if let Err(error) = shared.end_stray(&child.id).await {
                            warn!(child = child.id, error = &error as &dyn std::error::Error, "could not end it");
                        }
                    });
                }
            }
        }
        let listed = self.client.allocations(&self.filter("Job.ParentID")).await?;
        listed.value.iter().for_each(|allocation| self.registry.see(allocation));
        let mut adopted = Vec::new();
        for (child, pool, nonce, sight) in claimed {
            match self.container(&nonce, &child, sight) {
                Ok(container) => adopted.push((pool, container)),
                Err(error) => {
                    info!(child, reason = %error, "a container of an earlier executor is of no use");
                    let shared = self.clone();
                    self.tasks.spawn(async move { shared.end(&child).await });
                }
            }
        }
        self.sweep_from_now_on();
        Ok(adopted)
    }

    /// What is known of a child from its meta; none if that makes no sense.
    fn claim_left(
        &self,
        child: &JobStub,
    ) -> Option<(PoolName, String, tokio::sync::watch::Receiver<super::sight::Sight>)> {
        let parent = child.parent_id.as_deref()?;
        let pool = self.config.pools.iter().find(|pool| template::id(&self.config, pool) == parent)?;
        let nonce = child.meta.get(NONCE)?;
        let ids = self.ids.claim(child.meta.get(USER_IDS)?.parse().ok()?);
        Some((pool.name.clone(), nonce.clone(), self.registry.claim(&child.id, ids)))
    }
}
