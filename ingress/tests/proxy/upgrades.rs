//! Websockets, and gRPC's way of using HTTP/2: trailers after the body, in both directions at once.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::{Bytes as Octets, Message};
use tokio_tungstenite::{accept_async, client_async};

use crate::lab::{Lab, READY, eventually, ingress, service};

use futures_util::{SinkExt as _, StreamExt as _};

/// Sends back what it gets.
async fn echoing_websocket() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = accept_async(stream).await else {
                    return;
                };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_binary() && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_passes_messages_both_ways_until_one_side_closes_it() {
    let backend = echoing_websocket().await;
    let protocol = ", appProtocol: kubernetes.io/ws";
    let manifests = [
        ingress("one", "ws.com", "ws", ""),
        service("ws", protocol, &[(backend, READY)]),
    ]
    .concat();
    let lab = Lab::start(&manifests, &["--tunnel-idle-timeout", "2s"]);
    let connect = || async {
        let stream = TcpStream::connect(lab.http).await.unwrap();
        client_async("ws://ws.com/chat", stream).await.unwrap()
    };
    let (mut socket, response) = connect().await;
    assert_eq!(response.status(), 101);
    for size in [1_usize, 1000, 300_000] {
        let sent = Octets::from(vec![7_u8; size]);
        socket.send(Message::Binary(sent.clone())).await.unwrap();
        let got = socket.next().await.unwrap().unwrap();
        assert_eq!(got.into_data(), sent);
    }
    assert_eq!(lab.metric("portolan_ingress_tunnels_total"), 1);
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    eventually("closed", || lab.metric("portolan_ingress_connections") == 0);
    let line = &lab.log(1)[0];
    assert_eq!(
        (&line["status"], &line["path"]),
        (&101.into(), &"/chat".into())
    );
    // One that is silent is closed in its time.
    let (mut silent, _) = connect().await;
    assert!(!matches!(silent.next().await, Some(Ok(Message::Binary(_)))));
}

/// A server of HTTP/2 alone: answers each message of the body with one, then trailers, as gRPC does.
async fn grpc_like() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_grpc_like(stream));
        }
    });
    address
}

async fn serve_grpc_like(stream: TcpStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(echo(request, respond));
    }
}

async fn echo(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    assert_eq!(request.headers()["te"], "trailers");
    let mut send = respond.send_response(Response::new(()), false).unwrap();
    let mut body = request.into_body();
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        send.send_data(piece, false).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    send.send_trailers(trailers).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_streams_both_ways_and_its_trailers_arrive() {
    let backend = grpc_like().await;
    let protocol = ", appProtocol: kubernetes.io/h2c";
    let manifests = [
        ingress("one", "grpc.com", "grpc", ""),
        service("grpc", protocol, &[(backend, READY)]),
    ]
    .concat();
    let lab = Lab::start(&manifests, &[]);
    let stream = TcpStream::connect(lab.http).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for call in 0..5 {
        let request = Request::post("http://grpc.com/pkg.Service/Method").header("te", "trailers");
        let request = request
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        client = client.ready().await.unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        // The first answer comes before the second question is asked.
        send.send_data(Bytes::from_static(b"one"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200, "call {call}");
        let mut body = response.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "one");
        send.send_data(Bytes::from_static(b"two"), true).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "two");
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    }
    assert_eq!(
        lab.metric("portolan_ingress_endpoint_connections_total"),
        1,
        "they share a connection"
    );
}
