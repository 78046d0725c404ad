//! The service as a page: how it does, where it runs, who waits and why, what went wrong.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use maud::{Markup, html};

use super::{
    chart, format,
    history::{Cause, Ends, Fault, Recent, STEP, Whose},
    render::{Sections, link, section},
    snapshot::Snapshot,
};
use crate::{
    scheduler::{ContainerState, ContainerStatus, PoolOverview, PoolStatus, SlotState, SlotStatus},
    trajectory::Listed,
};

/// Containers of a pool that are shown one by one.
const CONTAINERS: usize = 48;
/// Faults of a cause that are shown.
const FAULTS_OF_A_CAUSE: usize = 5;
/// Of the rate of calls.
const A_MINUTE: usize = 12;

pub(super) fn sections(snapshot: &Snapshot) -> Sections {
    vec![
        section("summary", summary(snapshot)),
        section("waiting", waiting(&snapshot.pools)),
        section("pools", pools(&snapshot.pools, snapshot.at)),
        section("traffic", traffic(&snapshot.recent)),
        section("faults", faults(&snapshot.recent, snapshot.at)),
        section("trajectories", trajectories(snapshot)),
    ]
}

fn summary(snapshot: &Snapshot) -> Markup {
    let counts = &snapshot.counts;
    let sum = |count: fn(&PoolStatus) -> u32| -> u64 {
        snapshot.pools.iter().map(|pool| u64::from(count(&pool.status))).sum()
    };
    let (acquired, total) = (sum(|pool| pool.acquired_slots), sum(|pool| pool.total_slots));
    let faults = of(&snapshot.recent, Whose::Infrastructure);
    let tile = |name: &str, value: String, about: String| {
        html! { div { dt { (name) } dd { strong { (value) } " " small { (about) } } } }
    };
    html! {
        h1 { @if snapshot.draining { span.state.warning { "Draining" } } @else { span.state { "Serving" } }
            " " small { "for " (format::duration(whole(snapshot.uptime))) " · " (snapshot.backend) } }
        dl.tiles {
            (tile("slots taken", format::count(acquired), format!("of {}", format::count(total))))
            (tile("calls running", format::count(counts.running_calls),
                format!("{} waiting", format::count(counts.waiting_calls))))
            (tile("trajectories", format::count(counts.open_trajectories),
                format!("{} unattended", format::count(counts.leased_trajectories))))
            @if knows_of_all(&snapshot.recent) {
            (tile("calls a second", chart::rate(rate(&snapshot.recent)), "last minute".to_owned()))
            div.bad[faults > 0] { dt { "infrastructure faults" }
                dd { strong { (format::count(faults)) } " " small { "10 minutes" } } }
            }
        }
    }
}

/// Whether the reader may know how everybody's calls went.
fn knows_of_all(recent: &Recent) -> bool {
    !recent.steps.is_empty()
}

