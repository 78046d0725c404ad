//! The contract at random: clients that do what comes to mind, a slot that does what it likes, and a plain model of what
//! each of them has been told, against which everything that the core does is checked.

mod restarts;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use proptest::prelude::*;

use self::restarts::Restart;
use super::*;
use crate::{
    tool::{ExternalCall, ExternalEnd, ExternalEnding, job::Program},
    trajectory::request::{Notice, OutputStream},
};

/// Of each stream of a call's output.
const HEAD: u32 = 20;
const MAX_KEPT_BYTES: u64 = 16 << 10;
const MAX_TOTAL_BYTES: u64 = 64 << 10;
const MAX_TOTAL_CALLS: usize = 20;
const MAX_CALL_IDS: u64 = 40;

#[derive(Debug, Clone)]
enum Step {
    Batch(Vec<Sent>),
    Execute { call: Sent, require_existing: bool, gone: bool },
    Cancel(u8),
    CancelAll,
    CancelLabelled(bool),
    Reset,
    Release,
    Open { last: u8, take_over: bool, require_existing: bool },
    Detach,
    HalfClose,
    Read(u8),
    Grant,
    WaitFails,
    Output { pick: u8, stderr: bool, bytes: u8 },
    End { pick: u8, bytes: u16 },
    SlotLost,
    ContainerLost,
    SlotReset,
    Room(u8),
    Answer { pick: u8, bytes: u16 },
    Break { pick: u8, asked: bool },
    Wait(u8),
    Others { calls: u8, kibibytes: u8 },
    Drain,
    DrainDeadline,
    Restart(Restart),
    Reclaim,
}

/// A call as a client sends it. There are few, so that most of them come again.
#[derive(Debug, Clone)]
struct Sent {
    id: u8,
    action: u8,
    concurrent: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    let action = prop_oneof![9 => Just(0), 1 => Just(1)];
    (0..50_u8, action, any::<bool>()).prop_map(|(id, action, concurrent)| Sent { id, action, concurrent })
}

