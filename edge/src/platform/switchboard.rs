//! The Switchboard object: the rollout policy, and one audit row for each change of it. There is one, and it
//! is asked by each isolate at most twice a second.

use serde::{Deserialize, Serialize};
use shared::time::UnixMillis;
use wasm_bindgen::prelude::wasm_bindgen;
use worker::{DurableObject, Env, Request, Response, Result, SqlStorageValue, State, durable_object};

use crate::config::Config;
use crate::policy::{Change, ChangeError, Policy};
use crate::request::Target;

use super::refusal::Refusal;
use super::user_object::{json, parameter};
use super::{env, js};

/// Audit rows in one answer.
const DEFAULT_ROWS: u32 = 100;
const MAX_ROWS: u32 = 1000;

#[durable_object(fetch)]
pub(super) struct Switchboard {
    state: State,
    config: Config,
}

/// One change, as the audit shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AuditRow {
    version: u64,
    at: UnixMillis,
    author: Option<String>,
    reason: Option<String>,
    change: serde_json::Value,
    policy: serde_json::Value,
}

#[derive(Deserialize)]
struct StoredAudit {
    change: String,
    policy: String,
}

#[derive(Deserialize)]
struct StoredPolicy {
    policy: String,
}

impl DurableObject for Switchboard {
    fn new(state: State, env: Env) -> Self {
        let config = Config::read(|name| env.var(name).ok().map(|value| value.to_string()));
        Self { state, config }
    }

    async fn fetch(&self, mut request: Request) -> Result<Response> {
        let url = request.inner().url();
        let method = request.inner().method();
        let target = Target::parse(&method, &url);
        match (method.as_str(), target.path) {
            ("GET", "/policy") => json(&self.load()?),
            ("POST", "/policy") => {
                let body = request.text().await?;
                match serde_json::from_str::<Change>(&body) {
                    Ok(change) => self.change(&change),
                    Err(error) => Refusal::BadRequest(error.to_string()).answer(),
                }
            }
            ("GET", "/audit") => {
                let limit = parameter(target.query, "limit").and_then(|text| text.parse().ok());
                json(&self.audit(limit.unwrap_or(DEFAULT_ROWS).clamp(1, MAX_ROWS))?)
            }
            _ => Refusal::NotFound.answer(),
        }
    }
}

impl Switchboard {
    /// Reads, changes and stores in one stretch without an await, so that no two changes see the same version.
    fn change(&self, change: &Change) -> Result<Response> {
        let current = self.load()?;
        let next = match current.change(change, env::now()) {
            Ok(next) => next,
            Err(ChangeError::Conflict { expected, actual }) => {
                return Refusal::Conflict { expected, actual }.answer();
            }
            Err(error @ (ChangeError::Nothing | ChangeError::TooManyPins | ChangeError::TooLong(_))) => {
                return Refusal::BadRequest(error.to_string()).answer();
            }
        };
        let policy = serde_json::to_string(&next)?;
        let change = serde_json::to_string(change)?;
        let sql = self.state.storage().sql();
        js::in_transaction(&self.state, move || {
            sql.exec("CREATE TABLE IF NOT EXISTS policy (seq INTEGER PRIMARY KEY AUTOINCREMENT, policy TEXT NOT NULL, change TEXT NOT NULL)", None)?;
            sql.exec(
                "INSERT INTO policy (policy, change) VALUES (?1, ?2)",
                vec![SqlStorageValue::String(policy), SqlStorageValue::String(change)],
            )?;
            Ok(())
        })?;
        json(&next)
    }

    fn load(&self) -> Result<Policy> {
        if !self.has_table()? {
            return Ok(Policy::fallback(self.config.default_backend));
        }
        let row: StoredPolicy = self
            .state
            .storage()
            .sql()
            .exec("SELECT policy FROM policy ORDER BY seq DESC LIMIT 1", None)?
            .one()?;
        Ok(serde_json::from_str(&row.policy)?)
    }

    /// Changes, newest first.
    fn audit(&self, limit: u32) -> Result<Vec<AuditRow>> {
        if !self.has_table()? {
            return Ok(Vec::new());
        }
        let rows: Vec<StoredAudit> = self
            .state
            .storage()
            .sql()
            .exec(
                "SELECT policy, change FROM policy ORDER BY seq DESC LIMIT ?1",
                vec![SqlStorageValue::Float(f64::from(limit))],
            )?
            .to_array()?;
        rows.into_iter()
            .map(|row| {
                let policy: Policy = serde_json::from_str(&row.policy)?;
                let change: Change = serde_json::from_str(&row.change)?;
                Ok(AuditRow {
                    version: policy.version,
                    at: policy.updated_at,
                    author: change.author.clone(),
                    reason: change.reason.clone(),
                    change: serde_json::to_value(&change)?,
                    policy: serde_json::to_value(&policy)?,
                })
            })
            .collect()
    }

    fn has_table(&self) -> Result<bool> {
        js::has_table(&self.state, "policy")
    }
}
