//! The link as the rest of the program has it; [`Keeper`] keeps it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Attached, ConnectError, Endpoint, LinkOptions,
    attach::Horizon,
    files::Way,
    keeper::Keeper,
    outgoing::Conversation,
    slot::{SlotEvent, SlotHandle},
};
use crate::{
    id::{CallNumber, ContainerId, Generation, Opening, TrajectoryKey},
    pb::sandbox::{AssignSlot, ReleaseSlot, Shutdown, request::Request},
    tool::{Evidence, Location},
};

/// A slot that an earlier executor has assigned, as far as that came.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub slot: u32,
    pub owner: TrajectoryKey,
    pub generation: Generation,
    pub opening: Opening,
    /// All that earlier executors have written is known. Else the owner may have had the slot, and given it back.
    pub is_complete: bool,
}

/// It is the owner's.
pub struct Held {
    pub slot: SlotHandle,
    /// See [`UsedSlot::calls`](super::UsedSlot::calls).
    pub calls: BTreeSet<CallNumber>,
}

/// A link that has been made.
pub struct Connected {
    pub link: Link,
    pub attached: Attached,
    /// For each that was wanted, in order; or why it cannot be had.
    pub held: Vec<Result<Held, &'static str>>,
    /// Of the container as a whole.
    pub events: mpsc::UnboundedReceiver<LinkEvent>,
}

/// What happens to a container, for whoever watches over it. Bounded by what is asked of its slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// A slot that was released is empty again; or, `kept`, as its owner left it.
    SlotReady { slot: u32, kept: bool },
    /// A slot that was released could not be emptied: it must not be used again.
    SlotQuarantined { slot: u32, cause: String },
    /// The link could not be made again. The last event.
    Lost { cause: String },
    /// The agent obeys a later executor. The last event.
    Stale,
}

/// The way to one agent. Cheap to clone; the link ends with [`Link::lose`].
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

/// What the link and its keeper both use.
pub(super) struct Shared {
    pub(super) container: ContainerId,
    pub(super) conversation: Arc<Conversation>,
    /// Where transfers go.
    way: Arc<Way>,
    slots: Mutex<Slots>,
    /// The link is not wanted any more.
    pub(super) ended: CancellationToken,
}

#[derive(Default)]
struct Slots {
    horizons: Vec<Horizon>,
    holders: Vec<Option<mpsc::UnboundedSender<SlotEvent>>>,
    lost: Option<Arc<Evidence>>,
}

/// Links to the agent, trying until it answers. No event of a slot that is `wanted`, and still assigned, is lost.
///
/// # Errors
/// If the agent refuses this executor for good, or does not answer before the deadline.
pub async fn connect(
    container: ContainerId,
    endpoint: Endpoint,
    options: LinkOptions,
    deadline: Instant,
    wanted: &[Wanted],
) -> Result<Connected, ConnectError> {
    let shared = Arc::new(Shared {
        container,
        conversation: Arc::new(Conversation::new(options.max_batch_size)),
        way: Arc::new(Way { endpoint: endpoint.clone(), epoch: options.epoch }),
        slots: Mutex::default(),
        ended: CancellationToken::new(),
    });
    let (events, receiver) = mpsc::unbounded_channel();
    let mut keeper = Keeper::new(shared.clone(), endpoint, options, events);
    let attachment = keeper.begin(deadline).await?;
    let attached = attachment.attached.clone();
    // Before the first event comes.
    let held = wanted.iter().map(|wanted| shared.hold(wanted, &attached)).collect();
    // Ends by itself: when the link is lost, or not wanted any more.
    tokio::spawn(keeper.run(attachment));
    Ok(Connected { link: Link { shared }, attached, held, events: receiver })
}

impl Link {
    /// Gives a clean slot, or one kept for this owner, to the owner. There must be no other handle of it.
    pub fn assign(&self, slot: u32, owner: &TrajectoryKey, generation: Generation, opening: Opening) -> SlotHandle {
        // Bounded by the calls that run and by their windows of live output.
        let (sender, events) = mpsc::unbounded_channel();
        let mut slots = self.shared.slots();
        match (&slots.lost, slots.holders.get(slot as usize).is_some()) {
            (Some(evidence), _) => drop(sender.send(SlotEvent::ContainerLost(at_slot(evidence, slot)))),
            (None, true) => slots.holders[slot as usize] = Some(sender),
            (None, false) => drop(sender.send(SlotEvent::SlotLost { cause: "there is no such slot".to_owned() })),
        }
        drop(slots);
        let assign = AssignSlot { slot, owner: owner.to_string(), generation: generation.0, opening: opening.0 };
        self.shared.conversation.ask(Request::Assign(assign));
        SlotHandle::new(slot, self.shared.conversation.clone(), self.shared.way.clone(), events)
    }

    /// Takes a slot back; [`LinkEvent::SlotReady`] or [`LinkEvent::SlotQuarantined`] follows.
    pub fn release(&self, slot: u32, keep: bool) {
        if let Some(holder) = self.shared.slots().holders.get_mut(slot as usize) {
            *holder = None;
        }
        self.shared.conversation.ask(Request::Release(ReleaseSlot { slot, keep }));
    }

