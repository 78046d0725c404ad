//! What an executor before this one has left: containers, and slots in them that trajectories want back.

use std::collections::{HashMap, HashSet};

use tokio::sync::oneshot;
use tracing::info;

use super::{
    super::{
        claim::{Claim, FormerOwner, FormerOwners, Reclaimed},
        core::{ContainerKey, ContainerState, Event, OwnerId, PoolKey, SlotKey},
        lease::Lease,
    },
    Driver,
};
use crate::{
    backend::Container,
    id::{ContainerId, PoolName, TrajectoryKey},
    sandbox::client::{Attached, Held, UsedSlot},
    tool::Location,
};

/// Claims, by the container of the slot.
pub(super) fn by_container(claims: Vec<Claim>) -> HashMap<ContainerId, Vec<Claim>> {
    let mut by_container: HashMap<_, Vec<_>> = HashMap::new();
    for claim in claims {
        by_container.entry(claim.location.container.clone()).or_default().push(claim);
    }
    by_container
}

impl Driver {
    /// Takes over what runs already. Where there is more than there may be, those whose slots are wanted come first, and
    /// none of them is left out.
    pub(super) fn adopt(&mut self, mut adopted: Vec<(PoolName, Container)>) {
        let there: HashSet<ContainerId> = adopted.iter().map(|(_, container)| container.id.clone()).collect();
        let gone = self.claims.extract_if(|container, _| !there.contains(container));
        gone.flat_map(|(_, claims)| claims).for_each(|claim| {
            claim.refuse_because("its container was not there any more when the executor started again");
        });
        // Those at the end are taken first.
        adopted.sort_by_key(|(_, container)| self.claims.contains_key(&container.id));
        let pools: Vec<_> = (0..).map(PoolKey).zip(self.pools.iter().map(|pool| pool.config.name.clone())).collect();
        for (pool, name) in pools {
            let of_pool = adopted.extract_if(.., |(of, _)| *of == name).map(|(_, container)| container);
            self.adopted = of_pool.collect();
            let in_use = self.adopted.iter().filter(|container| self.claims.contains_key(&container.id)).count();
            let count = |containers| u32::try_from(containers).unwrap_or(u32::MAX);
            let containers = count(self.adopted.len());
            // Where not everybody is known, any of them may be.
            let in_use = if self.former_owners.is_some() { containers } else { count(in_use) };
            if containers > 0 {
                info!(containers, in_use, pool = %name, "containers of an earlier executor are taken over");
                self.tell(Event::Adopt { pool, containers, in_use });
            }
            adopted.extend(self.adopted.drain(..).map(|container| (name.clone(), container)));
        }
        for (pool, container) in adopted {
            info!(container = %container.id, %pool, "a container of an earlier executor is not wanted any more");
            for claim in self.claims.remove(&container.id).unwrap_or_default() {
                claim.refuse_because(format!("the pool `{pool}` of its container is not among the settings any more"));
            }
            let backend = self.backend.clone();
            self.supervisors.spawn(async move { backend.stop(&container.id).await });
        }
        self.former_owners = None;
    }

    /// A container's agent answers, and has told how an earlier executor has left its slots: those that are wanted and
    /// can be had are their trajectories' again, and all others are given away only once they have been wiped.
    pub(super) fn take_over(
        &mut self,
        container: ContainerKey,
        attached: &Attached,
        draining: Option<String>,
        held: Vec<Result<Held, &'static str>>,
    ) {
        let heard = self.tell_former_owners(container, &attached.used);
        let claims = self.containers.get_mut(&container).map(|watched| std::mem::take(&mut watched.claims));
        self.tell(Event::ContainerTakenOver { container, slots: attached.slots });
        let mut used: HashSet<u32> = attached.used.iter().map(|used| used.slot).collect();
        let mut kept = HashSet::new();
        for (claim, held) in claims.into_iter().flatten().zip(held) {
            match held {
                Ok(held) => {
                    // Or it is now, having been empty: its assignment had not arrived, and was asked for again.
                    used.insert(claim.location.slot);
                    kept.extend(self.reclaim(container, claim, held, attached.is_exact));
                }
                Err(cause) => claim.refuse_because(cause),
            }
        }
        // Before anything in it is free.
        self.drain_if_need_be(container, attached.is_old, draining);
        let (left, clean): (Vec<u32>, Vec<u32>) =
            (0..attached.slots).filter(|index| !kept.contains(index)).partition(|index| used.contains(index));
        for index in clean {
            self.tell(Event::SlotReady { slot: SlotKey { container, index }, kept: false });
        }
        self.empty(container, left, heard);
    }

