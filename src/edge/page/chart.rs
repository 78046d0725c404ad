//! Charts, as SVG: attributes alone, since the page's policy allows no style in them.

use std::time::Duration;

use maud::{Markup, html};

use super::{
    format,
    history::{Ends, PHASES, STEP, STEPS, Spread, Whose},
};

/// Of a step of the chart of calls.
const BAR: usize = 5;
const HEIGHT: f64 = 100.0;

/// From below: what went well is the ground that the rest stands on.
const STACK: [(Whose, &str, &str); 4] = [
    (Whose::Nobody, "succeeded", "succeeded"),
    (Whose::Model, "model", "failed: the model's doing"),
    (Whose::Client, "client", "failed: the client's doing"),
    (Whose::Infrastructure, "infrastructure", "failed: the infrastructure's doing"),
];

/// Answers by step, the present one last.
pub(super) fn calls(steps: &[Ends]) -> Markup {
    let most = steps.iter().map(Ends::all).max().unwrap_or_default();
    let scale = HEIGHT / f64::from(most.max(1));
    let first = STEPS.saturating_sub(steps.len());
    let per_second = f64::from(most) / STEP.as_secs_f64();
    let total: u64 = steps.iter().map(|ends| u64::from(ends.all())).sum();
    html! {
        figure {
            svg.calls viewBox={ "0 0 " (STEPS * BAR) " 100" } preserveAspectRatio="none" role="img"
                aria-label={ (format::count(total)) " calls answered in the last ten minutes" } {
                @for (index, ends) in steps.iter().enumerate().filter(|(_, ends)| ends.all() > 0) {
                    @let x = (first + index) * BAR;
                    g {
                        title { (tip(ends, steps.len() - 1 - index)) }
                        @let mut top = HEIGHT;
                        @for (whose, class, _) in STACK {
                            @if ends.of(whose) > 0 {
                                // What there is, is seen.
                                @let height = (f64::from(ends.of(whose)) * scale).max(1.5);
                                @let y = { top -= height; top.max(0.0) };
                                rect class=(class) x=(x) y=(format!("{y:.1}")) width=(BAR - 1) height=(format!("{height:.1}")) {}
                            }
                        }
                    }
                }
            }
            figcaption {
                span { "10 minutes ago" }
                span { "at most " (rate(per_second)) " a second" }
                span { "now" }
            }
        }
        p.legend { @for (_, class, text) in STACK { span class=(class) { (text) } " " } }
    }
}

fn tip(ends: &Ends, steps_ago: usize) -> String {
    let counts = STACK.iter().filter(|(whose, ..)| ends.of(*whose) > 0);
    let counts: Vec<String> = counts.map(|(whose, _, text)| format!("{} {text}", ends.of(*whose))).collect();
    let ago = STEP * u32::try_from(steps_ago).unwrap_or(u32::MAX);
    format!("{}: {}", format::age(ago), counts.join(", "))
}

pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate <= 0.0 => "0".to_owned(),
        rate if rate < 9.95 => format!("{rate:.1}"),
        rate => format::count(rate.round() as u64),
    }
}

/// How long phases take: a table with a bar each, from the median to all but one of a hundred.
pub(super) fn phases(phases: &[Spread]) -> Markup {
    html! {
        table.phases {
            thead { tr { th scope="col" { "phase" } th.wide scope="col" { "median to 99%" }
                th scope="col" { "median" } th.wide scope="col" { "90%" } th scope="col" { "99%" } th scope="col" { "longest" } } }
            tbody {
                @for (name, spread) in PHASES.iter().zip(phases) {
                    tr {
                        th scope="row" { (name) }
                        td.wide { (bar(spread, name)) }
                        td { (format::duration(spread.median)) }
                        td.wide { (format::duration(spread.p90)) }
                        td { (format::duration(spread.p99)) }
                        td { (format::duration(spread.longest)) }
                    }
                }
            }
        }
    }
}

fn bar(spread: &Spread, phase: &str) -> Markup {
    let (from, to) = (place(spread.median), place(spread.p99));
    html! {
        svg.bar aria-hidden="true" {
            rect.rail x="0" y="45%" width="100%" height="10%" {}
            rect class=(phase.replace(' ', "-")) x={ (format!("{from:.1}")) "%" } y="15%" rx="2"
                width={ (format!("{:.1}", (to - from).max(1.0))) "%" } height="70%" {}
        }
    }
}

/// Of a time, in percent of a bar: from 0.1 ms to an hour, each tenfold as wide as the next.
fn place(time: Duration) -> f64 {
    const SHORTEST: f64 = 1e-4;
    const LONGEST: f64 = 3.6e3;
    let share = (time.as_secs_f64().max(SHORTEST) / SHORTEST).ln() / (LONGEST / SHORTEST).ln();
    share.min(0.99) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_stays_in_its_place() {
        assert!(place(Duration::ZERO) < 0.001);
        assert!(place(Duration::from_secs(1)) > place(Duration::from_millis(1)));
        assert!(place(Duration::MAX) <= 99.0);
    }

    #[test]
    fn a_chart_of_nothing_is_empty() {
        assert!(!calls(&[]).into_string().contains("<rect"));
        assert!(!calls(&[Ends::default(); STEPS]).into_string().contains("<rect"));
    }
}
