//! Parts of the platform that the `worker` crate does not wrap.

use js_sys::{Function, Promise};
use serde::Deserialize;
use wasm_bindgen::prelude::*;
use wasm_bindgen::{JsCast, JsValue};
use worker::{Env, SqlStorageValue, State};

#[wasm_bindgen]
extern "C" {
    type TransactionStorage;

    #[wasm_bindgen(method, catch, js_name = transactionSync)]
    fn transaction_sync(this: &TransactionStorage, body: &Function) -> Result<JsValue, JsValue>;

    /// Whatever has `fetch(request)`: a service binding, or the global scope.
    pub(super) type Fetcher;
}

#[wasm_bindgen(module = "/js/calls.js")]
extern "C" {
    /// Method, URL, `origin` and `accept`, a line each; an absent header is an empty line.
    pub(super) fn describe(request: &web_sys::Request) -> String;

    /// Sends a request on, changed as [`Outgoing::to_lines`](crate::forward::Outgoing::to_lines) says.
    #[wasm_bindgen(catch)]
    pub(super) fn send(
        through: &Fetcher,
        request: &web_sys::Request,
        changes: &str,
    ) -> Result<Promise, JsValue>;

    /// The same, to a machine; the promise fails unless the answer is the sidecar's own and no refusal.
    #[wasm_bindgen(catch, js_name = sendToMachine)]
    pub(super) fn send_to_machine(
        through: &Fetcher,
        request: &web_sys::Request,
        changes: &str,
    ) -> Result<Promise, JsValue>;
}

/// Runs `body` so that all its statements hold, or none: an `Err`, and a panic too, undoes them. Without it a
/// statement stays although a later one failed.
pub(super) fn in_transaction(
    state: &State,
    body: impl FnOnce() -> worker::Result<()> + 'static,
) -> worker::Result<()> {
    let body = Closure::once_into_js(move || -> Result<JsValue, JsValue> {
        body().map_err(JsValue::from)?;
        Ok(JsValue::UNDEFINED)
    });
    let storage = state.storage();
    storage.as_raw().unchecked_ref::<TransactionStorage>().transaction_sync(body.unchecked_ref())?;
    Ok(())
}

/// Whether the object's database has this table.
pub(super) fn has_table(state: &State, name: &str) -> worker::Result<bool> {
    #[derive(Deserialize)]
    struct Count {
        n: f64,
    }
    let statement = "SELECT COUNT(*) AS n FROM sqlite_master WHERE name = ?1";
    let name = vec![SqlStorageValue::String(name.to_owned())];
    let count: Count = state.storage().sql().exec(statement, name)?.one()?;
    Ok(count.n > 0.0)
}

/// The service binding of this name, if there is one.
pub(super) fn service(env: &Env, name: &str) -> Option<Fetcher> {
    let binding = js_sys::Reflect::get(env.as_ref(), &JsValue::from_str(name)).ok()?;
    (!binding.is_undefined()).then(|| binding.unchecked_into())
}

/// The global scope, whose `fetch` goes out to the network.
pub(super) fn network() -> Fetcher {
    js_sys::global().unchecked_into()
}
