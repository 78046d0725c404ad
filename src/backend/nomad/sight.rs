//! What is known of one container from Nomad: pure, fed from events and lists in any order, with gaps and repetitions.
//!
//! What has ended has ended: Nomad may say `complete` of what it called `lost`, and a stale list may show as running
//! what is gone.

use super::{api::Allocation, cause, template::PORT};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sight {
    /// Its name; empty until a node has been found.
    pub(super) allocation: String,
    pub(super) node: String,
    pub(super) node_id: String,
    /// Where its agent will listen, host and port.
    pub(super) address: Option<String>,
    /// Why it will be taken away.
    pub(super) draining: Option<String>,
    /// Something that is not its end, and that its end may come of.
    pub(super) trouble: Option<String>,
    /// Why it is no more.
    pub(super) ended: Option<String>,
    /// Nomad has seen its last process go.
    pub(super) terminal: bool,
    pub(super) history: Vec<String>,
    index: u64,
}

impl Sight {
    /// Takes in what Nomad says; whether that was news.
    pub(super) fn see(&mut self, allocation: &Allocation, rewrite: &[(String, String)]) -> bool {
        // A second allocation of the child takes the place of the first, whose end is told by itself.
        let another = !self.allocation.is_empty() && self.allocation != allocation.id;
        if another || allocation.modify_index < self.index || self.terminal {
            return false;
        }
        let before = self.clone();
        self.index = allocation.modify_index;
        self.allocation.clone_from(&allocation.id);
        self.node.clone_from(&allocation.node_name);
        self.node_id.clone_from(&allocation.node_id);
        self.address = address(allocation, rewrite).or(self.address.take());
        let history = cause::history(allocation);
        if !history.is_empty() {
            self.history = history;
        }
        self.terminal = allocation.is_terminal();
        if self.ended.is_none() && (self.terminal || cause::has_failed_to_start(allocation)) {
            self.ended = Some(cause::of_end(allocation));
        }
        let leaves = allocation.desired_status != "run" && !allocation.desired_status.is_empty();
        if self.draining.is_none() && (leaves || allocation.desired_transition.migrate == Some(true)) {
            self.draining = Some(match allocation.desired_status.as_str() {
                "evict" => "Nomad preempts it".to_owned(),
                _ => format!("Nomad stops it: {}", allocation.desired_description),
            });
        }
        self.trouble = (allocation.client_status == "unknown")
            .then(|| format!("Nomad has lost sight of its node {}", allocation.node_name));
        *self != before
    }

    /// Its node will not keep it.
    pub(super) fn node_leaves(&mut self, why: &str) -> bool {
        let news = self.draining.is_none();
        if news {
            self.draining = Some(why.to_owned());
        }
        news
    }
}