fn whole(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

fn of(recent: &Recent, whose: Whose) -> u64 {
    recent.steps.iter().map(|ends| u64::from(ends.of(whose))).sum()
}

/// Of the last minute, or as much of it as there has been.
fn rate(recent: &Recent) -> f64 {
    let steps = &recent.steps[recent.steps.len().saturating_sub(A_MINUTE)..];
    let calls: u64 = steps.iter().map(|ends| u64::from(Ends::all(ends))).sum();
    let time = STEP * u32::try_from(steps.len().saturating_sub(1)).unwrap_or(u32::MAX) + recent.present;
    calls as f64 / time.as_secs_f64().max(1.0)
}

fn waiting(pools: &[PoolOverview]) -> Markup {
    let those = || pools.iter().filter(|pool| pool.status.waiting_trajectories > 0);
    html! {
        @if those().next().is_some() {
            h2 { "Waiting for a slot" }
            @for pool in those() {
                @let all = pool.status.waiting_trajectories as usize;
                p { strong { (format::count(all as u64)) } " in pool " (pool_name(&pool.status))
                    @if let Some(why) = &pool.shortage { ": " (why) } }
                @if !pool.waiting.is_empty() {
                    ol.line {
                        @for wait in &pool.waiting {
                            li value=(wait.position) { (link(wait.trajectory.as_str())) " "
                                small { "for " (format::duration(whole(wait.waited))) } }
                        }
                    }
                }
                @if all > pool.waiting.len() { p.more { "and " (format::count((all - pool.waiting.len()) as u64)) " more" } }
            }
        }
    }
}

fn pool_name(status: &PoolStatus) -> &str {
    match status.name.as_str() {
        "" => "default",
        name => name,
    }
}

fn pools(pools: &[PoolOverview], now: SystemTime) -> Markup {
    html! {
        h2 { "Containers and slots" }
        @if pools.is_empty() { p.nothing { "The service is ending: its containers are gone." } }
        @for pool in pools {
            @let status = &pool.status;
            h3 { "Pool " (pool_name(status)) " "
                small { (status.containers.len()) " of at most " (status.max_containers) " containers · "
                    (format::count(status.acquired_slots.into())) " slots taken, "
                    (format::count(status.available_slots.into())) " free"
                    @for (count, what) in [(status.starting_slots, "starting"), (status.resetting_slots, "being emptied"),
                        (status.quarantined_slots, "out of use")] {
                        @if count > 0 { ", " (format::count(count.into())) " " (what) }
                    }
                }
            }
            @if let Some(failure) = &status.last_start_failure {
                p.alarm { "The last container could not be started: " (failure) }
            }
            @if status.containers.is_empty() { p.nothing { "No container runs." } }
            div.containers {
                @for (index, container) in status.containers.iter().enumerate().take(CONTAINERS) {
                    (self::container(container, pool.slots.get(index).map(Vec::as_slice), now))
                }
            }
            @if let Some(rest) = status.containers.get(CONTAINERS..).filter(|rest| !rest.is_empty()) {
                p.more { "and " (rest.len()) " more containers with "
                    (format::count(rest.iter().map(|container| u64::from(container.total_slots)).sum())) " slots, "
                    (format::count(rest.iter().map(|container| u64::from(container.available_slots)).sum())) " of them free" }
            }
        }
        p.legend { @for (_, class, text) in STATES { span class=(class) { (text) } " " } }
    }
}

/// `slots`: none where there are too many to show each.
fn container(container: &ContainerStatus, slots: Option<&[SlotStatus]>, now: SystemTime) -> Markup {
    let name = container.id.as_ref().map_or_else(|| "being placed".to_owned(), ToString::to_string);
    let (total, free) = (container.total_slots, container.available_slots);
    let state = match container.state {
        ContainerState::Starting => "starting",
        ContainerState::Ready => "ready",
        ContainerState::Draining => "draining",
    };
    let label = format!("{total} slots, {free} of them free");
    html! {
        article class={ "container " (state) } {
            h4 title=(name) { (name) }
            p { @if !container.isolation.is_empty() { (container.isolation) " · " }
                @if !container.node.is_empty() { (container.node) " · " }
                (state) " for " (format::duration(whole(now.duration_since(container.since).unwrap_or_default()))) }
            @match slots {
                Some([]) if container.state == ContainerState::Starting => div.slots aria-label=(label) {
                    @for _ in 0..total { i.starting {} }
                }
                Some(slots) => div.slots aria-label=(label) {
                    @for (index, slot) in slots.iter().enumerate() { (self::slot(index, slot)) }
                }
                None => div.crowd {
                    svg.bar aria-hidden="true" {
                        rect.rail x="0" y="0" width="100%" height="100%" {}
                        rect.leased x="0" y="0" height="100%"
                            width={ (100.0 * f64::from(total - free.min(total)) / f64::from(total.max(1))) "%" } {}
                    }
                    (total - free.min(total)) " of " (total) " taken"
                }
            }
        }
    }
}

const STATES: [(SlotState, &str, &str); 5] = [
    (SlotState::Clean, "clean", "free"),
    (SlotState::Leased, "leased", "taken"),
    (SlotState::Kept, "kept", "free, with its owner's files"),
    (SlotState::Resetting, "resetting", "being emptied"),
    (SlotState::Quarantined, "quarantined", "out of use"),
];

fn slot(index: usize, slot: &SlotStatus) -> Markup {
    let known = STATES.iter().find(|(state, ..)| *state == slot.state);
    let (class, text) = known.map_or(("", ""), |(_, class, text)| (class, text));
    html! {
        @match &slot.trajectory {
            Some(id) => a class=(class) href=(super::render::address(id.as_str())) title={ (index) ": " (id) } {},
            None => i class=(class) title={ (index) ": " (text) } {},
        }
    }
}

fn traffic(recent: &Recent) -> Markup {
    if !knows_of_all(recent) {
        return html! {};
    }
    html! {
        h2 { "Calls" }
        @if recent.steps.iter().all(|ends| ends.all() == 0) {
            p.nothing { "No call was answered in the last ten minutes." }
        } @else {
            (chart::calls(&recent.steps))
            @if !recent.phases.is_empty() {
                h3 { "How long their phases took " small { "last ten minutes" } }
                (chart::phases(&recent.phases))
            }
        }
    }
}

fn faults(recent: &Recent, now: SystemTime) -> Markup {
    let mut seen: BTreeMap<Cause, Vec<&Arc<Fault>>> = BTreeMap::new();
    for fault in &recent.faults {
        seen.entry(fault.cause).or_default().push(fault);
    }
    // What was seen before the last ten minutes is told for as long as it is remembered.
    let causes: BTreeMap<Cause, u64> = seen
        .keys()
        .map(|cause| (*cause, 0))
        .chain(recent.causes.iter().map(|(cause, count)| (*cause, u64::from(*count))))
        .collect();
    html! {
        h2 { "What went wrong " small { "last ten minutes, and the latest of each cause" } }
        @if causes.is_empty() { p.nothing { "Nothing that is remembered." } }
        @for (cause, count) in causes {
            @let those = seen.get(&cause).map(Vec::as_slice).unwrap_or_default();
            details.cause data-key={ (cause.label) "/" (whose(cause.whose)) } open[cause.whose == Whose::Infrastructure] {
                summary { @if knows_of_all(recent) { strong { (format::count(count)) } " " } (format::words(cause.label)) " "
                    span class={ "whose " (whose(cause.whose)) } { (whose(cause.whose)) }
                    @if let Some(last) = those.first() {
                        " " small { (format::age(now.duration_since(last.at).unwrap_or_default())) } } }
                @for fault in those.iter().take(FAULTS_OF_A_CAUSE) { (self::fault(fault)) }
                @if those.is_empty() { p.nothing { "Nothing is known of them any more." } }
            }
        }
    }
}

fn whose(whose: Whose) -> &'static str {
    match whose {
        Whose::Infrastructure => "infrastructure",
        Whose::Client => "client",
        Whose::Model => "model",
        Whose::Nobody => "nobody",
    }
}

