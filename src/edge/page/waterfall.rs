//! One trajectory as a page: its calls under one another, each with its phases where they were in time.
//!
//! An agent thinks for longer than its calls run: time in which no call was under way is cut short, so that what did
//! happen has room.

use std::time::{Duration, Instant, SystemTime};

use maud::{Markup, html};

use super::{
    format,
    render::{Sections, section},
    snapshot::CALLS,
};
use crate::{
    id::TrajectoryId,
    tool::{CallResult, Timings},
    trajectory::{Description, Inspection, LiveCall},
};

/// A gap takes this share of all the time in which something happened, or less.
const GAP: f64 = 0.02;
/// The class of each phase, in their order.
const PHASES: [(&str, &str); 5] = [
    ("queued", "queued"),
    ("slot-wait", "slot wait"),
    ("dispatch", "dispatch"),
    ("execution", "execution"),
    ("collection", "collection"),
];

pub(super) fn sections(id: &TrajectoryId, seen: &Inspection, at: SystemTime) -> Sections {
    vec![section("about", about(id, &seen.description, at)), section("calls", calls(seen, at))]
}

fn about(id: &TrajectoryId, description: &Description, at: SystemTime) -> Markup {
    let lease = description.lease_ends.map(|ends| ends.saturating_duration_since(Instant::now()));
    let lease = lease.map(|left| format::duration(Duration::from_secs(left.as_secs())));
    let fact = |name: &str, value: Markup| html! { div { dt { (name) } dd { (value) } } };
    html! {
        h1 { span.id { (id) } }
        dl.facts {
            (fact("state", html! { (match (description.open, description.attached) {
                (false, _) => "over: its results are kept for late retries",
                (true, true) => "open, a stream is attached",
                (true, false) => "open",
            }) }))
            (fact("opened", html! { (format::age(at.duration_since(description.opened_at).unwrap_or_default())) }))
            (fact("calls", html! { (description.running) " running, " (description.waiting) " waiting, "
                (format::count(description.finished)) " done" }))
            (fact("workspace", html! { @if description.generation.0 == 0 { "none yet" } @else { "generation " (description.generation) } }))
            (fact("slot", html! { @match &description.location {
                Some(place) => { (place.slot) " of " span.id { (place.container) }
                    @if !place.node.is_empty() { " on " (place.node) } }
                None => "none",
            } }))
            @if let Some(lease) = lease { (fact(if description.open { "lease ends in" } else { "forgotten in" }, html! { (lease) })) }
            @for (name, value) in &description.options.labels { (fact(name, html! { (value) })) }
        }
    }
}

/// One call as a row.
struct Row<'a> {
    call: &'a str,
    /// Whether it is over, and how.
    end: String,
    class: &'static str,
    error: &'a str,
    from: SystemTime,
    /// By [`PHASES`].
    phases: [Duration; PHASES.len()],
}

impl Row<'_> {
    fn took(&self) -> Duration {
        self.phases.iter().sum()
    }
}

fn ended(result: &CallResult) -> Row<'_> {
    let Timings { received_at, queued, slot_wait, dispatch, execution, collection } = result.timings;
    let label = result.reason.map_or(result.outcome.label(), |reason| reason.label());
    let is_fault = result.attribution == Some(crate::tool::Attribution::Infrastructure);
    Row {
        call: result.call_id.as_str(),
        end: format::words(label),
        class: if is_fault {
            "bad"
        } else if result.error.is_empty() {
            "good"
        } else {
            "failed"
        },
        error: &result.error,
        from: received_at,
        phases: [queued, slot_wait, dispatch, execution, collection],
    }
}

fn live(call: &LiveCall) -> Row<'_> {
    let running = call.running.unwrap_or_default();
    Row {
        call: call.id.as_str(),
        end: format!("{} {}", call.tool.as_str(), if call.running.is_some() { "runs" } else { "waits" }),
        class: "live",
        error: "",
        from: call.received_at,
        phases: [call.queued, call.slot_wait, Duration::ZERO, running, Duration::ZERO],
    }
}

fn calls(seen: &Inspection, at: SystemTime) -> Markup {
    let rows: Vec<Row<'_>> =
        seen.results.iter().map(|result| ended(result)).chain(seen.live.iter().map(live)).collect();
    let axis = Axis::new(rows.iter().map(|row| (row.from, row.from + row.took())));
    let earlier = seen.description.finished.saturating_sub(seen.results.len() as u64);
    html! {
        h2 { "Calls" }
        @if rows.is_empty() { p.nothing { "No call has come." } } @else {
            p.legend { @for (class, name) in PHASES { span class=(class) { (name) } " " } }
        }
        @if earlier > 0 { p.more { (format::count(earlier)) " earlier ones are not shown." } }
        ol.waterfall { @for row in &rows { (self::row(row, &axis, at)) } }
        @if seen.live.len() == CALLS { p.more { "There may be more that wait." } }
    }
}

