// Puts what the server has rendered in the place of what it had rendered before. Pages do without it.
"use strict";

const live = document.getElementById("live");
const RETRY = 5000;
// What somebody has opened or closed stays so.
const toggled = new Map();

function say(state, text) {
  live.dataset.state = state;
  live.textContent = text;
}

function replace(id, html) {
  const section = document.getElementById(id);
  if (!section) return;
  // Whoever is about to type is not disturbed.
  if (section.contains(document.activeElement) && document.activeElement.tagName === "INPUT") return;
  section.innerHTML = html;
  for (const details of section.querySelectorAll("details[data-key]")) {
    if (toggled.has(details.dataset.key)) details.open = toggled.get(details.dataset.key);
  }
}

// By a click or a key: what the server opens by itself is not meant.
document.addEventListener("click", ({ target }) => {
  const summary = target.closest("summary");
  if (summary) toggled.set(summary.parentElement.dataset.key, !summary.parentElement.open);
});

function watch() {
  const events = new EventSource(document.body.dataset.events);
  events.addEventListener("sections", ({ data }) => {
    say("live", "Live");
    for (const [id, html] of Object.entries(JSON.parse(data))) replace(id, html);
  });
  events.onerror = () => {
    say("lost", "Not connected: this is how it was at " + new Date().toLocaleTimeString());
    // A refusal is final for the browser, and is not for us.
    if (events.readyState === EventSource.CLOSED) setTimeout(watch, RETRY);
  };
}

watch();
