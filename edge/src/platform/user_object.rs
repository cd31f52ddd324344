//! A user's object: the authority over that user's placement. It stores the record, in SQLite, before it tells
//! anybody about it, and keeps the history of its changes.

use std::cell::RefCell;

use serde::Deserialize;
use shared::id::UserId;
use shared::time::UnixSeconds;
use wasm_bindgen::prelude::wasm_bindgen;
use worker::{
    DurableObject, Env, Request, Response, ResponseBuilder, Result, SqlStorageValue, State, durable_object,
};

use crate::config::Config;
use crate::lease;
use crate::placement::{Ask, AttachError, DirectFlips, Machine, Placement, Routing, Stays};
use crate::policy::{Assignment, Why};
use crate::renewal::{self, Renewed};
use crate::request::Target;

use super::refusal::Refusal;
use super::{chaos, env, js};

/// Carries the grant, in [`lease::encode`]'s form.
pub(super) const GRANT_HEADER: &str = "x-grant";

/// Carries why a user is not where the policy wants them, in [`Stays::as_str`]'s form.
pub(super) const STAYS_HEADER: &str = "x-stays";

/// How often the object looks after itself, in ms.
const HOUSEKEEPING_MS: i64 = 24 * 60 * 60 * 1000;

/// Most changes that the history keeps. A user changes hands a few times; a thousand is an operator's accident
/// that should still be readable.
const MAX_HISTORY: f64 = 1000.0;

#[durable_object(alarm)]
pub(super) struct UserObject {
    state: State,
    config: Config,
    memory: RefCell<Memory>,
}

/// What the object knows without reading. Filled at the first call.
struct Memory {
    placement: Option<Placement>,
    has_tables: Option<bool>,
    /// The newest policy version heard, so that an isolate with an older one cannot turn the user back. It may
    /// be lost; what matters of it is in the record.
    policy_version: u64,
}

/// The question of [`isolate::ask`](super::isolate::ask), as a URL: no request object and no body, which
/// together would cost more than the answer.
pub(super) fn place_url(user: &UserId, ask: Ask) -> String {
    let Ask { wanted: Assignment { backend, why }, policy_version } = ask;
    format!("http://user/place?user={user}&backend={backend}&why={}&version={policy_version}", why.as_str())
}

/// Asks the user's object to renew a URL that holds until `shown`.
pub(super) async fn ask_to_renew(env: &Env, user: &UserId, shown: UnixSeconds) -> Result<Renewed> {
    let stub = env.durable_object("USER")?.get_by_name(user.as_str())?;
    let url = format!("http://user/renew?user={user}&expires={}", shown.0);
    let mut response = stub.fetch_with_str(&url).await?;
    response.json().await
}

#[derive(Deserialize)]
struct Row {
    record: String,
}

impl DurableObject for UserObject {
    fn new(state: State, env: Env) -> Self {
        let config = Config::read(|name| env.var(name).ok().map(|value| value.to_string()));
        // No statement here: an object that is only looked at stays without tables.
        let memory = RefCell::new(Memory { placement: None, has_tables: None, policy_version: 0 });
        Self { state, config, memory }
    }

    async fn fetch(&self, mut request: Request) -> Result<Response> {
        let url = request.inner().url();
        let method = request.inner().method();
        let target = Target::parse(&method, &url);
        let Some(user) = parameter(target.query, "user").and_then(|text| text.parse::<UserId>().ok()) else {
            return Refusal::BadRequest("Not a user id".into()).answer();
        };
        match (method.as_str(), target.path) {
            ("GET", "/place") => match read_ask(target.query) {
                Some(ask) => self.place(&user, ask).await,
                None => Refusal::BadRequest("Not a question".into()).answer(),
            },
            ("GET", "/record") => self.record(),
            ("GET", "/renew") => {
                match parameter(target.query, "expires").and_then(|text| text.parse().ok()) {
                    Some(shown) => self.renew(UnixSeconds(shown)),
                    None => Refusal::BadRequest("Not a time".into()).answer(),
                }
            }
            ("POST", "/machine") => {
                let body = request.text().await?;
                match serde_json::from_str::<Machine>(&body) {
                    Ok(machine) => self.attach(&user, machine).await,
                    Err(error) => Refusal::BadRequest(error.to_string()).answer(),
                }
            }
            ("POST", "/chaos/object") if self.config.test_hooks => chaos::panic_now(),
            ("POST", "/chaos/alarm") if self.config.test_hooks => {
                self.prepare()?;
                self.exec("UPDATE housekeeping SET panic_next = 1", vec![])?;
                self.state.storage().set_alarm(50).await?;
                json(&serde_json::json!({"armed": true}))
            }
            ("POST", "/chaos/tick") if self.config.test_hooks => {
                self.state.storage().set_alarm(50).await?;
                json(&serde_json::json!({"armed": true}))
            }
            _ => Refusal::NotFound.answer(),
        }
    }

