//! The WebSocket of the real agent, through the sidecar: how it ends, and what does not reach it.

use std::time::Duration;

use serde_json::{Value, json};
use shared::id::Epoch;
use shared::secret::Secret;
use tempfile::TempDir;
use testbed::agent::{Agent, AgentSpec};
use testbed::lone_sidecar::{LoneSidecar, LoneSpec};
use testbed::model_stub::ModelStub;
use testbed::raw_ws::{CLOSE, Frame, RawSocket, TEXT, close_payload, encode};

use crate::support::{SECRET, sidecar, tools, user};

const LIMIT: Duration = Duration::from_secs(60);
const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

struct Bed {
    agent: Agent,
    sidecar: LoneSidecar,
    _model: ModelStub,
    _dir: TempDir,
}

impl Bed {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = ModelStub::start(0).await.unwrap();
        let mut spec = LoneSpec {
            program: sidecar(),
            dir: dir.path().join("sidecar"),
            signing_secret: Secret::new(SECRET).unwrap(),
            user: user("user_abc123"),
            agent: ([127, 0, 0, 1], 0).into(),
        };
        let agent = Agent::start(&AgentSpec {
            node: tools().node(),
            entry: tools().agent_entry(),
            dir: dir.path().join("agent"),
            model_url: model.url(),
            gateway_token: spec.gateway_token(),
            port: None,
        })
        .await
        .unwrap();
        spec.agent = agent.addr();
        let sidecar = LoneSidecar::start(&spec).await.unwrap();
        Self { agent, sidecar, _model: model, _dir: dir }
    }

    /// A client that has been let in.
    async fn client(&self) -> Client {
        let ticket = self.sidecar.ticket(Epoch(1));
        let headers = [("x-automna-ticket", ticket.as_str())];
        let mut client = Client(RawSocket::open(self.sidecar.addr(), "/ws", &headers).await.unwrap());
        client.until(|event| event["event"] == "connect.challenge").await;
        let answer = client
            .call(
                "connect",
                json!({"minProtocol": 3, "maxProtocol": 3, "caps": [], "role": "operator",
                "client": {"id": "webchat", "version": "1", "platform": "web", "mode": "webchat"}}),
            )
            .await;
        assert_eq!(answer["ok"], true, "{answer}");
        client
    }
}

struct Client(RawSocket);

impl Client {
    async fn next(&mut self) -> Option<Frame> {
        tokio::time::timeout(LIMIT, self.0.next()).await.expect("nothing comes").unwrap()
    }

    async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let frame = self.next().await.expect("the stream has ended");
            assert_eq!((frame.opcode, frame.fin), (TEXT, true), "{frame:?}");
            let value: Value = serde_json::from_slice(&frame.payload).unwrap();
            if wanted(&value) {
                return value;
            }
        }
    }

    /// Calls the agent; returns its answer.
    async fn call(&mut self, method: &str, params: Value) -> Value {
        let call = json!({"type": "req", "id": method, "method": method, "params": params});
        self.0.send(&encode(true, TEXT, MASK, call.to_string().as_bytes())).await.unwrap();
        self.until(|value| value["type"] == "res" && value["id"] == method).await
    }

    /// Up to the goodbye, the close and the end, in this order. A reset would be an error.
    async fn ends_well(&mut self) {
        self.until(|event| event["event"] == "shutdown").await;
        let close = self.next().await.expect("no close");
        assert_eq!((close.opcode, close.payload), (CLOSE, close_payload(1012, b"service restart")));
        self.0.send(&encode(true, CLOSE, MASK, &close_payload(1012, b""))).await.unwrap();
        assert_eq!(self.next().await, None);
    }
}

#[tokio::test]
async fn a_transcript_is_not_cut_and_every_end_is_a_clean_close() {
    let bed = Bed::start().await;
    let mut client = bed.client().await;
    let message = json!({"sessionKey": "agent:main:main", "message": "hello", "idempotencyKey": "i1"});
    assert_eq!(client.call("chat.send", message).await["ok"], true);
    client.until(|event| event["event"] == "chat" && event["payload"]["state"] == "final").await;
    let history = json!({"sessionKey": "agent:main:main"});
    let before = client.call("chat.history", history.clone()).await["payload"]["messages"].clone();
    assert_eq!(before.as_array().unwrap().len(), 2, "{before}");

    let answer = client.call("sessions.compact", json!({"key": "agent:main:main", "maxLines": 1})).await;
    assert_eq!((&answer["ok"], &answer["error"]["code"]), (&json!(false), &json!("INVALID_REQUEST")));
    assert!(answer["error"]["message"].as_str().unwrap().contains("not available here"), "{answer}");
    assert_eq!(client.call("chat.history", history).await["payload"]["messages"], before);

    // Killed, with a client that is in the middle of something.
    let mut second = bed.client().await;
    let Bed { agent, sidecar, _model, _dir } = bed;
    agent.kill().await.unwrap();
    client.ends_well().await;
    second.ends_well().await;
    sidecar.stop().await.unwrap();
}

#[tokio::test]
async fn an_agent_that_is_asked_to_end_says_so_through_the_sidecar() {
    let bed = Bed::start().await;
    let mut client = bed.client().await;
    let Bed { agent, sidecar, _model, _dir } = bed;
    let (stopped, ()) = tokio::join!(agent.stop(), client.ends_well());
    stopped.unwrap();
    sidecar.stop().await.unwrap();
}