fn step() -> impl Strategy<Value = Step> {
    let (often, seldom) = (prop::bool::weighted(0.8), prop::bool::weighted(0.2));
    prop_oneof![
        400 => prop::collection::vec(sent(), 0..4).prop_map(Step::Batch),
        150 => (sent(), seldom, seldom)
            .prop_map(|(call, require_existing, gone)| Step::Execute { call, require_existing, gone }),
        50 => (0..50_u8).prop_map(Step::Cancel),
        20 => Just(Step::CancelAll),
        20 => seldom.prop_map(Step::CancelLabelled),
        60 => Just(Step::Reset),
        15 => Just(Step::Release),
        200 => (any::<u8>(), often, seldom)
            .prop_map(|(last, take_over, require_existing)| Step::Open { last, take_over, require_existing }),
        80 => Just(Step::Detach),
        20 => Just(Step::HalfClose),
        500 => (1..8_u8).prop_map(Step::Read),
        300 => Just(Step::Grant),
        20 => Just(Step::WaitFails),
        200 => (any::<u8>(), any::<bool>(), 0..16_u8)
            .prop_map(|(pick, stderr, bytes)| Step::Output { pick, stderr, bytes }),
        500 => (any::<u8>(), 0..3000_u16).prop_map(|(pick, bytes)| Step::End { pick, bytes }),
        15 => Just(Step::SlotLost),
        15 => Just(Step::ContainerLost),
        100 => Just(Step::SlotReset),
        200 => any::<u8>().prop_map(Step::Room),
        200 => (any::<u8>(), 0..3000_u16).prop_map(|(pick, bytes)| Step::Answer { pick, bytes }),
        20 => (any::<u8>(), any::<bool>()).prop_map(|(pick, asked)| Step::Break { pick, asked }),
        60 => (0..90_u8).prop_map(Step::Wait),
        40 => (0..24_u8, 0..70_u8).prop_map(|(calls, kibibytes)| Step::Others { calls, kibibytes }),
        2 => Just(Step::Drain),
        2 => Just(Step::DrainDeadline),
        40 => restarts::restart().prop_map(Step::Restart),
        100 => Just(Step::Reclaim),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    New,
    Open,
    Released,
    Expired,
}

/// What is known of an id that was accepted.
struct Known {
    action: u8,
    concurrent: bool,
    runs: u32,
    result: Option<u64>,
}

struct Running {
    id: String,
    cancelled: bool,
    /// Of each of its streams, in bytes.
    printed: [u64; 2],
}

struct Contract {
    world: World,
    // What the driver and the slot make of the effects.
    in_line: bool,
    holds: bool,
    resetting: bool,
    /// The agent has not been asked yet.
    reclaiming: Option<Restart>,
    running: BTreeMap<CallNumber, Running>,
    /// Calls for elsewhere that room was asked for, and those that run there.
    asked: BTreeSet<CallNumber>,
    elsewhere: BTreeSet<CallNumber>,
    outbox: VecDeque<Sequence>,
    next_waiter: Waiter,
    /// Callers that are not answered, and whether they are gone.
    waiters: HashMap<Waiter, bool>,
    // What the clients have been told.
    life: Life,
    attached: bool,
    half_closed: bool,
    releasing: bool,
    draining: bool,
    /// A workspace was lost, and nobody has asked for another.
    lost: bool,
    ids: HashMap<String, Known>,
    in_order: VecDeque<String>,
    log: BTreeMap<u64, Arc<CallResult>>,
    /// Somebody has these.
    delivered: BTreeSet<u64>,
    /// Of the workspace, to the stream that is attached.
    told: Option<Generation>,
    /// Of live output, by the stream that is attached.
    heard: HashMap<(String, bool), u64>,
    /// Memory was short: of live output there may be gaps.
    short: bool,
    /// Of what has been sent, some may be taken for unsent.
    restarted: bool,
}

/// The byte of every stream at that place.
fn print(offset: u64) -> u8 {
    (offset % 251) as u8
}

fn name(id: u8) -> String {
    format!("c{id}")
}

/// Whether the call of that id is of a tool that is not the slot's.
fn is_elsewhere(id: u8) -> bool {
    id % 5 == 3
}

fn made(sent: &Sent) -> Call {
    let name = name(sent.id);
    if is_elsewhere(sent.id) {
        let call = ExternalCall { source: "s".into(), tool: "t".to_owned(), arguments: "{}".to_owned() };
        let work = Work { action: ActionHash([sent.action; 16]), task: Task::External(call) };
        return Call { work: Ok(work), ..super::call(&name, sent.concurrent) };
    }
    let process = Process { program: Program::Shell(name.clone()), ..Process::default() };
    let work = Work {
        action: ActionHash([sent.action; 16]),
        task: Task::Slot { job: Job::Process(process), kind: Kind::Shell },
    };
    Call { work: Ok(work), ..call(&name, sent.concurrent) }
}

impl Contract {
    fn new() -> Self {
        let limits = Limits {
            max_kept_result_bytes: MAX_KEPT_BYTES,
            max_total_result_bytes: MAX_TOTAL_BYTES,
            max_total_calls_in_flight: MAX_TOTAL_CALLS,
            max_call_ids: MAX_CALL_IDS,
            logged_payload_bytes: 0,
            ..limits()
        };
        Self {
            world: World::with(limits, Self::options()),
            in_line: false,
            holds: false,
            resetting: false,
            reclaiming: None,
            running: BTreeMap::new(),
            asked: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
            outbox: VecDeque::new(),
            next_waiter: 0,
            waiters: HashMap::new(),
            life: Life::New,
            attached: false,
            half_closed: false,
            releasing: false,
            draining: false,
            lost: false,
            ids: HashMap::new(),
            in_order: VecDeque::new(),
            log: BTreeMap::new(),
            delivered: BTreeSet::new(),
            told: None,
            heard: HashMap::new(),
            short: false,
            restarted: false,
        }
    }

    fn options() -> Options {
        // Short, so that it ends often.
        let lease = Duration::from_secs(60);
        Options { lease, output_limits: OutputLimits { head: HEAD, tail: 0 }, ..options() }
    }

    fn last(&self) -> u64 {
        self.log.last_key_value().map_or(0, |(sequence, _)| *sequence)
    }

    fn kept(&self) -> BTreeSet<u64> {
        self.world.state.ledger.results_after(Sequence(0)).map(|result| result.sequence.0).collect()
    }

    fn pending(&self) -> usize {
        self.ids.values().filter(|known| known.result.is_none()).count()
    }

    fn request(&mut self, request: Request) {
        let unread = self.outbox.len();
        self.world.act(|state, at| state.on_request(request, unread, at));
    }

    fn begin_life(&mut self) {
        self.ids.clear();
        self.log.clear();
        self.delivered.clear();
        self.lost = false;
    }

    fn act(&mut self, step: Step) {
        self.short |= self.world.others.kept_bytes + self.world.state.part().kept_bytes >= MAX_TOTAL_BYTES;
        match step {
            Step::Batch(calls) if self.attached => {
                self.request(Request::Batch(calls.iter().map(made).collect()));
                let read = |effect: &Effect| !matches!(effect, Effect::EndStream(Some(StreamError::NotReading { .. })));
                if self.world.effects.iter().all(read) {
                    self.at_the_door(&calls);
                }
            }
            Step::Execute { call, require_existing, gone } => {
                self.next_waiter += 1;
                let waiter = self.next_waiter;
                self.waiters.insert(waiter, gone);
                let made = made(&call);
                let asked = self.world.act(|state, at| state.on_execute(made, require_existing, waiter, at));
                let unseen = !self.ids.contains_key(&name(call.id));
                if require_existing && unseen && self.life != Life::Open {
                    assert_eq!(asked, Err(OpenError::NotFound));
                    self.waiters.remove(&waiter);
                } else {
                    assert_eq!(asked, Ok(()));
                    if self.life == Life::New {
                        self.life = Life::Open;
                    }
                    self.at_the_door(&[call]);
                }
            }
            Step::Cancel(id) if self.attached => {
                self.request(Request::Cancel(vec![CallId::parse(&name(id)).expect("it is a name")]));
            }
            Step::CancelAll if self.attached => self.request(Request::Cancel(Vec::new())),
            Step::CancelLabelled(release) => {
                let open = matches!(self.life, Life::New | Life::Open);
                self.releasing |= open && release;
                let calls = self.world.act(|state, at| state.on_cancel_labelled(&BTreeMap::new(), release, at));
                assert_eq!(calls, open.then_some(self.pending()));
            }
            Step::Reset if self.attached => {
                let generation = self.world.state.ledger.generation;
                self.lost &= self.releasing;
                self.request(Request::Reset(generation));
            }
            Step::Release => {
                self.releasing |= matches!(self.life, Life::New | Life::Open);
                if self.life == Life::Expired {
                    self.life = Life::Released;
                }
                self.world.act(|state, at| state.on_release(false, at));
            }
            Step::Open { last, take_over, require_existing } => self.open(last, take_over, require_existing),
            Step::Detach if self.attached => {
                self.attached = false;
                self.outbox.clear();
                self.world.act(State::on_detached);
            }
            Step::HalfClose if self.attached => {
                self.half_closed = true;
                self.world.act(State::on_half_close);
            }
            Step::Read(count) => {
                for sequence in self.outbox.drain(..usize::from(count).min(self.outbox.len())).collect::<Vec<_>>() {
                    self.delivered.insert(sequence.0);
                    self.world.act(|state, at| state.sent(sequence, at));
                }
            }
            Step::Grant if self.in_line => {
                (self.in_line, self.holds) = (false, true);
                self.world.granted();
            }
            Step::WaitFails if self.in_line => {
                self.in_line = false;
                let verdict = Verdict::slot_timeout(Duration::from_secs(30), None);
                self.world.act(|state, at| state.on_wait_failed(verdict, at));
            }
            Step::Restart(restart) => self.restart(restart),
            Step::Reclaim => self.reclaim(),
            Step::Output { .. } | Step::End { .. } | Step::SlotLost | Step::ContainerLost
                if self.reclaiming.is_some() => {}
            Step::Output { pick, stderr, bytes } => {
                let Some((number, running)) = picked(&mut self.running, pick) else { return };
                let offset = running.printed[usize::from(stderr)];
                let data: Vec<u8> = (offset..offset + u64::from(bytes)).map(print).collect();
                running.printed[usize::from(stderr)] += u64::from(bytes);
                self.world.act(|state, at| state.on_output(number, stderr, offset, data.into(), at));
            }
            Step::End { pick, bytes } => {
                let Some((number, running)) = picked(&mut self.running, pick) else { return };
                let mut ending = ended(running.cancelled.then_some(Stop::Cancelled));
                if let End::Process(end) = &mut ending.end {
                    end.stdout = Captured { head: vec![b'x'; bytes.into()].into(), ..Captured::default() };
                }
                self.running.remove(&number);
                self.world.act(|state, at| state.on_ended(number, ending, at));
            }
            Step::SlotLost if self.holds => {
                self.lose();
                self.world.act(|state, at| state.on_slot_lost("killed".to_owned(), at));
            }
            Step::ContainerLost if self.holds => {
                self.lose();
                self.running.clear();
                self.world.act(|state, at| state.on_container_lost(&Arc::default(), at));
            }
            Step::SlotReset if self.resetting => {
                self.resetting = false;
                self.world.act(State::on_slot_reset);
            }
            Step::Room(pick) => {
                let Some(number) = taken(&mut self.asked, pick) else { return };
                self.world.act(|state, at| state.on_outside_room(number, at));
            }
            Step::Answer { pick, bytes } => {
                let Some(number) = taken(&mut self.elsewhere, pick) else { return };
                let (output, error) = ("x".repeat(bytes.into()), String::new());
                let end = ExternalEnd::Answered { success: true, output, error, metadata: Vec::new() };
                let ending = ExternalEnding { end, phases: Phases::default() };
                self.world.act(|state, at| state.on_external_ended(number, ending, at));
            }
            Step::Break { pick, asked } => {
                let calls = if asked { &mut self.asked } else { &mut self.elsewhere };
                let Some(number) = taken(calls, pick) else { return };
                if asked {
                    // The core gives up what it has not been told to be over.
                    self.asked.insert(number);
                }
                self.world.act(|state, at| state.on_outside_broken(number, "it panicked", at));
            }
            Step::Wait(seconds) => {
                self.world.at += Duration::from_secs(seconds.into());
                if self.world.act(State::on_deadline) {
                    assert_ne!(self.life, Life::Open, "a ledger outlives its trajectory by a lease");
                    assert!(!self.attached && !self.holds && self.waiters.is_empty());
                    *self = Self::new();
                } else if self.life == Life::Open && !self.world.state.is_open() {
                    assert!(!self.attached && self.running.is_empty(), "somebody attends to it");
                    // Whatever a full log has held back is answered, too.
                    (self.life, self.in_line) = (Life::Expired, false);
                }
            }
            Step::Others { calls, kibibytes } => {
                (self.world.others.calls, self.world.others.kept_bytes) = (calls.into(), u64::from(kibibytes) << 10);
                // It takes notice with whatever happens to it next.
                self.world.act(|state, at| state.sent(Sequence(0), at));
                // Each time that all hold nearly too much, every trajectory is asked in its turn.
                let pressing = self.world.state.limits.pressing_result_bytes();
                if self.world.others.kept_bytes + self.world.state.part().kept_bytes >= pressing {
                    self.world.act(State::on_pressure);
                    let total = self.world.others.kept_bytes + self.world.state.part().kept_bytes;
                    assert!(total < pressing || !self.world.state.can_let_go(), "it lets go of what it can");
                }
            }
            Step::Drain => {
                self.draining = true;
                self.releasing |= matches!(self.life, Life::New | Life::Open) && self.pending() == 0;
                self.world.act(|state, at| state.on_drain(Duration::from_secs(25), at));
            }
            Step::DrainDeadline if self.draining => {
                self.releasing |= matches!(self.life, Life::New | Life::Open);
                self.world.act(State::on_drain_deadline);
            }
            _ => {}
        }
        self.absorb();
        self.check();
    }

    fn lose(&mut self) {
        self.lost |= self.world.state.resetting.is_none() && !self.releasing;
    }

    fn open(&mut self, last: u8, take_over: bool, require_existing: bool) {
        let kept = self.kept();
        let log = self.last();
        let last_sequence = match last % 4 {
            0 => 0,
            1 => log,
            2 => kept.first().map_or(log, |oldest| oldest - 1),
            _ => u64::from(last) % (log + 2),
        };
        let must_exist = require_existing || last_sequence > 0;
        let is_kept = (last_sequence + 1..=log).all(|sequence| kept.contains(&sequence));
        let expected = match self.life {
            _ if self.releasing => Err(()),
            Life::New | Life::Released | Life::Expired if must_exist => Err(()),
            Life::New => Ok(false),
            Life::Released | Life::Expired => {
                if self.draining {
                    Err(())
                } else {
                    Ok(false)
                }
            }
            Life::Open if self.attached && !take_over => Err(()),
            Life::Open => {
                if last_sequence <= log && is_kept {
                    Ok(true)
                } else {
                    Err(())
                }
            }
        };
        let open = Open {
            options: Self::options(),
            take_over,
            last_sequence: Sequence(last_sequence),
            require_existing,
            trace: None,
        };
        let asked = self.world.act(|state, at| state.on_open(open, at));
        assert_eq!(asked.clone().map_err(drop), expected.map(drop), "{asked:?}");
        let Ok(resumed) = expected else { return };
        if resumed {
            self.delivered.extend(1..=last_sequence);
        } else {
            self.begin_life();
        }
        self.life = Life::Open;
        // Opened, and then exactly what it has not, in order.
        let effects = &self.world.effects;
        let attach = effects.iter().position(|effect| *effect == Effect::Attach).expect("it is attached");
        assert_eq!(attach > 0, self.attached, "the stream before it is told: {effects:?}");
        let mut after = effects[attach + 1..].iter();
        let Some(Effect::Send(Response::Opened(opened))) = after.next() else { panic!("{effects:?}") };
        assert_eq!(opened.resumed, resumed);
        let sent: Vec<u64> = after
            .map_while(|effect| match effect {
                Effect::Send(Response::Result { result, replayed: false }) => Some(result.sequence.0),
                _ => None,
            })
            .collect();
        let expected: Vec<u64> = (last_sequence + 1..=self.last()).collect();
        assert_eq!(sent, expected, "every result after the last one that it has");
    }

    /// Takes in what the last event has led to.
    fn absorb(&mut self) {
        for result in self.world.state.ledger.results_after(Sequence(self.last())).cloned().collect::<Vec<_>>() {
            assert_eq!(result.sequence.0, self.last() + 1, "sequences have no gaps");
            let known = self.ids.get_mut(result.call_id.as_str()).expect("only what was accepted is in the log");
            assert!(known.result.replace(result.sequence.0).is_none(), "an accepted call is answered once");
            self.in_order.retain(|id| id != result.call_id.as_str());
            self.log.insert(result.sequence.0, result);
        }
        loop {
            let effects = self.world.take();
            if effects.is_empty() {
                return;
            }
            effects.into_iter().for_each(|effect| self.take(effect));
        }
    }

    fn take(&mut self, effect: Effect) {
        match effect {
            Effect::Attach => {
                (self.attached, self.half_closed, self.told) = (true, false, None);
                self.heard.clear();
            }
            Effect::Send(response) => {
                assert!(self.attached, "nothing is sent to nobody: {response:?}");
                self.hear(response);
            }
            Effect::SendOutput(_, output) => {
                assert!(self.attached);
                self.hear(Response::Output(Box::new(output)));
            }
            Effect::EndStream(error) => {
                assert!(std::mem::take(&mut self.attached));
                match error {
                    Some(StreamError::TakenOver | StreamError::NotReading { .. }) => self.outbox.clear(),
                    Some(StreamError::Malformed { .. } | StreamError::TooLarge { .. } | StreamError::HandedOver) => {
                        panic!("{error:?}")
                    }
                    None if self.life == Life::Open && !self.releasing && !self.draining => {
                        assert!(self.half_closed && self.pending() == 0, "a stream ends after its last answer");
                        assert!(self.kept().is_subset(&self.delivered), "a stream ends once everything was sent");
                        self.outbox.clear();
                    }
                    None => self.outbox.clear(),
                }
            }
            Effect::Answer { waiter, result, replayed } => {
                let gone = self.waiters.remove(&waiter).expect("whoever asked is answered once");
                self.result(&result, replayed);
                if !gone {
                    self.delivered.insert(result.sequence.0);
                    self.world.act(|state, at| state.sent(result.sequence, at));
                }
            }
            Effect::Released => {
                if matches!(self.life, Life::New | Life::Open) {
                    assert_eq!(self.pending(), 0, "a release waits for what runs");
                    self.life = Life::Released;
                }
                (self.releasing, self.lost) = (false, false);
            }
            Effect::Acquire(_) => {
                assert!(!self.holds && !self.in_line, "one slot at a time");
                assert!(!self.lost && self.life != Life::Expired, "nothing goes on in an empty workspace");
                self.in_line = true;
            }
            Effect::ForgoKept => assert!(!self.holds && !self.in_line),
            Effect::LeaveLine => assert!(std::mem::take(&mut self.in_line)),
            Effect::OpenSlot(_) => assert!(self.holds),
            Effect::AskOutside(number, _) => {
                assert!(self.asked.insert(number), "room is asked for once");
                assert!(self.asked.len() + self.elsewhere.len() <= limits().max_concurrent_calls);
            }
            Effect::RunExternal(number, outgoing) => {
                let known = self.ids.get_mut(outgoing.id.as_str()).expect("only what was accepted is run");
                known.runs += 1;
                assert_eq!(known.runs, 1, "a call runs at most once, elsewhere too");
                self.elsewhere.insert(number);
            }
            Effect::DropExternal(number) => {
                let is_known = self.asked.remove(&number) || self.elsewhere.remove(&number);
                assert!(is_known, "what is given up is under way");
            }
            Effect::Run(number, order) => self.run(number, order),
            Effect::CancelRun(number) => {
                let running = self.running.get_mut(&number).expect("it runs");
                assert!(!std::mem::replace(&mut running.cancelled, true), "a cancel is told once");
            }
            Effect::Input { call, .. } | Effect::GrantOutput(call, _) => assert!(self.running.contains_key(&call)),
            Effect::ResetSlot(_) => {
                assert!(self.holds && self.running.is_empty(), "a slot is emptied after its calls");
                self.resetting = true;
            }
            Effect::ReleaseSlot { .. } => {
                assert!(std::mem::take(&mut self.holds), "only what is held is given back");
                assert!(self.running.is_empty(), "a slot is given back after its calls have ended");
                self.resetting = false;
                self.reclaiming = None;
            }
        }
    }

    fn run(&mut self, number: CallNumber, order: Order) {
        let Job::Process(Process { program: Program::Shell(id), .. }) = order.job else { panic!("{order:?}") };
        let generation = self.world.state.ledger.generation;
        assert!(self.reclaiming.is_none(), "the agent is asked first");
        assert!(self.holds && !self.resetting && !self.lost && !self.releasing, "nothing runs without a workspace");
        assert!(!self.attached || self.told == Some(generation), "nor in one that the client has not been told of");
        let known = self.ids.get_mut(&id).expect("only what was accepted is run");
        known.runs += 1;
        assert_eq!(known.runs, 1, "a call runs at most once");
        self.running.insert(number, Running { id, cancelled: false, printed: [0; 2] });
    }

    fn hear(&mut self, response: Response) {
        match response {
            Response::Opened(opened) => self.told = Some(opened.generation),
            Response::WorkspaceReset(generation) | Response::Notice(Notice::SlotAssigned { generation, .. }) => {
                self.told = Some(generation);
            }
            Response::Result { result, replayed } => {
                self.outbox.push_back(result.sequence);
                self.result(&result, replayed);
            }
            Response::Output(output) => {
                let heard = self
                    .heard
                    .entry((output.call.as_str().to_owned(), output.stream == OutputStream::Stderr))
                    .or_default();
                let gap = output.offset > *heard;
                assert!(output.offset >= *heard, "nothing is told twice to one stream");
                assert!(!gap || *heard == u64::from(HEAD) || self.short, "the start is kept: {output:?} after {heard}");
                assert!((output.offset..).zip(&output.data).all(|(at, byte)| print(at) == *byte), "true offsets");
                *heard = output.offset + output.data.len() as u64;
            }
            Response::Notice(_) | Response::Released(_) => {}
        }
    }

    fn result(&mut self, result: &Arc<CallResult>, replayed: bool) {
        match result.sequence.0 {
            0 => assert!(!replayed && result.executed != Executed::Yes, "{result:?}"),
            sequence => assert!(Arc::ptr_eq(&self.log[&sequence], result), "it is the one in the log"),
        }
        let timings = result.timings;
        assert_eq!(
            timings.total(),
            timings.queued + timings.slot_wait + timings.dispatch + timings.execution + timings.collection
        );
    }

    /// What the last event must have made of the calls that it brought.
    fn at_the_door(&mut self, calls: &[Sent]) {
        let answers = self.world.effects.iter().filter_map(|effect| match effect {
            Effect::Send(Response::Result { result, replayed }) | Effect::Answer { result, replayed, .. } => {
                Some((result.clone(), *replayed))
            }
            _ => None,
        });
        let mut answers: VecDeque<(Arc<CallResult>, bool)> = answers.collect();
        let kept = self.kept();
        for call in calls {
            let id = name(call.id);
            let known = self.ids.get(&id);
            let is_kept = known.and_then(|known| known.result).is_none_or(|sequence| kept.contains(&sequence));
            let expected = match known {
                None => None,
                Some(_) if !is_kept => Some(Reason::ResultDropped),
                Some(known) if known.action != call.action => Some(Reason::CallIdReused),
                Some(known) => {
                    if known.result.is_some() {
                        let (result, replayed) = answers.pop_front().expect("its result is sent again");
                        assert_eq!((Some(result.sequence.0), replayed), (known.result, true));
                    }
                    continue;
                }
            };
            let door = [Reason::QueueFull, Reason::Draining, Reason::WorkspaceGone].map(Some);
            let is_refusal = |(result, _): &mut (Arc<CallResult>, bool)| {
                let reason = if expected.is_some() { result.reason == expected } else { door.contains(&result.reason) };
                reason && result.call_id.as_str() == id && result.sequence == Sequence(0)
            };
            if answers.pop_front_if(is_refusal).is_none() {
                assert_eq!(expected, None, "{id} is refused");
                self.accepted(call, id);
            }
        }
        assert!(answers.is_empty(), "only what was sent is answered: {answers:?}");
    }

    fn accepted(&mut self, call: &Sent, id: String) {
        let elsewhere = is_elsewhere(call.id);
        assert!(!self.draining && !self.releasing && self.life != Life::Expired);
        assert!(!self.lost || elsewhere, "a slot's call needs a workspace");
        self.life = Life::Open;
        let concurrent = call.concurrent || elsewhere;
        let known = Known { action: call.action, concurrent, runs: 0, result: None };
        self.ids.insert(id.clone(), known);
        assert!(self.world.others.calls + self.pending() <= MAX_TOTAL_CALLS, "the service has room for it");
        if !concurrent {
            self.in_order.push_back(id);
        }
    }

    /// Nobody has been sent what fills the log, or the service's memory together with others.
    fn is_held_back(&self) -> bool {
        let kept = self.kept();
        let unsent: u64 = kept.difference(&self.delivered).map(|sequence| self.log[sequence].retained_bytes()).sum();
        let total = self.world.others.kept_bytes + self.world.state.part().kept_bytes;
        unsent >= MAX_KEPT_BYTES || unsent > 0 && total >= MAX_TOTAL_BYTES
    }

    /// What is true at any time.
    fn check(&self) {
        let state = &self.world.state;
        let (waiting, running) = state.load();
        let under_way = self.running.len() + self.elsewhere.len();
        assert_eq!((waiting + running, running), (self.pending(), under_way));
        assert!(waiting + running <= limits().max_calls_in_flight);
        assert_eq!(state.ledger.accepted(), self.last() + (waiting + running) as u64, "every call is somewhere");
        assert!(state.ledger.accepted() <= MAX_CALL_IDS);
        let in_order: Vec<&String> =
            self.running.values().map(|running| &running.id).filter(|id| !self.ids[*id].concurrent).collect();
        assert!(in_order.len() <= 1, "one at a time: {in_order:?}");
        assert!(in_order.iter().all(|id| self.in_order.front() == Some(id)), "in the order sent");

        let kept = self.kept();
        let gone: Vec<&u64> = self.log.keys().filter(|sequence| !kept.contains(sequence)).collect();
        assert!(gone.iter().all(|sequence| self.delivered.contains(sequence)), "what nobody has is kept: {gone:?}");
        let unsent = kept.difference(&self.delivered).count();
        assert_eq!(unsent, state.ledger.unsent_results());
        assert!(unsent <= limits().max_kept_results || self.restarted);
        let may_go = kept.first().is_some_and(|oldest| self.delivered.contains(oldest));
        assert_eq!(may_go, state.can_let_go());
        assert!(kept.len() <= limits().max_kept_results || !may_go);
        let bytes: u64 = kept.iter().map(|sequence| self.log[sequence].retained_bytes()).sum();
        assert!(bytes <= MAX_KEPT_BYTES || !may_go);
        let printed = state.part().kept_bytes - bytes;
        let most = |count: &u64| (*count).min(HEAD.into());
        let start: u64 = self.running.values().flat_map(|running| &running.printed).map(most).sum();
        assert!(printed == start || printed < start && self.short, "{printed} of {start} bytes are counted");

        assert_eq!(state.is_open(), matches!(self.life, Life::New | Life::Open));
        assert!(!self.attached || self.life == Life::Open);
        if self.life == Life::Open {
            let held_back = running == 0 && self.is_held_back();
            let idle = !self.attached && !self.releasing && (waiting + running == 0 || held_back);
            assert_eq!(state.deadline().is_some(), idle, "a lease runs while nobody attends");
        }
        assert!(matches!(self.life, Life::New | Life::Open) || self.pending() == 0, "nothing waits for nobody");
        assert!(!self.attached || !self.half_closed || self.pending() > 0 || unsent > 0, "it has nothing to wait for");
        assert!(self.holds || self.running.is_empty());
        assert!(self.life == Life::Open || !self.holds, "a slot is given back");
    }

    /// Lets everything come to its end.
    fn end(&mut self) {
        self.act(Step::Others { calls: 0, kibibytes: 0 });
        for _ in 0..200 {
            let next = match () {
                () if self.reclaiming.is_some() => Step::Reclaim,
                () if self.in_line => Step::WaitFails,
                () if self.resetting => Step::SlotReset,
                () if !self.running.is_empty() => Step::End { pick: 0, bytes: 0 },
                () if !self.asked.is_empty() => Step::Room(0),
                () if !self.elsewhere.is_empty() => Step::Answer { pick: 0, bytes: 0 },
                () if self.is_held_back() && self.attached => Step::Read(u8::MAX),
                () if self.is_held_back() => Step::Wait(u8::MAX),
                () => break,
            };
            self.act(next);
        }
        assert_eq!(self.pending(), 0);
        assert!(self.waiters.is_empty(), "everybody is answered");
        // A client that comes, and reads, finds room again.
        self.act(Step::Open { last: 2, take_over: true, require_existing: false });
        self.act(Step::Read(u8::MAX));
        let room = self.world.state.ledger.accepted() < MAX_CALL_IDS && self.attached && !self.lost && !self.draining;
        if room {
            let before = self.world.state.ledger.accepted();
            self.act(Step::Batch(vec![Sent { id: 99, action: 0, concurrent: false }]));
            assert_eq!(self.world.state.ledger.accepted(), before + 1, "there is room again");
        }
    }
}

fn taken(calls: &mut BTreeSet<CallNumber>, pick: u8) -> Option<CallNumber> {
    let number = calls.iter().nth(usize::from(pick) % calls.len().max(1)).copied()?;
    calls.take(&number)
}

fn picked(running: &mut BTreeMap<CallNumber, Running>, pick: u8) -> Option<(CallNumber, &mut Running)> {
    let count = running.len();
    running.iter_mut().nth(usize::from(pick) % count.max(1)).map(|(number, running)| (*number, running))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn the_contract_holds_whatever_happens(steps in prop::collection::vec(step(), 1..120)) {
        let mut contract = Contract::new();
        steps.into_iter().for_each(|step| contract.act(step));
        contract.end();
    }
}
