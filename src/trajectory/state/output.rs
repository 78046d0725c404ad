//! What running calls print: to the stream that is attached, and the start of it to every stream that comes later.

use bytes::{Bytes, BytesMut};

use super::{Effect, Live, Moment, Stage, State};
use crate::{
    id::CallNumber,
    tool::job::Job,
    trajectory::{
        ledger::Ledger,
        request::{Output, OutputStream, Response},
    },
};

/// The start of what a call has printed, without gaps: of each stream no more than its result keeps of the start.
#[derive(Debug, Default)]
pub(super) struct Printed {
    stdout: BytesMut,
    stderr: BytesMut,
}

impl Printed {
    fn bytes(&self) -> u64 {
        (self.stdout.len() + self.stderr.len()) as u64
    }

    /// Keeps of this what continues the start and has room there.
    fn keep(&mut self, stderr: bool, offset: u64, data: &[u8], max: u32) {
        let start = if stderr { &mut self.stderr } else { &mut self.stdout };
        if offset == start.len() as u64 {
            let room = (max as usize).saturating_sub(start.len());
            start.extend_from_slice(&data[..room.min(data.len())]);
        }
    }
}

/// What a session prints is a terminal's.
fn stream_of(ledger: &Ledger, call: CallNumber, stderr: bool) -> OutputStream {
    let order = ledger.pending_call(call).and_then(|call| call.order());
    match (order.map(|order| &order.job), stderr) {
        (Some(Job::Session(_)), _) => OutputStream::Terminal,
        (_, true) => OutputStream::Stderr,
        (_, false) => OutputStream::Stdout,
    }
}

impl State {
    pub(in crate::trajectory) fn on_output(
        &mut self,
        number: CallNumber,
        stderr: bool,
        offset: u64,
        data: Bytes,
        at: Moment,
    ) {
        // Beyond these a stream that comes later sees a gap.
        let room = self.printed_bytes < self.limits.max_kept_result_bytes
            && at.others.kept_bytes + self.part().kept_bytes < self.limits.max_total_result_bytes;
        let Some(live) = self.live.get_mut(&number) else { return };
        if let Stage::Running { seen, printed, .. } = &mut live.stage {
            *seen = true;
            let before = printed.bytes();
            if room {
                printed.keep(stderr, offset, &data, self.ledger.options.output_limits.head);
            }
            self.printed_bytes += printed.bytes() - before;
        }
        if self.stream.is_some() {
            let output =
                Output { call: live.id.clone(), stream: stream_of(&self.ledger, number, stderr), offset, data };
            self.effects.push(Effect::SendOutput(number, output));
        } else {
            self.effects.push(Effect::GrantOutput(number, u32::try_from(data.len()).unwrap_or(u32::MAX)));
        }
    }

    /// To a new stream: what the calls that run have printed before it came.
    pub(super) fn send_printed(&mut self) {
        let mut running: Vec<(&CallNumber, &Live)> = self.live.iter().collect();
        running.sort_unstable_by_key(|(number, _)| **number);
        for (number, live) in running {
            let Stage::Running { printed, .. } = &live.stage else { continue };
            for (stderr, start) in [(false, &printed.stdout), (true, &printed.stderr)] {
                if !start.is_empty() {
                    let data = Bytes::copy_from_slice(start);
                    let stream = stream_of(&self.ledger, *number, stderr);
                    let output = Output { call: live.id.clone(), stream, offset: 0, data };
                    self.effects.push(Effect::Send(Response::Output(Box::new(output))));
                }
            }
        }
    }

    /// Of a call that has ended: its result has it.
    pub(super) fn forget_printed(&mut self, live: &Live) {
        if let Stage::Running { printed, .. } = &live.stage {
            self.printed_bytes -= printed.bytes();
        }
    }
}
