//! The client against real sockets.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::Request, http::StatusCode, response::IntoResponse, routing::any};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Config,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};

use super::{ClientSettings, Clients, RequestOutcome, RequestVerb, Requests, explain};
use crate::{
    credential::AddressRules,
    lease::{WriteGate, WriteRefused},
};

#[derive(Default)]
struct Seen(Mutex<Vec<(RequestVerb, RequestOutcome)>>);

impl Requests for Seen {
    fn ended(&self, verb: RequestVerb, outcome: RequestOutcome, _: bool) {
        self.0.lock().unwrap().push((verb, outcome));
    }
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn settings(gate: WriteGate, seen: &Arc<Seen>) -> ClientSettings {
    ClientSettings { gate, addresses: None, requests: Some(Arc::clone(seen) as Arc<dyn Requests>) }
}

fn config(host: &str, port: u16) -> Config {
    Config::new(format!("http://{host}:{port}").parse().unwrap())
}

#[tokio::test]
async fn requests_pass_the_gate_are_named_and_counted() {
    let agents = Arc::new(Mutex::new(Vec::new()));
    let router = Router::new().fallback(any({
        let agents = Arc::clone(&agents);
        move |request: Request| {
            agents.lock().unwrap().push(request.headers()["user-agent"].to_str().unwrap().to_owned());
            async { (StatusCode::OK, r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#).into_response() }
        }
    }));
    let address = serve(router).await;
    let seen = Arc::new(Seen::default());
    let map = ConfigMap { metadata: ObjectMeta { name: Some("a".into()), ..ObjectMeta::default() }, ..ConfigMap::default() };

    let open = Clients::new(&config("127.0.0.1", address.port()), &settings(WriteGate::always_open(), &seen)).unwrap();
    Api::<ConfigMap>::namespaced(open.rpc, "x").create(&PostParams::default(), &map).await.unwrap();
    let closed = Clients::new(&config("127.0.0.1", address.port()), &settings(WriteGate::closed(), &seen)).unwrap();
    let api = Api::<ConfigMap>::namespaced(closed.rpc, "x");
    let refused = api.create(&PostParams::default(), &map).await.unwrap_err();
    assert!(WriteRefused::caused(&refused), "{refused:?}");
    assert!(explain(&refused).contains("not sure to be the leader"), "{}", explain(&refused));
    api.get("a").await.unwrap();

    let expected = [
        (RequestVerb::Create, RequestOutcome::Success),
        (RequestVerb::Create, RequestOutcome::NotLeading),
        (RequestVerb::Read, RequestOutcome::Success),
    ];
    assert_eq!(*seen.0.lock().unwrap(), expected);
    let agents = agents.lock().unwrap();
    assert!(agents.len() == 2 && agents.iter().all(|agent| agent.starts_with("aifactory-operator/")), "{agents:?}");
}

#[tokio::test]
async fn errors_are_explained_and_never_retried() {
    let router = Router::new().fallback(any(|| async {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"busy","reason":"ServiceUnavailable","code":503}"#,
        )
    }));
    let address = serve(router).await;
    let seen = Arc::new(Seen::default());
    let clients = Clients::new(&config("127.0.0.1", address.port()), &settings(WriteGate::always_open(), &seen)).unwrap();
    let error = Api::<ConfigMap>::namespaced(clients.rpc, "x").get("a").await.unwrap_err();
    assert_eq!(explain(&error), "busy");
    assert_eq!(*seen.0.lock().unwrap(), [(RequestVerb::Read, RequestOutcome::ServerError)]);

    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let clients = Clients::new(&config("127.0.0.1", port), &settings(WriteGate::always_open(), &seen)).unwrap();
    let error = Api::<ConfigMap>::namespaced(clients.rpc, "x").get("a").await.unwrap_err();
    assert!(explain(&error).contains("refused") && !explain(&error).contains("Error("), "{}", explain(&error));
}

#[tokio::test]
async fn a_name_that_leads_to_a_forbidden_address_gets_no_packet() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = ClientSettings { gate: WriteGate::always_open(), addresses: Some(AddressRules::default()), requests: None };
    let clients = Clients::new(&config("localhost", port), &settings).unwrap();
    let error = Api::<ConfigMap>::namespaced(clients.rpc, "x").get("a").await.unwrap_err();
    assert!(
        explain(&error).contains("not allowed (loopback)") || explain(&error).contains("not allowed (unspecified or loopback)"),
        "{}",
        explain(&error)
    );
    assert!(timeout(Duration::from_millis(50), listener.accept()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_costs_a_known_time_and_gives_one_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Without TLS it is the answer that never comes, with TLS the connection.
    for scheme in ["http", "https"] {
        let seen = Arc::new(Seen::default());
        let config = Config::new(format!("{scheme}://127.0.0.1:{port}").parse().unwrap());
        let clients = Clients::new(&config, &settings(WriteGate::always_open(), &seen)).unwrap();
        let began = Instant::now();
        let error = Api::<ConfigMap>::namespaced(clients.rpc, "x").get("a").await.unwrap_err();
        assert!(began.elapsed() <= super::CALL_TIMEOUT, "{:?}", began.elapsed());
        assert_eq!(explain(&error), "no answer in time", "{scheme}: {error:?}");
        assert_eq!(*seen.0.lock().unwrap(), [(RequestVerb::Read, RequestOutcome::Unanswered)]);
    }
}

#[test]
fn proxies_are_refused() {
    let mut config = config("127.0.0.1", 1);
    config.proxy_url = Some("http://proxy.example:3128".parse().unwrap());
    let settings = ClientSettings { gate: WriteGate::always_open(), addresses: None, requests: None };
    assert!(Clients::new(&config, &settings).is_err());
}
