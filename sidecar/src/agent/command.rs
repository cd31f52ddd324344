//! What the agent is started with. Its environment is made from nothing: what is not listed here does not reach it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use shared::secret::Secret;

/// A program, its arguments, its whole environment and the folder that it starts in.
#[derive(Clone, PartialEq, Eq)]
pub struct AgentCommand {
    pub program: PathBuf,
    /// Anybody on the machine can read them, so no secret is among them.
    pub args: Vec<OsString>,
    pub env: BTreeMap<String, EnvValue>,
    pub cwd: PathBuf,
}

/// The value of one variable.
#[derive(Clone, PartialEq, Eq)]
pub enum EnvValue {
    Plain(OsString),
    Secret(Secret),
}

impl AgentCommand {
    /// The command, with an environment of exactly [`Self::env`]. Its standard streams are the caller's affair.
    #[must_use]
    pub fn build(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(&self.cwd).env_clear();
        for (name, value) in &self.env {
            command.env(name, value.expose());
        }
        command
    }

    /// Adds a variable whose value may be shown.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.env.insert(name.to_owned(), EnvValue::Plain(value.into()));
    }

    /// Adds a variable whose value may not be shown.
    pub(crate) fn set_secret(&mut self, name: &str, value: Secret) {
        self.env.insert(name.to_owned(), EnvValue::Secret(value));
    }
}

impl EnvValue {
    /// The value itself.
    #[must_use]
    pub fn expose(&self) -> &OsStr {
        match self {
            Self::Plain(text) => text,
            Self::Secret(secret) => secret.expose().as_ref(),
        }
    }
}

impl fmt::Debug for EnvValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[value]")
    }
}

impl fmt::Debug for AgentCommand {
    /// Of the environment, the names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentCommand")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("env", &self.env.keys())
            .field("cwd", &self.cwd)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_exactly_what_is_listed_and_debug_shows_no_value() {
        let mut command = AgentCommand {
            program: "/usr/bin/env".into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: "/".into(),
        };
        command.set("PLAIN", "canary-plain");
        command.set_secret("HIDDEN", Secret::new("canary-secret").unwrap());
        let output = command.build().output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "HIDDEN=canary-secret\nPLAIN=canary-plain\n");
        let shown = format!("{command:?} {:?}", command.env);
        assert!(shown.contains("HIDDEN") && !shown.contains("canary"), "{shown}");
    }
}
