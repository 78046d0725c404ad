//! Finds the trajectory of a key, making it where that is asked for, and counts what all of them hold.

mod ending;
mod stranding;

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::{
    accounts::{Account, Accounts, Quota},
    command::{Answer, Command, OpenCommand},
    connection::Responses,
    driver::{Driver, spans::trajectory_span},
    observer::Observer,
    request::{Call, Limits, Open, OpenError, Requests},
    start::Start,
    state::{Description, Inspection, Moment, State},
    totals::{Counts, Part, Totals},
    transfer::{NoWorkspace, Workspace},
};
use crate::{
    external,
    id::{Tenant, TraceParent, TrajectoryId, TrajectoryKey},
    journal::{Entry, Journal, Options},
    scheduler,
};

/// What one begins with.
type NewTrajectory = (Options, Option<Arc<TraceParent>>);

/// How many commands may wait for a trajectory's task; whoever sends one more waits with it.
const COMMANDS: usize = 8;

/// The way to every trajectory. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) limits: Arc<Limits>,
    max_trajectories: usize,
    pub(super) scheduler: scheduler::Handle,
    pub(super) tools: external::Handle,
    journal: Journal,
    pub(super) observer: Arc<dyn Observer>,
    trajectories: Mutex<HashMap<TrajectoryKey, mpsc::Sender<Command>>>,
    totals: Totals,
    pub(super) accounts: Accounts,
    /// All results together fill the memory for them: whoever has some that have been sent lets go of them, one
    /// trajectory at a time, and first the one to which nothing has happened for the longest time.
    pub(super) pressure: Notify,
    pub(super) tasks: TaskTracker,
    draining: AtomicBool,
    /// False while there may be some whose slots are about to tell of them.
    all_are_known: watch::Sender<bool>,
}

/// One trajectory of a list.
#[derive(Debug, Clone)]
pub struct Listed {
    pub id: TrajectoryId,
    pub description: Description,
}

/// Why a trajectory could not be reached: its task has ended unexpectedly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the trajectory's task has failed")]
    Failed,
}

impl Directory {
    /// With the trajectories that an executor before this one has left, which go on at once.
    pub fn new(
        limits: Arc<Limits>,
        max_trajectories: usize,
        scheduler: scheduler::Handle,
        tools: external::Handle,
        journal: Journal,
        observer: Arc<dyn Observer>,
        restored: Vec<Start>,
    ) -> Self {
        let directory = Self {
            shared: Arc::new(Shared {
                limits,
                max_trajectories,
                scheduler,
                tools,
                journal,
                observer,
                trajectories: Mutex::default(),
                totals: Totals::default(),
                accounts: Accounts::default(),
                pressure: Notify::new(),
                tasks: TaskTracker::new(),
                draining: AtomicBool::new(false),
                all_are_known: watch::Sender::new(true),
            }),
        };
        let restored = restored.into_iter().map(|start| (start.key.clone(), directory.start(start)));
        directory.shared.lock().extend(restored);
        directory
    }

    /// Attaches a stream to the trajectory, opening it if need be.
    pub async fn open(&self, key: TrajectoryKey, open: Open, requests: Requests) -> Result<Responses, DirectoryError> {
        self.recognize(&key).await;
        let must_exist = open.require_existing || open.last_sequence.0 > 0;
        let new = (!must_exist).then(|| (open.options.clone(), open.trace.clone()));
        let sender = self.find(&key, new)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Open(Box::new(OpenCommand { open, requests, reply }));
        match sender.send(command).await {
            Ok(()) => Ok(answer.await.map_err(|_| self.failure())??),
            // It retired between being found and being asked, so there is nothing left of it: begin anew.
            Err(mpsc::error::SendError(Command::Open(command))) if self.has_retired(&key, &sender) => {
                Box::pin(self.open(key, command.open, command.requests)).await
            }
            Err(_) => Err(self.failure()),
        }
    }

