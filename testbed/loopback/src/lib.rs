//! What stand-ins are built on: [`process`], child processes that end with us, however we end; [`forward`], an
//! HTTP/1.1 server and forwarder.

pub mod forward;
pub mod process;
