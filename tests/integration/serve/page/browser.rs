//! A real browser, driven over WebDriver: Chromium without a window.

use std::{
    env,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::support::{client::PATIENCE, dying::kill, http::Request, process, skip};

/// One window of its own, with a profile of its own; dropped, the browser is ended.
pub(super) struct Browser {
    driver: Child,
    address: String,
    session: String,
    _profile: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        process::tree(self.driver.id()).into_iter().for_each(kill);
        let _ = self.driver.wait();
    }
}

impl Browser {
    /// `None` where there is none on this machine and need not be.
    pub(super) async fn start() -> Option<Self> {
        let program = env::var("TOOL_EXECUTOR_CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
        let driver = env::var("TOOL_EXECUTOR_CHROMEDRIVER").unwrap_or_else(|_| "chromedriver".to_owned());
        if !std::path::Path::new(&program).exists() {
            return skip(&program);
        }
        let mut driver =
            match Command::new(&driver).arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn() {
                Ok(driver) => driver,
                Err(error) => return skip(&format!("{driver}: {error}")),
            };
        let mut said = BufReader::new(driver.stdout.take().expect("stdout is a pipe")).lines().map_while(Result::ok);
        let port = said.find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        let address = format!("127.0.0.1:{}", port.expect("the driver says its port"));
        // It has more to say, and must not find the pipe closed.
        std::thread::spawn(move || said.for_each(drop));
        let profile = TempDir::new().expect("a directory");
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1200,1500",
        ];
        let own = format!("--user-data-dir={}", profile.path().display());
        let arguments: Vec<&str> = arguments.into_iter().chain([&*own]).collect();
        let options = json!({"binary": program, "args": arguments});
        let mut browser = Self { driver, address, session: String::new(), _profile: profile };
        let wanted = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}});
        let session = browser.ask("/session", &wanted).await;
        browser.session = format!("/session/{}", session["sessionId"].as_str().expect("a session has an id"));
        Some(browser)
    }

    async fn ask(&self, path: &str, body: &Value) -> Value {
        let connection = Request::post(&self.address, &format!("{}{path}", self.session), body).start().await;
        let mut answer = timeout(PATIENCE, read(connection)).await.expect("the browser answers in time");
        assert!(answer["value"]["error"].is_null(), "{path} {body}: {answer}");
        answer["value"].take()
    }

    pub(super) async fn go(&self, url: &str) {
        self.ask("/url", &json!({"url": url})).await;
    }

    /// What the expression is on the page.
    pub(super) async fn value(&self, expression: &str) -> Value {
        let script = format!("return ({expression})");
        self.ask("/execute/sync", &json!({"script": script, "args": []})).await
    }

    /// Waits until the expression is true on the page.
    pub(super) async fn until(&self, expression: &str) {
        let begun = Instant::now();
        while self.value(expression).await != true {
            let text = self.value("document.body.innerText").await;
            assert!(begun.elapsed() < PATIENCE, "not so: {expression} in {text}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A command of the DevTools protocol.
    pub(super) async fn tool(&self, command: &str, parameters: Value) -> Value {
        self.ask("/goog/cdp/execute", &json!({"cmd": command, "params": parameters})).await
    }
}

/// The driver leaves its connections open: what it says ends where it says that it does.
async fn read(connection: TcpStream) -> Value {
    let mut connection = tokio::io::BufReader::new(connection);
    let mut length = None;
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).await.expect("the driver answers");
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().ok(),
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length.expect("the driver says how long its answer is")];
    connection.read_exact(&mut body).await.expect("the answer is whole");
    serde_json::from_slice(&body).expect("the driver answers in JSON")
}
