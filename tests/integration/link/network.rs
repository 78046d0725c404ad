//! An agent that is reached over a network.

use std::net::{Ipv4Addr, TcpListener};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tonic::Code;
use tool_executor::{
    id::ContainerId,
    sandbox::client::{Address, ConnectError, Endpoint, Token, connect},
};

use super::bed::{assign, options, run, shell, try_attach};
use crate::support::{
    agent::{Agent, TOKEN},
    client::PATIENCE,
};

/// Of this moment; whoever is quicker may have it.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a port");
    listener.local_addr().expect("it has an address").port()
}

fn at(port: u16) -> Address {
    Address::Tcp(format!("127.0.0.1:{port}"))
}

fn private(port: u16, token: &str) -> Endpoint {
    Endpoint::private(at(port), Token::new(token)).expect("a certificate")
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_run_over_an_encrypted_channel() {
    let port = free_port();
    let _agent = Agent::on(port, 1);
    let connected = try_attach(private(port, TOKEN), options()).await.expect("it takes the executor");
    let mut slot = assign(&connected.link, 0);
    assert_eq!(&*run(&mut slot, 1, shell("echo hi")).await.stdout.head, b"hi\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_know_the_token_is_not_even_heard() {
    let port = free_port();
    let _agent = Agent::on(port, 1);
    let connected = try_attach(private(port, TOKEN), options()).await.expect("it takes the executor");
    // It sees another certificate than the one that it expects, and does not go on.
    let error = try_attach(private(port, "another"), options()).await.err().expect("it does not take the agent");
    assert!(matches!(error, ConnectError::Stranger(_)), "{error:?}");
    // In the clear there is no answer.
    let plain = Endpoint::new(at(port), Token::new(TOKEN));
    let plain = connect(ContainerId::new("container"), plain, options(), Instant::now() + PATIENCE / 20, &[]).await;
    let error = plain.err().expect("it does not take the executor");
    assert!(matches!(error, ConnectError::TooLate(_)), "{error:?}");
    let mut raw = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    raw.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("it is sent");
    let mut answer = Vec::new();
    // Cut off, or told in TLS that this is none.
    let _ = timeout(PATIENCE, raw.read_to_end(&mut answer)).await.expect("it is cut off");
    assert!(answer.len() < 16, "{answer:?}");
    let mut slot = assign(&connected.link, 0);
    assert_eq!(&*run(&mut slot, 1, shell("echo still there")).await.stdout.head, b"still there\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_container_is_not_taken_for_this_ones() {
    let port = free_port();
    let _agent = Agent::on(port, 1);
    let deadline = Instant::now() + PATIENCE;
    let refused = connect(ContainerId::new("mine"), private(port, TOKEN), options(), deadline, &[]).await;
    let error = refused.err().expect("it is refused");
    assert!(matches!(&error, ConnectError::Another(name) if name == "container"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_although_the_channel_is_private() {
    let port = free_port();
    let _agent = Agent::on(port, 1);
    let mut endpoint = private(port, TOKEN);
    endpoint.token = Token::new("another");
    let error = try_attach(endpoint, options()).await.err().expect("it is refused");
    assert!(matches!(&error, ConnectError::Forbidden(status) if status.code() == Code::Unauthenticated), "{error:?}");
}
