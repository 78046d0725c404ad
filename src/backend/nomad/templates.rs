//! The templates, registered where they are missing or not as they should be.

use super::{
    Shared,
    api::ApiError,
    spec::NomadPool,
    template::{self, FINGERPRINT},
};

/// Others may register at the same moment; so often it is looked again.
const ATTEMPTS: u32 = 5;

impl Shared {
    /// The pool's template, which is there afterwards.
    pub(super) async fn ensure_template(&self, pool: &NomadPool) -> Result<String, ApiError> {
        let id = template::id(&self.config, pool);
        let mut ensured = self.ensured.lock().await;
        if ensured.contains(&id) {
            return Ok(id);
        }
        let job = template::job(&self.config, pool);
        let fingerprint = job["Meta"][FINGERPRINT].as_str();
        for attempt in 1.. {
            let found = self.client.job(&id).await?;
            let only_if = match found {
                Some(found) if !found.stop && found.meta.get(FINGERPRINT).map(String::as_str) == fingerprint => break,
                Some(found) => found.job_modify_index,
                None => 0,
            };
            match self.client.register(&job, Some(only_if)).await {
                Err(ApiError::Conflict { .. }) if attempt < ATTEMPTS => {}
                other => {
                    other?;
                    break;
                }
            }
        }
        ensured.insert(id.clone());
        Ok(id)
    }

    /// It is not there, whatever was known.
    pub(super) async fn forget_template(&self, id: &str) {
        self.ensured.lock().await.remove(id);
    }

    /// Removes the templates, but for those of which another executor has containers.
    pub(super) async fn remove_templates(&self) -> Result<(), ApiError> {
        for pool in &self.config.pools {
            let id = template::id(&self.config, pool);
            let children = self.client.jobs(&format!("ParentID == \"{id}\"")).await?;
            let others = children.iter().any(|child| {
                let owner = child.meta.get(template::EXECUTOR).map(String::as_str);
                child.status != "dead" && owner != Some(&self.config.executor_id)
            });
            if !others {
                self.client.stop_job(&id, true).await?;
            }
        }
        Ok(())
    }
}