/// Where the agent's port is reached from here.
fn address(allocation: &Allocation, rewrite: &[(String, String)]) -> Option<String> {
    let resources = &allocation.allocated_resources.shared;
    let port = allocation.port(PORT)?;
    let unspecified = |host: &str| matches!(host, "" | "0.0.0.0" | "::");
    let network = resources.networks.first().map(|network| network.ip.as_str());
    let host = if unspecified(&port.host_ip) { network? } else { &port.host_ip };
    let host = rewrite.iter().find(|(from, _)| from == host).map_or(host, |(_, to)| to);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    Some(if bare.contains(':') { format!("[{bare}]:{}", port.value) } else { format!("{bare}:{}", port.value) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn allocation(index: u64, changes: serde_json::Value) -> Allocation {
        let mut allocation = json!({
            "ID": "a", "NodeName": "n", "NodeID": "1", "ClientStatus": "running", "DesiredStatus": "run",
            "ModifyIndex": index,
            "AllocatedResources": { "Shared": {
                "Ports": [{ "Label": "agent", "Value": 20_000, "HostIP": "10.0.0.1" }],
                "Networks": [{ "IP": "10.0.0.2" }],
            } },
        });
        if let serde_json::Value::Object(changes) = changes {
            allocation.as_object_mut().unwrap().extend(changes);
        }
        serde_json::from_value(allocation).unwrap()
    }

    fn seen(all: &[Allocation]) -> Sight {
        let mut sight = Sight::default();
        for allocation in all {
            sight.see(allocation, &[]);
        }
        sight
    }

    #[test]
    fn the_address_is_known_from_the_first_word_and_kept() {
        let first = allocation(5, json!({ "ClientStatus": "pending" }));
        // Updates of a client come without resources.
        let update = allocation(9, json!({ "AllocatedResources": null }));
        assert_eq!(seen(&[first, update]).address.as_deref(), Some("10.0.0.1:20000"));
    }

    #[test]
    fn addresses_are_written_as_they_are_dialled() {
        let of = |host: &str, rewrite: &[(&str, &str)]| {
            let port = json!({ "Label": "agent", "Value": 1, "HostIP": host });
            let resources = json!({ "Shared": { "Ports": [port], "Networks": [{ "IP": "10.0.0.2" }] } });
            let rewrite: Vec<_> = rewrite.iter().map(|(from, to)| (from.to_string(), to.to_string())).collect();
            address(&allocation(1, json!({ "AllocatedResources": resources })), &rewrite)
        };
        assert_eq!(of("fd00::1", &[]).as_deref(), Some("[fd00::1]:1"));
        assert_eq!(of("0.0.0.0", &[]).as_deref(), Some("10.0.0.2:1"));
        assert_eq!(of("10.0.0.1", &[("10.0.0.1", "public.example")]).as_deref(), Some("public.example:1"));
        assert_eq!(of("10.0.0.1", &[("10.0.0.9", "public.example")]).as_deref(), Some("10.0.0.1:1"));
    }

    #[test]
    fn terminal_is_terminal_and_older_news_is_no_news() {
        let lost = allocation(9, json!({ "ClientStatus": "lost" }));
        let complete = allocation(11, json!({ "ClientStatus": "complete" }));
        let sight = seen(&[lost.clone(), complete.clone()]);
        assert_eq!(sight.ended.as_deref(), Some("its node is lost"));
        let sight = seen(&[lost, allocation(7, json!({}))]);
        assert!(sight.ended.is_some());
        let mut sight = seen(&[allocation(7, json!({}))]);
        assert!(!sight.see(&allocation(7, json!({})), &[]), "the same again is no news");
        assert!(!sight.see(&allocation(6, json!({ "ClientStatus": "failed" })), &[]));
        assert_eq!(sight.ended, None);
    }

    #[test]
    fn a_replacement_is_not_the_container() {
        let mut sight = seen(&[allocation(5, json!({}))]);
        assert!(!sight.see(&allocation(9, json!({ "ID": "b", "ClientStatus": "failed" })), &[]));
        assert_eq!((sight.allocation.as_str(), sight.ended), ("a", None));
    }

    #[test]
    fn a_node_out_of_sight_is_trouble_and_no_end() {
        let unknown = allocation(7, json!({ "ClientStatus": "unknown" }));
        let sight = seen(&[allocation(5, json!({})), unknown.clone()]);
        assert!(sight.trouble.is_some() && sight.ended.is_none() && sight.draining.is_none());
        let back = seen(&[unknown, allocation(9, json!({}))]);
        assert_eq!(back.trouble, None);
    }

    #[test]
    fn what_leaves_is_draining_before_it_is_gone() {
        for changes in [
            json!({ "DesiredStatus": "stop", "DesiredDescription": "node drain" }),
            json!({ "DesiredStatus": "evict" }),
            json!({ "DesiredTransition": { "Migrate": true } }),
        ] {
            let sight = seen(&[allocation(5, changes)]);
            assert!(sight.draining.is_some() && sight.ended.is_none());
        }
    }

    #[test]
    fn a_start_that_failed_is_told_before_nomad_says_so() {
        let events = json!([
            { "Type": "Received" },
            { "Type": "Driver Failure", "Details": { "driver_error": "Failed to pull `x`: not found" } },
            { "Type": "Not Restarting" },
        ]);
        let states = json!({ "sandbox": { "State": "pending", "Failed": true, "Events": events } });
        let sight = seen(&[allocation(5, json!({ "ClientStatus": "pending", "TaskStates": states }))]);
        assert_eq!(sight.ended.as_deref(), Some("the image could not be pulled: Failed to pull `x`: not found"));
        assert!(!sight.terminal);
        assert_eq!(sight.history.len(), 3);
    }

    #[test]
    fn the_memory_flag_counts_only_where_no_end_was_asked_for() {
        let of = |killing: bool, status: &str| {
            let terminated =
                json!({ "Type": "Terminated", "Details": { "exit_code": "137", "signal": "9", "oom_killed": "true" } });
            let mut events = vec![json!({ "Type": "Started" })];
            events.extend(killing.then(|| json!({ "Type": "Killing" })));
            events.push(terminated);
            let states = json!({ "sandbox": { "StartedAt": "2026-01-01T00:00:00Z", "Events": events } });
            seen(&[allocation(5, json!({ "ClientStatus": status, "TaskStates": states }))]).ended.unwrap()
        };
        assert!(of(false, "failed").contains("out of memory"));
        assert!(of(true, "complete").contains("Nomad has stopped it"));
    }
}
