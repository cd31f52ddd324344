//! What somebody should look at, though the agent starts.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// One thing to look at. Its text names files and variables, and never the value of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Alert {
    #[error("The volume is nearly full: {free_bytes} of {size_bytes} bytes are free.")]
    VolumeNearlyFull { free_bytes: u64, size_bytes: u64 },
    #[error("The volume can hold only {free} more files.")]
    InodesNearlyGone { free: u64 },
    #[error("The agent's configuration could not be read. It is kept as {kept_as}; {instead}.")]
    ConfigSetAside { kept_as: String, instead: Instead },
    #[error("In the agent's configuration, {what}, since the agent refuses to start with it.")]
    ConfigRepaired { what: &'static str },
    #[error(
        "The list of conversations of agent {agent} could not be read. It is kept as {kept_as}; {instead}."
    )]
    SessionsSetAside { agent: String, kept_as: String, instead: Instead },
    #[error("{what} could not be healed: {error}.")]
    NotHealed { what: String, error: String },
    #[error("{variable} is not used: {why}.")]
    VariableNotUsed { variable: &'static str, why: &'static str },
    #[error(
        "The open policy of {channel} is not used, since its list of senders in the configuration is narrower."
    )]
    OpenPolicyNotUsed { channel: &'static str },
    #[error("{variable} is not used: the configuration holds another value at {path}, and that one counts.")]
    TokenInConfig { variable: &'static str, path: &'static str },
    #[error("{link} was not made: something else is there.")]
    LinkBlocked { link: String },
    #[error("The image's files could not be put into the workspace: {error}.")]
    WorkspaceNotFilled { error: String },
}

/// What took the place of a file that was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    /// The newest older copy that could be read.
    OlderCopy,
    /// Nothing of what it held.
    Nothing,
}

impl std::fmt::Display for Instead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OlderCopy => "an older copy is used instead",
            Self::Nothing => "there was no older copy, so the agent begins with a new one",
        })
    }
}

impl Alert {
    /// Its kind, for machines. It does not change.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::VolumeNearlyFull { .. } => "volume_nearly_full",
            Self::InodesNearlyGone { .. } => "inodes_nearly_gone",
            Self::ConfigSetAside { .. } => "config_set_aside",
            Self::ConfigRepaired { .. } => "config_repaired",
            Self::SessionsSetAside { .. } => "sessions_set_aside",
            Self::NotHealed { .. } => "not_healed",
            Self::VariableNotUsed { .. } => "variable_not_used",
            Self::OpenPolicyNotUsed { .. } => "open_policy_not_used",
            Self::TokenInConfig { .. } => "token_in_config",
            Self::LinkBlocked { .. } => "link_blocked",
            Self::WorkspaceNotFilled { .. } => "workspace_not_filled",
        }
    }
}

impl Serialize for Alert {
    /// As `{"code", "message"}`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut body = serializer.serialize_struct("Alert", 2)?;
        body.serialize_field("code", self.code())?;
        body.serialize_field("message", &self.to_string())?;
        body.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_a_code_and_a_sentence() {
        let alert = Alert::ConfigSetAside { kept_as: "a.json".to_owned(), instead: Instead::Nothing };
        let json = serde_json::to_value(&alert).unwrap();
        assert_eq!(json["code"], "config_set_aside");
        assert!(json["message"].as_str().unwrap().contains("a.json"));
    }
}
