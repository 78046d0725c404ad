//! The page in a real browser.

use serde_json::json;

use super::browser::Browser;
use crate::support::{
    client::{Stream, bash, execute},
    dying::kill,
    server::Server,
};

const TEXT: &str = "document.body.innerText";

#[tokio::test]
async fn a_person_sees_what_happens_without_loading_again() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start();
    browser.go(&format!("http://{}/", server.address)).await;
    browser.until("document.getElementById('live').dataset.state === 'live'").await;
    browser.value("window.loadedOnce = true").await;
    browser.until("document.querySelectorAll('.slots .clean').length === 4").await;

    let mut stream = Stream::open(&server, "seen").await;
    stream.batch(vec![bash("long", "sleep 60")]).await;
    browser.until("document.querySelector('.slots a.leased')?.title.endsWith('seen')").await;
    browser.until("document.querySelector('#trajectories tbody').innerText.includes('1 running')").await;

    server.agents().into_iter().for_each(kill);
    stream.result().await;
    browser.until("document.querySelector('#faults details[open]')?.innerText.includes('signal')").await;
    browser.until("document.querySelectorAll('svg.calls rect.infrastructure').length > 0").await;
    // What somebody has closed stays closed.
    browser.value("document.querySelector('#faults summary').click()").await;
    let uptime = browser.value("document.querySelector('#summary h1').innerText").await;
    browser.until(&format!("document.querySelector('#summary h1').innerText !== {uptime}")).await;
    browser.until("document.querySelector('#faults details[open]') === null").await;
    assert_eq!(browser.value("window.loadedOnce").await, true, "it is the page that was loaded");

    browser.value("document.querySelector('#trajectories tbody a').click()").await;
    browser
        .until("document.querySelector('.waterfall li.bad rect.execution, .waterfall li.bad rect.dispatch') !== null")
        .await;
}

#[tokio::test]
async fn without_its_script_the_page_is_whole() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start();
    assert!(execute(&server, "plain", bash("call", "true")).await.success);
    browser.tool("Emulation.setScriptExecutionDisabled", json!({"value": true})).await;
    browser.go(&format!("http://{}/", server.address)).await;
    let root = browser.tool("DOM.getDocument", json!({})).await;
    let html = browser.tool("DOM.getOuterHTML", json!({"nodeId": root["root"]["nodeId"]})).await;
    let html = html["outerHTML"].as_str().expect("the page has text");
    for wanted in [
        r#"data-state="still""#,
        "Snapshot of",
        "class=\"leased\"",
        "/trajectories/plain",
        "class=\"succeeded\"",
        "Without JavaScript",
    ] {
        assert!(html.contains(wanted), "{wanted} is not in {html}");
    }
}

#[tokio::test]
async fn it_fits_a_phone_and_is_dark_for_those_who_want_it() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start();
    let long = "very-long-name/".repeat(16);
    let odd = "<b onclick='alert(1)'>".repeat(11);
    execute(&server, &long, bash(&odd, "exit 1")).await;
    let phone = json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true});
    browser.tool("Emulation.setDeviceMetricsOverride", phone).await;
    let address = format!("http://{}", server.address);
    for path in ["/".to_owned(), format!("/trajectories/{}", long.replace('/', "%2F"))] {
        browser.go(&format!("{address}{path}")).await;
        browser.until("document.getElementById('live').dataset.state === 'live'").await;
        browser.value("document.querySelectorAll('details').forEach(details => details.open = true)").await;
        let (needs, has) =
            (browser.value("document.documentElement.scrollWidth").await, browser.value("innerWidth").await);
        assert_eq!((needs, has), (json!(360), json!(360)), "{path} needs no scrolling to the side");
        let text = browser.value(TEXT).await;
        assert!(text.as_str().is_some_and(|text| text.contains("<b onclick=")), "{path}: what is odd is text: {text}");
        assert_eq!(browser.value("document.querySelector('[onclick]')").await, json!(null));
    }
    let mut colors = Vec::new();
    for scheme in ["light", "dark"] {
        let wanted = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.tool("Emulation.setEmulatedMedia", wanted).await;
        let of_body = |what: &str| format!("getComputedStyle(document.body).{what}");
        colors.push((browser.value(&of_body("backgroundColor")).await, browser.value(&of_body("color")).await));
    }
    assert_ne!(colors[0].0, colors[1].0);
    assert_ne!(colors[0].1, colors[1].1);
}

#[tokio::test]
async fn a_browser_that_knows_the_password_sees_it_live() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::with(&[("TOKEN", "s3cret")]);
    // As if somebody had been asked and had typed it.
    browser.go(&format!("http://anybody:s3cret@{}/", server.address)).await;
    browser.go(&format!("http://{}/", server.address)).await;
    browser.until("document.getElementById('live').dataset.state === 'live'").await;
}