fn fault(fault: &Fault) -> Markup {
    html! {
        article.fault {
            p { time datetime=(format::iso(fault.at)) { (format::moment(fault.at)) } " · "
                (link(fault.trajectory.id.as_str())) " · call " span.id { (fault.call) } " · " (fault.tool.as_str())
                @if let Some(place) = &fault.place {
                    " · slot " (place.slot) " of " span.id { (place.container) }
                    @if !place.node.is_empty() { " on " (place.node) }
                }
            }
            p.error { (fault.error) }
            @if let Some(evidence) = &fault.evidence {
                @if !evidence.cause.is_empty() && evidence.cause != fault.error { p { (evidence.cause) } }
                @if !evidence.events.is_empty() { ul { @for event in &evidence.events { li { (event) } } } }
                @if !evidence.stderr_tail.is_empty() { pre { (evidence.stderr_tail) } }
            }
        }
    }
}

fn trajectories(snapshot: &Snapshot) -> Markup {
    let listed = &snapshot.trajectories;
    let all = usize::try_from(snapshot.counts.open_trajectories).unwrap_or(usize::MAX);
    html! {
        h2 { "Trajectories" }
        @if listed.is_empty() { p.nothing { "None is open." } } @else {
            table.trajectories {
                thead { tr { th scope="col" { "id" } th scope="col" { "calls" } th.wide scope="col" { "slot" }
                    th.wide scope="col" { "attended" } } }
                tbody { @for trajectory in listed { (row(trajectory)) } }
            }
        }
        @if all > listed.len() {
            p.more { "These are the first by their ids, of " (format::count(all as u64)) " that are open in all." }
        }
        form.find action="/trajectories" {
            label { "Find by id " input name="id" required autocomplete="off" spellcheck="false"; }
            button { "Show" }
        }
    }
}

