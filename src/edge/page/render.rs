//! The frame of every page. What is inside changes section by section: the script puts what the server has rendered
//! in the place of what the server had rendered before, so that a page without the script shows the same.
//!
//! Whatever is not this program's own text is escaped: maud does that for everything that it is not told not to.

use std::time::SystemTime;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::format;

/// A part of a page, by the id of its element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) html: String,
}

/// Those of a page, in their order.
pub(super) type Sections = Vec<Section>;

pub(super) fn section(name: &'static str, content: Markup) -> Section {
    Section { name, html: content.into_string() }
}

/// `events`: the address of what happens from now on; none of a page that stays as it is.
pub(super) fn document(title: &str, sections: &[Section], events: Option<&str>, at: SystemTime) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="stylesheet" href="/page.css";
                link rel="icon" href="data:,";
                @if events.is_some() { script src="/page.js" defer {} }
            }
            body data-events=[events] {
                header {
                    a.brand href="/" { span.mark aria-hidden="true" {} "tool-executor" }
                    p #live role="status" data-state="still" {
                        "Snapshot of " time datetime=(format::iso(at)) { (format::moment(at)) }
                    }
                }
                main {
                    @for section in sections {
                        section id=(section.name) { (PreEscaped(&section.html)) }
                    }
                }
                footer {
                    "tool-executor " (env!("CARGO_PKG_VERSION")) " · "
                    a href="/docs" { "HTTP API" } " · " a href="/metrics" { "metrics" }
                    noscript { " · Without JavaScript this page stays as it is: load it again for what is new." }
                }
            }
        }
    }
    .into_string()
}

/// Says why there is nothing to see.
pub(super) fn sorry(title: &str, text: &str) -> String {
    let content = html! {
        h1 { (title) }
        p { (text) }
        p { a href="/" { "To the service" } }
    };
    document(title, &[section("sorry", content)], None, SystemTime::now())
}

/// The page of a trajectory: its id has no other characters that mean something in an address.
pub(super) fn address(trajectory: &str) -> String {
    format!("/trajectories/{}", trajectory.replace('/', "%2F"))
}

/// A link to the page of a trajectory.
pub(super) fn link(trajectory: &str) -> Markup {
    html! { a.id href=(address(trajectory)) { (trajectory) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        let page =
            document("a <title>", &[section("a", html! { "<script>" })], Some("/events?x=1&y=\"2"), SystemTime::now());
        assert!(!page.contains("://"), "{page}");
        assert!(page.contains("<title>a &lt;title&gt;</title>") && page.contains("&lt;script&gt;"), "{page}");
        assert!(page.contains(r#"data-events="/events?x=1&amp;y=&quot;2""#), "{page}");
    }

    #[test]
    fn an_id_stays_one_part_of_its_address() {
        assert_eq!(address("run-7/3"), "/trajectories/run-7%2F3");
    }
}