    /// Slots that nobody has any more, once `heard` is answered, if there is anybody to hear.
    fn empty(&self, container: ContainerKey, slots: Vec<u32>, heard: Option<oneshot::Receiver<()>>) {
        let Some(agent) = self.containers.get(&container).and_then(|watched| watched.agent.clone()) else { return };
        let empty = move || slots.into_iter().for_each(|slot| agent.link.release(slot, false));
        match heard {
            None => empty(),
            Some(heard) => drop(tokio::spawn(async move {
                // Whoever drops it has heard, too, or never will.
                let _ = heard.await;
                empty();
            })),
        }
    }

    fn tell_former_owners(&mut self, container: ContainerKey, used: &[UsedSlot]) -> Option<oneshot::Receiver<()>> {
        let former_owners = self.containers.get_mut(&container)?.former_owners.take()?;
        let pool = &self.pool(container.pool())?.config.name;
        let owner = |UsedSlot { owner, generation, .. }: &UsedSlot| {
            Some(FormerOwner { key: TrajectoryKey::parse(owner)?, pool: pool.clone(), generation: *generation })
        };
        let (heard, answer) = oneshot::channel();
        // If nobody wants to hear it any more, this is dropped.
        let _ = former_owners.send(FormerOwners { owners: used.iter().filter_map(owner).collect(), heard });
        Some(answer)
    }

    /// The slot, if the trajectory has it now.
    fn reclaim(&mut self, container: ContainerKey, claim: Claim, held: Held, is_exact: bool) -> Option<u32> {
        let owner = self.names.number(claim.owner.clone());
        let slot = SlotKey { container, index: claim.location.slot };
        self.tell(Event::Reclaim { slot, owner });
        if !self.core.has(owner, slot) {
            claim.refuse_because("the trajectory has another slot, or waits for one");
            return None;
        }
        self.give_again(slot, owner, claim, held, is_exact);
        Some(slot.index)
    }

    fn give_again(&mut self, slot: SlotKey, owner: OwnerId, claim: Claim, held: Held, is_exact: bool) {
        let agent = self.containers.get(&slot.container).and_then(|watched| watched.agent.clone());
        let (Some(agent), Some(commands)) = (agent, self.to_commands.upgrade()) else { return };
        let reclaimed = Reclaimed {
            location: Location { slot: slot.index, ..agent.location.clone() },
            isolation: agent.isolation.clone(),
            network_isolated: agent.network_isolated,
            lease: Lease::again(commands, slot, owner, held.slot),
            calls: held.calls,
            is_exact,
        };
        // A trajectory that does not want it any more gives it back by this.
        let _ = claim.reply.send(Ok(reclaimed));
    }

    /// A container that was taken over is to be given nothing where it is too old, one too many, or about to be taken
    /// away.
    fn drain_if_need_be(&mut self, container: ContainerKey, is_old: bool, draining: Option<String>) {
        let surplus = self.core.container_state(container) == Some(ContainerState::Draining);
        let too_old = is_old.then(|| "its agent is of an earlier version than the executor".to_owned());
        let too_many = surplus.then(|| "there are more containers than there may be".to_owned());
        if let Some(why) = draining.or(too_old).or(too_many) {
            self.drain(container, &why);
        }
    }
}
