//! The agent's conversations, read from its transcripts without asking it.
//!
//! [`transcript`] reads lines, [`reader`] finds them from a file's end backwards, [`store`] knows which files
//! make up a conversation and puts their messages into one order,
//! [`cursor`] is where a page ended. Only [`archive`] changes anything.

pub mod archive;
pub mod cursor;
pub mod reader;
pub mod search;
pub mod store;
pub mod transcript;