    /// The link ends, and nobody is told: whatever is there goes on for an executor to come. It hears of every event
    /// that has not been dealt with by now, whatever becomes of the receipts.
    pub fn leave(&self) {
        self.shared.conversation.seal();
        self.shared.ended.cancel();
    }

    /// Asks the agent to end.
    pub fn shut_down(&self) {
        self.shared.conversation.ask(Request::Shutdown(Shutdown {}));
    }

    /// The container will be taken away: every holder of a slot hears it.
    pub fn tell_draining(&self, why: &str) {
        let why: Arc<str> = why.into();
        for holder in self.shared.slots().holders.iter().flatten() {
            // A holder that is gone needs no telling.
            let _ = holder.send(SlotEvent::ContainerDraining(why.clone()));
        }
    }

    /// The container is gone: every holder of a slot hears it, once and last, and the link ends.
    pub fn lose(&self, evidence: &Arc<Evidence>) {
        let mut slots = self.shared.slots();
        if slots.lost.replace(evidence.clone()).is_none() {
            for (slot, holder) in (0..).zip(&mut slots.holders) {
                if let Some(holder) = holder.take() {
                    // A holder that is gone needs no telling.
                    let _ = holder.send(SlotEvent::ContainerLost(at_slot(evidence, slot)));
                }
            }
        }
        self.shared.ended.cancel();
    }
}

fn at_slot(evidence: &Evidence, slot: u32) -> Arc<Evidence> {
    let location = evidence.location.clone().map(|location| Location { slot, ..location });
    Arc::new(Evidence { location, ..evidence.clone() })
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Each change is whole before the lock is given back.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent has as many, none of which has a holder here.
    pub(super) fn has_slots(&self, horizons: Vec<Horizon>) {
        let mut slots = self.slots();
        slots.holders = horizons.iter().map(|_| None).collect();
        slots.horizons = horizons;
    }

    /// What this event says of the slot itself is nothing new.
    pub(super) fn is_known(&self, slot: u32, event: u64) -> bool {
        self.slots().horizons.get(slot as usize).is_some_and(|horizon| event <= horizon.known)
    }

    fn hold(&self, wanted: &Wanted, attached: &Attached) -> Result<Held, &'static str> {
        let Ok(used) = attached.used.binary_search_by_key(&wanted.slot, |used| used.slot) else {
            return self.assign_again(wanted, attached);
        };
        let used = &attached.used[used];
        used.held?;
        if used.owner != wanted.owner.to_string() {
            return Err("the slot is another trajectory's");
        }
        if used.generation != wanted.generation {
            return Err("the slot has another workspace");
        }
        Ok(Held { slot: self.take_hold(wanted.slot)?, calls: used.calls.clone() })
    }

    /// Assigns an empty slot whose assignment has never arrived: the executor ended before the agent had it.
    ///
    /// That it is empty proves nothing, since it may have been given back or wiped. But whoever gives a slot back writes
    /// so before the agent is told. So where nothing that was written is lost, and this owner had had the slot: if it was
    /// another's since, it would not be wanted; and if it was nobody's since, the agent's last assignment would be this
    /// one. Generations alone do not tell that, since they begin anew with each life of the owner.
    fn assign_again(&self, wanted: &Wanted, attached: &Attached) -> Result<Held, &'static str> {
        let owner = wanted.owner.to_string();
        let vacant = attached.vacant.binary_search_by_key(&wanted.slot, |vacant| vacant.slot);
        let vacant = &attached.vacant[vacant.map_err(|_| "the slot is nobody's any more")?];
        let may_be_this_life = [Opening(0), wanted.opening].contains(&vacant.last_opening);
        let has_arrived = vacant.last_owner == owner && may_be_this_life && vacant.last_generation >= wanted.generation;
        if has_arrived || !wanted.is_complete {
            return Err("the slot is nobody's any more");
        }
        let slot = self.take_hold(wanted.slot)?;
        if let Some(horizon) = self.slots().horizons.get_mut(wanted.slot as usize) {
            // Whatever has been told of it is about others.
            horizon.of_others = horizon.known;
        }
        let assign =
            AssignSlot { slot: wanted.slot, owner, generation: wanted.generation.0, opening: wanted.opening.0 };
        self.conversation.ask(Request::Assign(assign));
        Ok(Held { slot, calls: BTreeSet::new() })
    }

    fn take_hold(&self, slot: u32) -> Result<SlotHandle, &'static str> {
        let mut slots = self.slots();
        let holder = slots.holders.get_mut(slot as usize).ok_or("there is no such slot")?;
        if holder.is_some() {
            return Err("the slot is wanted twice");
        }
        // Bounded by the calls that run and by their windows of live output.
        let (sender, events) = mpsc::unbounded_channel();
        *holder = Some(sender);
        Ok(SlotHandle::new(slot, self.conversation.clone(), self.way.clone(), events))
    }

    /// `number`: the event's. One that is about somebody else is told to nobody.
    pub(super) fn tell(&self, slot: u32, number: u64, event: SlotEvent) {
        let slots = self.slots();
        if let Some(Some(holder)) = slots.holders.get(slot as usize)
            && slots.horizons.get(slot as usize).is_none_or(|horizon| number > horizon.of_others)
        {
            // A holder that is gone needs no telling.
            let _ = holder.send(event);
        }
    }
}
