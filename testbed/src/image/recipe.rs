//! `Dockerfile.fly` as a list of stages and steps: the one list that a container engine and `cargo xtask image`
//! both work from.
//!
//! Only what that file needs is known. Everything else is refused by its line, never skipped: a step that one of
//! the two builders ignored would make two different images from one file.

use anyhow::{Context as _, Result, bail, ensure};
use parse_dockerfile::{Command, Flag, Instruction, Source, UnescapedString};

/// The whole file.
#[derive(Debug, PartialEq, Eq)]
pub struct Recipe {
    /// In the file's order; the last one is the image.
    pub stages: Vec<Stage>,
}

/// What stands between two `FROM`.
#[derive(Debug, PartialEq, Eq)]
pub struct Stage {
    pub name: Option<String>,
    pub base: Base,
    pub steps: Vec<Step>,
}

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// An earlier stage, by its index.
    Stage(usize),
    /// An image of a registry, such as `node:22-bookworm-slim`.
    Image(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A command line for `/bin/sh -c`.
    Run {
        command: String,
        /// Folders that outlive the build and are in no image.
        caches: Vec<String>,
    },
    Copy {
        /// Index of the stage that it comes from; the repository, if none.
        from: Option<usize>,
        sources: Vec<String>,
        to: String,
    },
    Env {
        name: String,
        value: String,
    },
    Workdir(String),
    Entrypoint(Vec<String>),
    Expose(u16),
    StopSignal(String),
    Label {
        name: String,
        value: String,
    },
}

impl Recipe {
    /// # Errors
    /// The line, and what is not known there.
    pub fn parse(text: &str) -> Result<Self> {
        let file = parse_dockerfile::parse(text)?;
        let mut stages: Vec<Stage> = Vec::new();
        for instruction in &file.instructions {
            let line = line_of(text, instruction);
            if let Instruction::From(from) = instruction {
                ensure!(from.options.is_empty(), "line {line}: FROM with options is not supported");
                let image = from.image.value.as_ref();
                stages.push(Stage {
                    name: from.as_.as_ref().map(|(_, name)| name.value.to_string()),
                    base: stage_index(&stages, image)
                        .map_or_else(|| Base::Image(image.to_owned()), Base::Stage),
                    steps: Vec::new(),
                });
                continue;
            }
            let step = step(instruction, &stages).with_context(|| format!("line {line}"))?;
            let stage = stages.last_mut().with_context(|| format!("line {line} stands before any FROM"))?;
            stage.steps.push(step);
        }
        ensure!(!stages.is_empty(), "there is no FROM");
        Ok(Self { stages })
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not known is refused, also what a later version parses"
)]
fn step(instruction: &Instruction<'_>, stages: &[Stage]) -> Result<Step> {
    Ok(match instruction {
        Instruction::Run(run) => {
            ensure!(run.here_docs.is_empty(), "here documents are not supported");
            let Command::Shell(command) = &run.arguments else { bail!("RUN wants a shell command") };
            let caches = run.options.iter().map(cache_of).collect::<Result<_>>()?;
            Step::Run { command: joined_lines(command.value), caches }
        }
        Instruction::Copy(copy) => {
            let mut from = None;
            for flag in &copy.options {
                ensure!(flag.name.value == "from", "COPY --{} is not supported", flag.name.value);
                let name = value(flag)?;
                from = Some(stage_index(stages, name).with_context(|| format!("there is no stage {name}"))?);
            }
            let mut sources = Vec::new();
            for source in &copy.src {
                let Source::Path(path) = source else { bail!("COPY from a here document is not supported") };
                ensure!(!path.value.contains(['*', '?', '[']), "COPY with a pattern is not supported");
                sources.push(path.value.to_string());
            }
            Step::Copy { from, sources, to: literal(&copy.dest)? }
        }
        Instruction::Env(env) => {
            let (name, value) = pair(&env.arguments)?;
            Step::Env { name, value }
        }
        Instruction::Label(label) => {
            let (name, value) = pair(&label.arguments)?;
            Step::Label { name, value }
        }
        Instruction::Workdir(workdir) => {
            let path = literal(&workdir.arguments)?;
            ensure!(path.starts_with('/'), "WORKDIR wants an absolute path");
            Step::Workdir(path)
        }
        Instruction::Entrypoint(entrypoint) => {
            let Command::Exec(words) = &entrypoint.arguments else {
                bail!("ENTRYPOINT wants a list: a shell in front would get the signals")
            };
            Step::Entrypoint(words.value.iter().map(|word| word.value.to_string()).collect())
        }
        Instruction::Expose(expose) => {
            let [port] = expose.arguments.as_slice() else { bail!("EXPOSE wants one port") };
            Step::Expose(port.value.parse().context("EXPOSE wants a number")?)
        }
        Instruction::Stopsignal(signal) => Step::StopSignal(literal(&signal.arguments)?),
        _ => bail!("this instruction is not supported"),
    })
}

fn stage_index(stages: &[Stage], name: &str) -> Option<usize> {
    stages.iter().position(|stage| stage.name.as_deref() == Some(name))
}

/// The folder of `--mount=type=cache,target=…`.
fn cache_of(flag: &Flag<'_>) -> Result<String> {
    ensure!(flag.name.value == "mount", "RUN --{} is not supported", flag.name.value);
    let target = value(flag)?.strip_prefix("type=cache,target=");
    let target = target.context("the only mount supported is type=cache,target=…")?;
    ensure!(
        target.starts_with('/') && !target.contains(','),
        "a cache wants an absolute path, and nothing else"
    );
    Ok(target.to_owned())
}

