//! Responses. All that this edge says itself is made here.

use shared::id::RequestId;
use shared::wire::REQUEST_ID_HEADER;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::{Response, ResponseInit};

use crate::error::EdgeError;

/// An answer with a JSON body. Never cached: all of them depend on who asks.
pub(super) fn json(status: u16, body: &str) -> Result<Response, JsValue> {
    let response = Response::new_with_opt_str_and_init(Some(body), &init(status))?;
    response.headers().set("content-type", "application/json")?;
    response.headers().set("cache-control", "no-store")?;
    Ok(response)
}

/// An answer without a body.
pub(super) fn empty(status: u16) -> Result<Response, JsValue> {
    Response::new_with_opt_str_and_init(None, &init(status))
}

/// An error's answer.
pub(super) fn error(error: &EdgeError, request_id: &RequestId) -> Result<Response, JsValue> {
    let response = json(error.status(), &error.body(request_id))?;
    let headers = response.headers();
    headers.set(REQUEST_ID_HEADER, request_id.as_str())?;
    if let Some(seconds) = error.retry_after_seconds() {
        headers.set("retry-after", &seconds.to_string())?;
    }
    if let EdgeError::MethodNotAllowed { allow } = error {
        headers.set("allow", allow)?;
    }
    if matches!(error, EdgeError::NotOperator | EdgeError::NoToken | EdgeError::Token(_)) {
        headers.set("www-authenticate", "Bearer")?;
    }
    Ok(response)
}

/// The same answer with headers that can be changed. The body is handed on as the stream that it is.
pub(super) fn reopened(response: &Response) -> Result<Response, JsValue> {
    Response::new_with_opt_readable_stream_and_init(response.body().as_ref(), response.unchecked_ref())
}

fn init(status: u16) -> ResponseInit {
    let init = ResponseInit::new();
    init.set_status(status);
    init
}
