//! The values that labels can have.

use std::fmt::{self, Write as _};

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

use crate::agent::status::Phase;
use crate::agent::supervision::Cause;
use crate::error::ApiError;

/// A label's enum: its values, and their names in the text.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($value:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($value),+ }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$value),+];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text),+ }
            }
        }

        encode_by_name!($name);
    };
}

macro_rules! encode_by_name {
    ($name:ident) => {
        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
                encoder.write_str(self.as_str())
            }
        }
    };
}

labels! {
    /// Groups of routes.
    Route {
        Keepalive = "keepalive",
        Status = "status",
        Sessions = "sessions",
        History = "history",
        Chat = "chat",
        Reset = "reset",
        Files = "files",
        RawFiles = "raw_files",
        Uploads = "uploads",
        Archive = "archive",
        AgentLogs = "agent_logs",
        AgentRestart = "agent_restart",
        WebSocket = "websocket",
        // The agent's page, and whatever has no route.
        Agent = "agent",
        // One that has no name here yet.
        Other = "other",
    }
}

labels! {
    /// Classes of status codes.
    Class {
        Informational = "1xx",
        Success = "2xx",
        Redirection = "3xx",
        Client = "4xx",
        Server = "5xx",
    }
}

labels! {
    /// What failed, if it is our side that did.
    Fault {
        History = "history",
        Files = "files",
        AgentCall = "agent_call",
        AgentConnection = "agent_connection",
        Epoch = "epoch",
        Reset = "reset",
        Other = "other",
    }
}

labels! {
    /// Steps from the start of the process to its readiness.
    Step {
        Boot = "boot",
        Listen = "listen",
        Agent = "agent",
    }
}

encode_by_name!(Cause);
encode_by_name!(Phase);

impl Route {
    /// By the route's pattern, as the log has it.
    #[must_use]
    pub fn of(pattern: &str) -> Self {
        match pattern {
            "websocket" => return Self::WebSocket,
            "agent" => return Self::Agent,
            _ => {}
        }
        let path = pattern.strip_prefix("/ws").unwrap_or(pattern);
        let Some(path) = path.strip_prefix("/api/") else { return Self::Other };
        match path {
            "keepalive" => Self::Keepalive,
            "status" => Self::Status,
            "sessions" => Self::Sessions,
            "history" | "history/search" => Self::History,
            "chat/send" => Self::Chat,
            "reset-workspace" => Self::Reset,
            "agent/logs" => Self::AgentLogs,
            "agent/restart" => Self::AgentRestart,
            "files/archive" => Self::Archive,
            path if path.starts_with("files/raw/") => Self::RawFiles,
            path if path.starts_with("files/tus") => Self::Uploads,
            path if path.starts_with("files") => Self::Files,
            _ => Self::Other,
        }
    }
}

impl Class {
    #[must_use]
    pub const fn of(status: u16) -> Self {
        match status {
            0..=199 => Self::Informational,
            200..=299 => Self::Success,
            300..=399 => Self::Redirection,
            400..=499 => Self::Client,
            500.. => Self::Server,
        }
    }
}

impl Fault {
    /// The kind of an error that was answered with 5xx.
    #[must_use]
    pub fn of(error: &ApiError) -> Self {
        // Whatever is not named is "other": a new error needs no place here.
        let kinds: [(bool, Self); 6] = [
            (matches!(error, ApiError::HistoryUnavailable(_)), Self::History),
            (
                matches!(error, ApiError::File(_) | ApiError::FileRoute { .. } | ApiError::Http(_)),
                Self::Files,
            ),
            (matches!(error, ApiError::AgentCall(_)), Self::AgentCall),
            (matches!(error, ApiError::Agent(_)), Self::AgentConnection),
            (matches!(error, ApiError::EpochNotStored(_)), Self::Epoch),
            (matches!(error, ApiError::ResetFailed(_)), Self::Reset),
        ];
        kinds.into_iter().find_map(|(is, kind)| is.then_some(kind)).unwrap_or(Self::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let rows = [
            ("/api/status", Route::Status),
            ("/ws/api/status", Route::Status),
            ("/ws/api/history", Route::History),
            ("/api/history/search", Route::History),
            ("/api/files/raw/{*path}", Route::RawFiles),
            ("/api/files/tus/{id}", Route::Uploads),
            ("/api/files/tus", Route::Uploads),
            ("/api/files/list", Route::Files),
            ("/api/files", Route::Files),
            ("/api/files/archive", Route::Archive),
            ("/api/agent/logs", Route::AgentLogs),
            ("/api/agent/restart", Route::AgentRestart),
            ("websocket", Route::WebSocket),
            ("agent", Route::Agent),
            ("/api/something/new", Route::Other),
            ("/status", Route::Other),
        ];
        for (pattern, expect) in rows {
            assert_eq!(Route::of(pattern), expect, "{pattern}");
        }
    }

    #[test]
    fn names_differ() {
        fn check(mut names: Vec<&str>) {
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "{names:?}");
        }
        check(Route::ALL.iter().map(|v| v.as_str()).collect());
        check(Fault::ALL.iter().map(|v| v.as_str()).collect());
        check(Cause::ALL.iter().map(|v| v.as_str()).collect());
        check(Phase::ALL.iter().map(|v| v.as_str()).collect());
    }
}
