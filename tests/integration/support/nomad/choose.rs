//! Where an allocation goes: a node of the job's datacenters that has its driver, meets its constraints and has room.

use serde_json::{Map, Value, json};

use super::{
    shape,
    tables::{Alloc, Node},
    world::World,
};

impl World {
    /// The fullest node that fits, as bin packing has it. Without one, why not.
    pub(super) fn choose(&self, job: &Value) -> Result<Node, Value> {
        let task = &job["TaskGroups"][0]["Tasks"][0];
        let (cpu, memory) = (amount(&task["Resources"]["CPU"]), amount(&task["Resources"]["MemoryMB"]));
        let available: Vec<&Node> = self.tables.nodes.iter().filter(|node| is_available(node, job)).collect();
        let (mut by_datacenter, mut exhausted, mut filtered) = (Map::new(), Map::new(), Map::new());
        let mut best: Option<(u64, &Node)> = None;
        for node in available {
            count(&mut by_datacenter, &node.spec.datacenter);
            let used = self.used(&node.id);
            if let Some(constraint) = unmet(node, job) {
                count(&mut filtered, &constraint);
            } else if !node.spec.drivers.iter().any(|driver| task["Driver"] == json!(driver)) {
                count(&mut filtered, "missing drivers");
            } else if self.cues.no_room || used.1 + memory > node.spec.memory_mb {
                count(&mut exhausted, "memory");
            } else if used.0 + cpu > node.spec.cpu {
                count(&mut exhausted, "cpu");
            } else if best.is_none_or(|(most, _)| used.1 > most) {
                best = Some((used.1, node));
            }
        }
        best.map(|(_, node)| node.clone()).ok_or_else(|| shape::metrics(by_datacenter, exhausted, filtered))
    }

    /// What runs on a node takes its room until it has ended there.
    fn used(&self, node_id: &str) -> (u64, u64) {
        let on_node = |alloc: &&Alloc| alloc.node_id == node_id && !alloc.is_terminal();
        self.tables.allocs.iter().filter(on_node).fold((0, 0), |(cpu, memory), alloc| {
            let resources = &alloc.task()["Resources"];
            (cpu + amount(&resources["CPU"]), memory + amount(&resources["MemoryMB"]))
        })
    }
}

fn count(counts: &mut Map<String, Value>, name: &str) {
    let entry = counts.entry(name).or_insert(json!(0));
    *entry = (amount(entry) + 1).into();
}

fn amount(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Ready, open, and in one of the job's datacenters, whose names may end with a star.
fn is_available(node: &Node, job: &Value) -> bool {
    let mut datacenters = job["Datacenters"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let is_named = |name: &str| match name.strip_suffix('*') {
        Some(start) => node.spec.datacenter.starts_with(start),
        None => name == node.spec.datacenter,
    };
    node.status == "ready" && node.eligible && node.drain.is_null() && datacenters.any(is_named)
}

/// The first constraint that the node does not meet. Only equality with what a node is named by is known; any other
/// constraint is met.
fn unmet(node: &Node, job: &Value) -> Option<String> {
    let group = &job["TaskGroups"][0];
    let all = [job, group, &group["Tasks"][0]].map(|of| of["Constraints"].as_array().map_or(&[][..], |list| list));
    all.into_iter().flatten().find_map(|constraint| {
        let text = |name: &str| constraint[name].as_str().unwrap_or_default();
        let (left, right) = (text("LTarget"), text("RTarget"));
        let value = match left {
            "${node.class}" => &node.spec.class,
            "${node.datacenter}" => &node.spec.datacenter,
            "${node.unique.name}" | "${attr.unique.hostname}" => &node.spec.name,
            "${node.unique.id}" => &node.id,
            _ => return None,
        };
        let is_met = match text("Operand") {
            "" | "=" | "==" | "is" => value == right,
            "!=" | "not" => value != right,
            _ => true,
        };
        let operand = if text("Operand").is_empty() { "=" } else { text("Operand") };
        (!is_met).then(|| format!("{left} {operand} {right}"))
    })
}
