//! Everything that touches Cloudflare. Nothing here decides: each function asks a pure module what to do, does
//! it, and hands the outcome back.
//!
//! * [`fetch`]: the Worker's handler, and a user's request on its way through.
//! * [`dashboard`], [`verify`]: what the dashboard calls, and the signatures of its users' tokens.
//! * [`ops`]: the operator's routes under `/_ops/api`.
//! * [`user_object`], [`switchboard`]: the two Durable Objects, which live in a script of their own.
//! * [`isolate`]: what an isolate remembers between requests.
//! * [`answer`], [`refusal`], [`js`], [`env`]: responses, what objects refuse, bindings that the crate lacks,
//!   settings and clock.
//! * [`chaos`]: panics on demand, for the tests of the guard in `edge/js`.

mod answer;
mod chaos;
mod dashboard;
mod env;
mod fetch;
mod isolate;
mod js;
mod ops;
mod refusal;
mod switchboard;
mod user_object;
mod verify;
