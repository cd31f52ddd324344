//! What HTTP says about files, as functions from values to values: no file, no socket, no clock.
//!
//! * [`etag`]: entity tags and lists of them; [`http_date`]: dates in headers.
//! * [`conditional`]: preconditions, in the order that RFC 9110 section 13.2.2 fixes.
//! * [`range`]: which bytes of a file a `Range` header means; [`multipart`]: how several are framed.
//! * [`digest`]: the digests of RFC 9530.
//! * [`media_type`]: `Content-Type`; [`disposition`]: file names in `Content-Disposition`; [`raw_path`]: file names in a request's target.
//! * [`tus`]: the headers of resumable uploads.
//!
//! Everything here reads what a stranger wrote. Each parser has a property test, and a fuzz target in
//! `sidecar/fuzz` that calls the same function.

pub mod conditional;
pub mod digest;
pub mod disposition;
pub mod etag;
pub mod http_date;
pub mod media_type;
pub mod multipart;
pub mod range;
pub mod raw_path;
pub mod tus;