    /// Looks after the history. The next alarm is set first: whatever happens below, there is one.
    async fn alarm(&self) -> Result<Response> {
        self.state.storage().set_alarm(HOUSEKEEPING_MS).await?;
        self.prepare()?;
        #[derive(Deserialize)]
        struct Housekeeping {
            panic_next: f64,
        }
        let row: Housekeeping =
            self.state.storage().sql().exec("SELECT panic_next FROM housekeeping", None)?.one()?;
        if row.panic_next > 0.0 {
            self.exec("UPDATE housekeeping SET panic_next = 0", vec![])?;
            // The panic below must not undo the line above, or the retry would panic as well.
            self.state.storage().sync().await?;
            if self.config.test_hooks {
                chaos::panic_now();
            }
        }
        self.exec(
            "DELETE FROM history WHERE seq <= (SELECT MAX(seq) FROM history) - ?1",
            vec![SqlStorageValue::Float(MAX_HISTORY)],
        )?;
        self.exec("UPDATE housekeeping SET runs = runs + 1", vec![])?;
        Response::empty()
    }
}

impl UserObject {
    /// Answers a routing question. A flip is stored before the answer leaves: the platform holds the answer
    /// back until the write is confirmed.
    async fn place(&self, user: &UserId, ask: Ask) -> Result<Response> {
        let current = self.load()?;
        let newest = {
            let mut memory = self.memory.borrow_mut();
            memory.policy_version = memory.policy_version.max(ask.policy_version);
            memory.policy_version
        };
        let flips = if self.config.direct_flips { DirectFlips::Allowed } else { DirectFlips::Refused };
        let routing = if ask.policy_version < newest {
            Routing::Stay(Stays::Overtaken)
        } else {
            current.route(user, ask, flips, env::now())
        };
        let (placement, stays) = match routing {
            Routing::Flip(next) => {
                self.store(&next)?;
                self.arm().await?;
                (next, Stays::Settled)
            }
            Routing::Stay(stays) => (current, stays),
        };
        ResponseBuilder::new()
            .with_header(GRANT_HEADER, &lease::encode(&placement.grant()))?
            .with_header(STAYS_HEADER, stays.as_str())
            .map(ResponseBuilder::empty)
    }

    async fn attach(&self, user: &UserId, machine: Machine) -> Result<Response> {
        let current = self.load()?;
        match current.attach(user, machine, env::now()) {
            Ok(next) => {
                if next != current {
                    self.store(&next)?;
                    self.arm().await?;
                }
                json(&next)
            }
            Err(error @ (AttachError::OldGeneration { .. } | AttachError::IdNotPortable)) => {
                Refusal::BadRequest(error.to_string()).answer()
            }
            Err(AttachError::Moving | AttachError::Exhausted) => Refusal::Moving.answer(),
        }
    }

    /// Renews a signed URL, and remembers the chain that the new one belongs to until it has expired.
    fn renew(&self, shown: UnixSeconds) -> Result<Response> {
        #[derive(Deserialize)]
        struct Chain {
            began: f64,
        }
        // Seconds since 1970 are exact in a float.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        let number = |seconds: UnixSeconds| SqlStorageValue::Float(seconds.0 as f64);
        let now = env::now().floor_seconds();
        self.exec(
            "CREATE TABLE IF NOT EXISTS renewals (expires INTEGER PRIMARY KEY, began INTEGER NOT NULL)",
            vec![],
        )?;
        self.exec("DELETE FROM renewals WHERE expires < ?1", vec![number(now)])?;
        let sql = self.state.storage().sql();
        let rows: Vec<Chain> =
            sql.exec("SELECT began FROM renewals WHERE expires = ?1", vec![number(shown)])?.to_array()?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
        let remembered = rows.first().map(|row| UnixSeconds(row.began as u64));
        let renewed = renewal::renew(shown, remembered, now);
        self.exec(
            "INSERT INTO renewals (expires, began) VALUES (?1, ?2)
             ON CONFLICT (expires) DO UPDATE SET began = MIN(began, excluded.began)",
            vec![number(renewed.expires), number(renewed.began)],
        )?;
        json(&renewed)
    }

