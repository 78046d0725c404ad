//! How much input of a slot's calls is on its way. The agent bounds what a process leaves unread; but as long as the
//! agent has not received it, it takes up this side's memory, and an agent that does not answer receives nothing.

use std::collections::{HashMap, VecDeque};

use crate::id::CallNumber;

/// On its way, in bytes, beyond what a process may leave unread. So much is only reached where the link is broken, or
/// the agent hung: it says every quarter of a MiB what it has received.
const ON_ITS_WAY: usize = 4 << 20;
/// What a request takes up beside its data, roughly: many small ones are much, too.
const ENVELOPE: usize = 256;

/// Of the calls of one slot.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    calls: HashMap<CallNumber, Input>,
}

#[derive(Debug)]
struct Input {
    room: usize,
    /// Requests, and how much was in each.
    sent: VecDeque<(u64, usize)>,
}

impl Inputs {
    /// A call that takes input.
    pub(super) fn open(&mut self, call: CallNumber, max_pending: u32) {
        let room = max_pending as usize + ON_ITS_WAY;
        self.calls.insert(call, Input { room, sent: VecDeque::new() });
    }

    /// Whether so much may be sent, with the requests up to `acknowledged` received. Input that is too much is the
    /// call's last: no more of it is wanted.
    pub(super) fn may_send(&mut self, call: CallNumber, bytes: usize, acknowledged: u64) -> Option<bool> {
        let input = self.calls.get_mut(&call)?;
        while let Some((_, received)) = input.sent.pop_front_if(|(request, _)| *request <= acknowledged) {
            input.room += received;
        }
        let may = bytes + ENVELOPE <= input.room;
        if !may {
            self.calls.remove(&call);
        }
        Some(may)
    }

    /// It was sent, as this request.
    pub(super) fn sent(&mut self, call: CallNumber, bytes: usize, request: u64) {
        if let Some(input) = self.calls.get_mut(&call) {
            let taken = (bytes + ENVELOPE).min(input.room);
            input.room -= taken;
            input.sent.push_back((request, taken));
        }
    }

    pub(super) fn close(&mut self, call: CallNumber) {
        self.calls.remove(&call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_received_makes_room_and_too_much_is_the_last() {
        let (mut inputs, call) = (Inputs::default(), CallNumber(7));
        assert_eq!(inputs.may_send(call, 1, 0), None, "it takes no input");
        inputs.open(call, 10);
        let most = ON_ITS_WAY + 10 - ENVELOPE;
        assert_eq!(inputs.may_send(call, most, 0), Some(true));
        inputs.sent(call, most, 3);
        assert_eq!(inputs.may_send(call, most, 3), Some(true), "it was received");
        inputs.sent(call, most - ENVELOPE, 4);
        assert_eq!(inputs.may_send(call, 0, 3), Some(true));
        inputs.sent(call, 0, 5);
        assert_eq!(inputs.may_send(call, 0, 3), Some(false));
        assert_eq!(inputs.may_send(call, 0, 5), None);
    }
}
