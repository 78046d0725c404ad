//! The waiting line of a pool: first come, first served; whoever leaves leaves a gap, which costs nothing to skip.

use std::{collections::VecDeque, time::Instant};

/// A place in the line. Later ones are higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

#[derive(Debug)]
struct Place<O> {
    /// None: it was left.
    owner: Option<O>,
    deadline: Instant,
}

#[derive(Debug)]
pub(super) struct Line<O> {
    places: VecDeque<Place<O>>,
    /// Of the first place.
    first: u64,
    waiting: usize,
}

impl<O> Line<O> {
    pub(super) fn new() -> Self {
        Self { places: VecDeque::new(), first: 0, waiting: 0 }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// Memory that the line takes: those who wait and the gaps between them.
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    /// Deadlines must not decrease.
    pub(super) fn join(&mut self, owner: O, deadline: Instant) -> Ticket {
        self.places.push_back(Place { owner: Some(owner), deadline });
        self.waiting += 1;
        Ticket(self.first + self.places.len() as u64 - 1)
    }

    /// False if the ticket does not wait.
    pub(super) fn leave(&mut self, ticket: Ticket) -> bool {
        let Some(index) = ticket.0.checked_sub(self.first) else { return false };
        let Some(place) = usize::try_from(index).ok().and_then(|index| self.places.get_mut(index)) else {
            return false;
        };
        let left = place.owner.take().is_some();
        self.waiting -= usize::from(left);
        self.skip_gaps();
        left
    }

    /// Whose turn it is, and until when they wait.
    pub(super) fn front(&self) -> Option<(&O, Instant)> {
        let place = self.places.front()?;
        Some((place.owner.as_ref()?, place.deadline))
    }

    pub(super) fn pop(&mut self) -> Option<(Ticket, O)> {
        let owner = self.places.pop_front()?.owner?;
        let ticket = Ticket(self.first);
        self.first += 1;
        self.waiting -= 1;
        self.skip_gaps();
        Some((ticket, owner))
    }

    /// Those who wait, in order.
    pub(super) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        (self.first..).zip(&self.places).filter(|(_, place)| place.owner.is_some()).map(|(ticket, _)| Ticket(ticket))
    }

    /// The first place never is a gap.
    fn skip_gaps(&mut self) {
        while self.places.pop_front_if(|place| place.owner.is_none()).is_some() {
            self.first += 1;
        }
    }
}