    /// Runs one call, opening the trajectory if need be.
    pub async fn execute(
        &self,
        key: TrajectoryKey,
        call: Call,
        options: Options,
        require_existing: bool,
        trace: Option<Arc<TraceParent>>,
    ) -> Result<Answer, DirectoryError> {
        self.recognize(&key).await;
        let sender = self.find(&key, (!require_existing).then(|| (options.clone(), trace.clone())))?;
        let (reply, answer) = oneshot::channel();
        match sender.send(Command::Execute { call: Box::new(call), require_existing, trace, reply }).await {
            Ok(()) => Ok(answer.await.map_err(|_| self.failure())??),
            Err(mpsc::error::SendError(Command::Execute { call, trace, .. })) if self.has_retired(&key, &sender) => {
                Box::pin(self.execute(key, *call, options, require_existing, trace)).await
            }
            Err(_) => Err(self.failure()),
        }
    }

    /// The way to the files of a trajectory's present workspace.
    pub async fn files(&self, key: &TrajectoryKey) -> Result<Result<Workspace, NoWorkspace>, DirectoryError> {
        let sender = self.find(key, None)?;
        let (reply, answer) = oneshot::channel();
        match sender.send(Command::Files(reply)).await {
            Ok(()) => answer.await.map_err(|_| self.failure()),
            Err(_) if self.has_retired(key, &sender) => Err(OpenError::NotFound.into()),
            Err(_) => Err(self.failure()),
        }
    }

    /// Why a trajectory's task is gone, and has not retired.
    fn failure(&self) -> DirectoryError {
        if self.is_draining() { OpenError::HandedOver.into() } else { DirectoryError::Failed }
    }

    /// Ends a trajectory; returns once its slot has been given back. One that is not there has ended, and may have left
    /// files.
    pub async fn release(&self, key: &TrajectoryKey, keep: bool) {
        self.recognize(key).await;
        let Some(sender) = self.shared.lock().get(key).cloned() else {
            if !keep {
                self.shared.scheduler.forgo(key);
            }
            return;
        };
        let (reply, answer) = oneshot::channel();
        if sender.send(Command::Release { keep, reply }).await.is_ok() {
            // An error means that it has ended in the meantime.
            let _ = answer.await;
        }
    }

    /// Cancels what runs and waits in the open trajectories of a tenant that have these labels, and ends them, if
    /// `release`, returning once their slots have been given back. How many trajectories, and how many calls of them.
    pub async fn cancel(&self, tenant: &Tenant, labels: BTreeMap<String, String>, release: bool) -> (usize, usize) {
        let labels = Arc::new(labels);
        let senders: Vec<_> = {
            let trajectories = self.shared.lock();
            let own = trajectories.iter().filter(|(key, _)| key.tenant == *tenant);
            own.map(|(_, sender)| sender.clone()).collect()
        };
        // All are told before any is waited for.
        let mut told = Vec::new();
        for sender in senders {
            let (reply, answer) = oneshot::channel();
            let (release, released) = release.then(oneshot::channel).unzip();
            if sender.send(Command::CancelLabelled { labels: labels.clone(), release, reply }).await.is_ok() {
                told.push((answer, released));
            }
        }
        let (mut trajectories, mut calls) = (0, 0);
        for (answer, released) in told {
            // An error means that it has ended in the meantime.
            if let Ok(Some(count)) = answer.await {
                (trajectories, calls) = (trajectories + 1, calls + count);
                if let Some(released) = released {
                    let _ = released.await;
                }
            }
        }
        (trajectories, calls)
    }

    /// The open trajectories of a tenant whose labels match, by id, from after `after`, at most `limit`.
    pub async fn list(
        &self,
        tenant: &Tenant,
        labels: &BTreeMap<String, String>,
        after: Option<&TrajectoryId>,
        limit: usize,
    ) -> Vec<Listed> {
        let mut found: Vec<(TrajectoryId, mpsc::Sender<Command>)> = self
            .shared
            .lock()
            .iter()
            .filter(|(key, _)| key.tenant == *tenant && after.is_none_or(|after| key.id > *after))
            .map(|(key, sender)| (key.id.clone(), sender.clone()))
            .collect();
        found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut listed = Vec::new();
        for (id, sender) in found {
            if listed.len() == limit {
                break;
            }
            let (reply, answer) = oneshot::channel();
            if sender.send(Command::Describe(reply)).await.is_err() {
                continue;
            }
            if let Ok(description) = answer.await
                && description.open
                && labels.iter().all(|(name, value)| description.options.labels.get(name) == Some(value))
            {
                listed.push(Listed { id, description });
            }
        }
        listed
    }