fn row(row: &Row<'_>, axis: &Axis, now: SystemTime) -> Markup {
    let mut from = row.from;
    let bars = PHASES.iter().zip(row.phases).filter_map(|((class, name), took)| {
        let (x, to) = (axis.place(from), axis.place(from + took));
        from += took;
        (!took.is_zero()).then_some((class, name, took, x, to - x))
    });
    html! {
        li class=(row.class) {
            p.what { span.id title=(row.call) { (row.call) } " " span.end { (row.end) } }
            svg.bar role="img" aria-label={ (format::duration(row.took())) " in all" } {
                rect.rail x="0" y="48%" width="100%" height="4%" {}
                @for (class, name, took, x, width) in bars {
                    rect class=(class) x={ (format!("{x:.2}")) "%" } y="10%" height="80%"
                        width={ (format!("{:.2}", width.max(0.3))) "%" } { title { (name) ": " (format::duration(took)) } }
                }
            }
            p.took { (format::duration(row.took()))
                small { (format::age(now.duration_since(row.from).unwrap_or_default())) } }
            @if !row.error.is_empty() { p.error { (row.error) } }
        }
    }
}

/// Where a time is, in percent.
#[derive(Debug)]
struct Axis {
    /// In which something happened, in order and apart, each with its place.
    busy: Vec<(SystemTime, SystemTime, f64)>,
    /// Percent of a second.
    scale: f64,
}

impl Axis {
    fn new(times: impl Iterator<Item = (SystemTime, SystemTime)>) -> Self {
        let mut times: Vec<_> = times.collect();
        times.sort();
        let mut busy: Vec<(SystemTime, SystemTime)> = Vec::new();
        for (from, to) in times {
            match busy.last_mut() {
                Some((_, end)) if from <= *end => *end = to.max(*end),
                _ => busy.push((from, to)),
            }
        }
        let seconds = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default().as_secs_f64();
        let happened: f64 = busy.iter().map(|(from, to)| seconds(*from, *to)).sum();
        // All gaps together have at most as much room as what happened.
        let longest_gap = happened * GAP.min(1.0 / busy.len().max(1) as f64);
        let mut at = 0.0;
        let mut end: Option<SystemTime> = None;
        let mut placed = Vec::with_capacity(busy.len());
        for (from, to) in busy {
            at += end.map_or(0.0, |end| seconds(end, from).min(longest_gap));
            placed.push((from, to, at));
            at += seconds(from, to);
            end = Some(to);
        }
        let scale = 100.0 / if at > 0.0 { at } else { 1.0 };
        placed.iter_mut().for_each(|(_, _, at)| *at *= scale);
        Self { busy: placed, scale }
    }

    fn place(&self, time: SystemTime) -> f64 {
        let after = self.busy.partition_point(|(from, ..)| *from <= time);
        let Some((from, to, at)) = after.checked_sub(1).and_then(|index| self.busy.get(index)) else { return 0.0 };
        let into = time.min(*to).duration_since(*from).unwrap_or_default().as_secs_f64();
        (at + into * self.scale).clamp(0.0, 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    fn axis(times: &[(f64, f64)]) -> Axis {
        Axis::new(times.iter().map(|(from, to)| (at(*from), at(*to))))
    }

    #[test]
    fn time_in_which_nothing_happens_is_cut_short() {
        let axis = axis(&[(1000.0, 1001.0), (0.0, 1.0), (0.5, 2.0)]);
        let place = |seconds| axis.place(at(seconds));
        assert!(place(0.0).abs() < 0.001 && (place(1001.0) - 100.0).abs() < 0.001, "{axis:?}");
        assert!((place(2.0) - 2.0 * place(1.0)).abs() < 0.001, "a second is as long as another");
        let gap = place(1000.0) - place(2.0);
        assert!(gap > 1.0 && gap < 2.5, "{gap}");
        assert!(place(500.0) <= place(1000.0));
    }

    #[test]
    fn a_short_pause_is_as_long_as_it_was() {
        let axis = axis(&[(0.0, 1.0), (1.01, 2.0)]);
        assert!((axis.place(at(1.01)) - 50.5).abs() < 0.01, "{axis:?}");
    }

    #[test]
    fn odd_times_have_a_place() {
        for times in [&[][..], &[(5.0, 5.0)], &[(5.0, 5.0), (5.0, 5.0), (7.0, 7.0)]] {
            let axis = axis(times);
            for seconds in [0.0, 5.0, 6.0, 1e9] {
                assert!((0.0..=100.0).contains(&axis.place(at(seconds))), "{axis:?}");
            }
        }
    }
}