fn value<'a>(flag: &'a Flag<'_>) -> Result<&'a str> {
    flag.value
        .as_ref()
        .map(|value| value.value.as_ref())
        .with_context(|| format!("--{} wants a value", flag.name.value))
}

fn pair(arguments: &UnescapedString<'_>) -> Result<(String, String)> {
    let text = literal(arguments)?;
    let (name, value) = text.split_once('=').context("wants NAME=VALUE")?;
    ensure!(
        !value.contains([' ', '\t', '"', '\'']),
        "one NAME=VALUE without blanks and quotes is supported, since builders differ about the rest"
    );
    Ok((name.to_owned(), value.to_owned()))
}

/// A value in which nothing is to be replaced.
fn literal(text: &UnescapedString<'_>) -> Result<String> {
    ensure!(!text.value.contains('$'), "variables are not supported here: {}", text.value);
    Ok(text.value.to_string())
}

/// A command as the shell gets it: lines that end in a backslash are one line, and comments between them are gone.
fn joined_lines(command: &str) -> String {
    let lines = command.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.map(|line| line.strip_suffix('\\').unwrap_or(line).trim_end()).collect::<Vec<_>>().join(" ")
}

fn line_of(text: &str, instruction: &Instruction<'_>) -> usize {
    let start = instruction_start(instruction);
    text.get(..start).map_or(0, |before| before.matches('\n').count()).saturating_add(1)
}

fn instruction_start(instruction: &Instruction<'_>) -> usize {
    let keyword = match instruction {
        Instruction::Add(it) => &it.add,
        Instruction::Arg(it) => &it.arg,
        Instruction::Cmd(it) => &it.cmd,
        Instruction::Copy(it) => &it.copy,
        Instruction::Entrypoint(it) => &it.entrypoint,
        Instruction::Env(it) => &it.env,
        Instruction::Expose(it) => &it.expose,
        Instruction::From(it) => &it.from,
        Instruction::Healthcheck(it) => &it.healthcheck,
        Instruction::Label(it) => &it.label,
        Instruction::Maintainer(it) => &it.maintainer,
        Instruction::Onbuild(it) => &it.onbuild,
        Instruction::Run(it) => &it.run,
        Instruction::Shell(it) => &it.shell,
        Instruction::Stopsignal(it) => &it.stopsignal,
        Instruction::User(it) => &it.user,
        Instruction::Volume(it) => &it.volume,
        Instruction::Workdir(it) => &it.workdir,
        _ => return 0,
    };
    keyword.span.start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_refer_to_earlier_ones_by_name() {
        let recipe = Recipe::parse(
            "FROM rust:1 AS build\nWORKDIR /src\nCOPY a b ./\n\
             RUN --mount=type=cache,target=/cache \\\n    # why\n    make && \\\n    make install\n\
             FROM debian AS base\nFROM base\nENV A=b\nCOPY --from=build /out /bin/\nEXPOSE 8080\n\
             ENTRYPOINT [\"/bin/x\", \"-y\"]\n",
        )
        .unwrap();
        let [build, base, last] = recipe.stages.as_slice() else { panic!("{recipe:?}") };
        assert_eq!(build.base, Base::Image("rust:1".into()));
        assert_eq!(
            build.steps,
            [
                Step::Workdir("/src".into()),
                Step::Copy { from: None, sources: vec!["a".into(), "b".into()], to: "./".into() },
                Step::Run { command: "make && make install".into(), caches: vec!["/cache".into()] },
            ]
        );
        assert_eq!(base.base, Base::Image("debian".into()));
        assert_eq!(last.base, Base::Stage(1));
        assert_eq!(
            last.steps,
            [
                Step::Env { name: "A".into(), value: "b".into() },
                Step::Copy { from: Some(0), sources: vec!["/out".into()], to: "/bin/".into() },
                Step::Expose(8080),
                Step::Entrypoint(vec!["/bin/x".into(), "-y".into()]),
            ]
        );
    }

    #[test]
    fn what_is_not_known_is_refused_by_its_line() {
        let rows = [
            ("FROM a\nADD b c", "line 2"),
            ("FROM a\nARG X=1", "line 2"),
            ("FROM a\n\nUSER node", "line 3"),
            ("FROM a\nCMD [\"x\"]", "line 2"),
            ("FROM a\nENTRYPOINT x", "a shell in front"),
            ("FROM a\nRUN [\"x\"]", "shell command"),
            ("FROM a\nRUN --network=none x", "--network"),
            ("FROM a\nRUN --mount=type=secret,id=x y", "type=cache"),
            ("FROM a\nCOPY --chown=1 b c", "--chown"),
            ("FROM a\nCOPY --from=nobody b c", "nobody"),
            ("FROM a\nCOPY *.rs c", "pattern"),
            ("FROM a\nENV A=$B", "variables"),
            ("FROM a\nENV A=b C=d", "one NAME=VALUE"),
            ("FROM a\nWORKDIR src", "absolute"),
            ("FROM --platform=x a", "options"),
            ("FROM a\nVOLUME /data", "line 2"),
        ];
        for (text, wanted) in rows {
            let error = format!("{:#}", Recipe::parse(text).unwrap_err());
            assert!(error.contains(wanted), "{text:?}: {error}");
        }
    }
}