    /// One trajectory, open or not, with at most `limit` of its calls that have ended, and that have not.
    pub async fn inspect(&self, key: &TrajectoryKey, limit: usize) -> Option<Inspection> {
        let sender = self.find(key, None).ok()?;
        let (reply, answer) = oneshot::channel();
        sender.send(Command::Inspect(limit, reply)).await.ok()?;
        // An error means that it has retired in the meantime.
        answer.await.ok()
    }

    pub fn counts(&self) -> Counts {
        self.shared.totals.get()
    }

    /// The tenant's part of them.
    pub fn counts_of(&self, tenant: &Tenant) -> Counts {
        self.shared.accounts.counts(tenant)
    }

    /// From now on tenants are held to these, and those that are not among them to none of their own. Nobody loses what
    /// it has.
    pub fn set_quotas(&self, quotas: &HashMap<Tenant, Quota>) {
        self.shared.accounts.set_quotas(quotas);
    }

    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }

    /// The trajectory, or a new one with these options, as a part of this trace.
    fn find(&self, key: &TrajectoryKey, new: Option<NewTrajectory>) -> Result<mpsc::Sender<Command>, OpenError> {
        let mut trajectories = self.shared.lock();
        let count = trajectories.len();
        match trajectories.entry(key.clone()) {
            hash_map::Entry::Occupied(entry) if !entry.get().is_closed() => Ok(entry.get().clone()),
            entry => {
                let (options, trace) = new.ok_or(OpenError::NotFound)?;
                if self.is_draining() {
                    return Err(OpenError::Draining);
                }
                if count >= self.shared.max_trajectories {
                    return Err(OpenError::TooMany { max: self.shared.max_trajectories });
                }
                if self.shared.journal.is_full() {
                    return Err(OpenError::DiskFull);
                }
                let at = self.shared.moment(&self.shared.accounts.of(&key.tenant), &Part::default());
                if let Some(max) = at.tenant.trajectories_exhausted() {
                    return Err(OpenError::TooManyOfTenant { max });
                }
                let state = State::new(self.shared.limits.clone(), options, at);
                let journal = self.shared.journal.begin(key.clone());
                let sender = self.start(Start { key: key.clone(), state, journal, trace, reclaim: None });
                entry.insert_entry(sender.clone());
                Ok(sender)
            }
        }
    }

    fn start(&self, start: Start) -> mpsc::Sender<Command> {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let span = trajectory_span(&start.key, start.trace.as_deref());
        self.shared.tasks.spawn(Driver::new(start, self.shared.clone(), commands).run().instrument(span));
        sender
    }

    /// Whether the trajectory that `sender` led to has left the directory in an orderly way.
    fn has_retired(&self, key: &TrajectoryKey, sender: &mpsc::Sender<Command>) -> bool {
        self.shared.lock().get(key).is_none_or(|present| !present.same_channel(sender))
    }
}

impl Shared {
    /// Now, and what all trajectories hold but the one that has this part; and those of its tenant.
    pub(super) fn moment(&self, account: &Account, own: &Part) -> Moment {
        Moment {
            now: Instant::now().into_std(),
            wall: SystemTime::now(),
            others: self.totals.get().without(own),
            tenant: account.allowance(own),
            can_record: !self.journal.is_full(),
        }
    }

    /// One trajectory's part has changed from `before`.
    pub(super) fn count(&self, before: &Part, now: &Part) {
        let kept_bytes = self.totals.change(before, now);
        if kept_bytes >= self.limits.pressing_result_bytes() {
            self.pressure.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TrajectoryKey, mpsc::Sender<Command>>> {
        // No code that can panic runs under the lock, so what it guards is whole.
        self.trajectories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a trajectory that is over out of the directory, unless somebody has just written to it.
    pub(super) fn retire(
        &self,
        key: &TrajectoryKey,
        commands: &mut mpsc::Receiver<Command>,
        journal: &mut Option<Entry>,
    ) -> bool {
        let mut trajectories = self.lock();
        if !commands.is_empty() {
            return false;
        }
        commands.close();
        trajectories.remove(key);
        if let Some(journal) = journal.take() {
            journal.end();
        }
        true
    }
}