    /// The record and how it came about, newest first.
    fn record(&self) -> Result<Response> {
        let placement = self.load()?;
        if !self.has_tables()? {
            return json(&serde_json::json!({"placement": placement, "history": [], "housekeepingRuns": 0}));
        }
        let sql = self.state.storage().sql();
        let rows: Vec<Row> =
            sql.exec("SELECT record FROM history ORDER BY seq DESC LIMIT 100", None)?.to_array()?;
        let history: Vec<serde_json::Value> =
            rows.iter().filter_map(|row| serde_json::from_str(&row.record).ok()).collect();
        #[derive(Deserialize)]
        struct Housekeeping {
            runs: f64,
        }
        let housekeeping: Housekeeping = sql.exec("SELECT runs FROM housekeeping", None)?.one()?;
        json(
            &serde_json::json!({"placement": placement, "history": history, "housekeepingRuns": housekeeping.runs}),
        )
    }

    fn load(&self) -> Result<Placement> {
        if let Some(placement) = &self.memory.borrow().placement {
            return Ok(placement.clone());
        }
        let placement = if self.has_tables()? {
            let rows: Vec<Row> =
                self.state.storage().sql().exec("SELECT record FROM placement", None)?.to_array()?;
            match rows.first() {
                // A record that cannot be read is not a user whom nobody has touched: fail, and be seen.
                Some(row) => serde_json::from_str(&row.record)?,
                None => Placement::untouched(),
            }
        } else {
            Placement::untouched()
        };
        self.memory.borrow_mut().placement = Some(placement.clone());
        Ok(placement)
    }

    /// Record and history together, or neither.
    fn store(&self, placement: &Placement) -> Result<()> {
        self.prepare()?;
        let record = serde_json::to_string(placement)?;
        let sql = self.state.storage().sql();
        js::in_transaction(&self.state, move || {
            let one = || vec![SqlStorageValue::String(record.clone())];
            sql.exec("INSERT INTO placement (id, record) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET record = excluded.record", one())?;
            sql.exec("INSERT INTO history (record) VALUES (?1)", one())?;
            Ok(())
        })?;
        self.memory.borrow_mut().placement = Some(placement.clone());
        Ok(())
    }

    async fn arm(&self) -> Result<()> {
        let storage = self.state.storage();
        if storage.get_alarm().await?.is_none() {
            storage.set_alarm(HOUSEKEEPING_MS).await?;
        }
        Ok(())
    }

    fn has_tables(&self) -> Result<bool> {
        if let Some(known) = self.memory.borrow().has_tables {
            return Ok(known);
        }
        let known = js::has_table(&self.state, "placement")?;
        self.memory.borrow_mut().has_tables = Some(known);
        Ok(known)
    }

    /// Makes the tables, at the first write.
    fn prepare(&self) -> Result<()> {
        if self.has_tables()? {
            return Ok(());
        }
        let sql = self.state.storage().sql();
        js::in_transaction(&self.state, move || {
            sql.exec(
                "CREATE TABLE placement (id INTEGER PRIMARY KEY CHECK (id = 1), record TEXT NOT NULL);
                 CREATE TABLE history (seq INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL);
                 CREATE TABLE housekeeping (runs INTEGER NOT NULL, panic_next INTEGER NOT NULL);
                 INSERT INTO housekeeping VALUES (0, 0);",
                None,
            )?;
            Ok(())
        })?;
        self.memory.borrow_mut().has_tables = Some(true);
        Ok(())
    }

    fn exec(&self, statement: &str, values: Vec<SqlStorageValue>) -> Result<()> {
        self.state.storage().sql().exec(statement, values).map(|_| ())
    }
}

fn read_ask(query: &str) -> Option<Ask> {
    let backend = parameter(query, "backend")?.parse().ok()?;
    let why = Why::parse(&parameter(query, "why")?)?;
    let policy_version = parameter(query, "version")?.parse().ok()?;
    Some(Ask { wanted: Assignment { backend, why }, policy_version })
}

pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(n, _)| n == name).map(|(_, value)| value.into_owned())
}

pub(super) fn json(body: &impl serde::Serialize) -> Result<Response> {
    Response::from_json(body)
}