fn row(Listed { id, description }: &Listed) -> Markup {
    let calls = [
        (description.running as u64, "running"),
        (description.waiting as u64, "waiting"),
        (description.finished, "done"),
    ];
    let calls: Vec<String> = calls
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", format::count(*count)))
        .collect();
    html! {
        tr {
            td { (link(id.as_str())) }
            td { (if calls.is_empty() { "none".to_owned() } else { calls.join(", ") }) }
            td.wide { @match &description.location {
                Some(location) => { (location.slot) " of " span.id { (location.container) } }
                None => "none",
            } }
            td.wide { (if description.attached { "by a stream" } else if description.lease_ends.is_some() { "by nobody" } else { "by a call" }) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ContainerId, PoolName, TrajectoryId};

    /// `told`: containers whose slots are told one by one.
    fn pool(containers: u32, slots: u32, told: usize) -> PoolOverview {
        let container = |number| ContainerStatus {
            id: Some(ContainerId::new(&format!("<{number}>"))),
            node: "\"node\"".to_owned(),
            state: ContainerState::Ready,
            isolation: "L0".to_owned(),
            total_slots: slots,
            available_slots: 0,
            since: SystemTime::UNIX_EPOCH,
            limits: Vec::new(),
        };
        let trajectory = TrajectoryId::parse(&"t".repeat(100)).expect("it is a name");
        let taken = SlotStatus { state: SlotState::Leased, trajectory: Some(trajectory) };
        let status = PoolStatus {
            name: PoolName::new(""),
            total_slots: containers * slots,
            available_slots: 0,
            acquired_slots: containers * slots,
            starting_slots: 0,
            resetting_slots: 0,
            quarantined_slots: 0,
            waiting_trajectories: 7,
            min_containers: 0,
            max_containers: containers,
            containers: (0..containers).map(container).collect(),
            last_start_failure: Some("<b>".to_owned()),
        };
        let slots = vec![vec![taken; slots as usize]; told];
        PoolOverview { status, slots, shortage: Some("all are <taken>".to_owned()), waiting: Vec::new() }
    }

    #[test]
    fn a_large_pool_stays_readable() {
        let page = pools(&[pool(200, 64, 16)], SystemTime::UNIX_EPOCH).into_string();
        assert!(page.contains("and 152 more containers with 9,728 slots, 0 of them free"), "{page}");
        assert_eq!(page.matches("<a class=\"leased\"").count(), 16 * 64);
        assert_eq!(page.matches("64 of 64 taken").count(), CONTAINERS - 16);
        assert!(page.len() < 400_000, "{} bytes", page.len());
    }

    #[test]
    fn what_others_have_written_is_text() {
        let pool = pool(1, 1, 1);
        let page = pools(std::slice::from_ref(&pool), SystemTime::UNIX_EPOCH).into_string();
        assert!(
            page.contains("&lt;b&gt;") && page.contains("&lt;0&gt;") && page.contains("&quot;node&quot;"),
            "{page}"
        );
        let line = waiting(&[pool]).into_string();
        assert!(line.contains("all are &lt;taken&gt;") && line.contains("and 7 more"), "{line}");
    }

    #[test]
    fn a_service_with_nothing_says_so() {
        assert!(waiting(&[]).into_string().is_empty());
        assert!(pools(&[], SystemTime::UNIX_EPOCH).into_string().contains("its containers are gone"));
        let young = Recent { steps: vec![Ends::default()], ..Recent::default() };
        assert!(traffic(&young).into_string().contains("No call was answered"));
        assert!(traffic(&Recent::default()).into_string().is_empty(), "it is not the reader's to know");
        assert!(
            faults(&Recent::default(), SystemTime::UNIX_EPOCH).into_string().contains("Nothing that is remembered")
        );
        assert!(rate(&Recent::default()).abs() < f64::EPSILON);
    }
}
