use std::ffi::OsStr;

use shared::secret::Secret;

use super::credentials::Credentials;
use super::settings::{Program, VolumeSettings};
use super::*;

struct Bed {
    dir: tempfile::TempDir,
    settings: BootSettings,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("data")).unwrap();
        let settings = BootSettings {
            user: "user_a".parse().unwrap(),
            generation: shared::id::Generation(1),
            gateway_token: Secret::new("canary-token").unwrap(),
            agent: ([127, 0, 0, 1], 18789).into(),
            data_dir: path("data"),
            state_dir: path("data/clawdbot"),
            workspace_dir: path("data/workspace"),
            program: Program {
                node: "/opt/node/bin/node".into(),
                entry: "/opt/e.js".into(),
                heap_mb: Some(512),
                compile_cache: Some("/tmp/cc".into()),
            },
            volume: VolumeSettings { must_be_mounted: false, adopt: None },
            image_dir: path("image"),
            tmp_dir: path("tmp"),
            legacy_home: None,
            timezone: "UTC".to_owned(),
            search_path: "/usr/bin:/bin".to_owned(),
            credentials: Credentials::from_lookup(|name| {
                (name == "ANTHROPIC_API_KEY").then(|| "canary-key".to_owned())
            }),
        };
        Self { dir, settings }
    }

    fn prepare(&self) -> Result<Prepared, BootError> {
        prepare(&self.settings, UnixMillis(1))
    }
}

#[test]
fn a_new_volume_is_made_ready_and_a_second_time_changes_nothing() {
    let bed = Bed::new();
    let first = bed.prepare().unwrap();
    assert_eq!(first.report.volume.ownership, Ownership::New);
    assert!(first.report.configuration.written);
    let second = bed.prepare().unwrap();
    assert_eq!(second.report.volume.ownership, Ownership::Known);
    assert!(!second.report.configuration.written);
    assert_eq!(second.report.healed, Healed::default());
    assert_eq!(second.command, first.command);
}

#[test]
fn secrets_are_in_the_environment_and_nowhere_else() {
    let bed = Bed::new();
    let prepared = bed.prepare().unwrap();
    let value = |name: &str| prepared.command.env[name].expose().to_owned();
    assert_eq!(value("CLAWDBOT_GATEWAY_TOKEN"), "canary-token");
    assert_eq!(value("ANTHROPIC_API_KEY"), "canary-key");
    assert!(!format!("{prepared:?}").contains("canary"));
    assert!(!format!("{:?}", bed.settings).contains("canary"));
    let args = prepared.command.args.join(OsStr::new(" "));
    assert!(!args.to_string_lossy().contains("canary"));
    let config = fs::read_to_string(bed.dir.path().join("data/clawdbot/clawdbot.json")).unwrap();
    assert!(!config.contains("canary"), "{config}");
}

#[test]
fn trap_08_and_09_one_process_whose_state_lies_on_the_volume() {
    let bed = Bed::new();
    let AgentCommand { program, args, env, cwd } = bed.prepare().unwrap().command;
    assert_eq!(program, Path::new("/opt/node/bin/node"));
    let expect =
        ["--max-old-space-size=512", "/opt/e.js", "gateway", "--port", "18789", "--bind", "loopback"];
    assert_eq!(args, expect);
    let data = bed.dir.path().join("data");
    assert_eq!(cwd, data.join("workspace"));
    assert_eq!(env["CLAWDBOT_NO_RESPAWN"].expose(), "1");
    assert_eq!(env["CLAWDBOT_STATE_DIR"].expose(), data.join("clawdbot"));
    assert_eq!(env["HOME"].expose(), data.join("home"));
    let names: Vec<&str> = env.keys().map(String::as_str).collect();
    let expect = [
        "ANTHROPIC_API_KEY",
        "CLAWDBOT_CONFIG_PATH",
        "CLAWDBOT_DISABLE_BONJOUR",
        "CLAWDBOT_GATEWAY_TOKEN",
        "CLAWDBOT_NO_RESPAWN",
        "CLAWDBOT_STATE_DIR",
        "HOME",
        "JITI_TRY_NATIVE",
        "LANG",
        "NODE_COMPILE_CACHE",
        "NO_COLOR",
        "NPM_CONFIG_CACHE",
        "NPM_CONFIG_PREFIX",
        "OPENCLAW_DISABLE_BONJOUR",
        "OPENCLAW_NO_RESPAWN",
        "PATH",
        "TMPDIR",
        "TZ",
        "XDG_CACHE_HOME",
    ];
    assert_eq!(names, expect);
}

#[test]
fn refusals_say_whose_fault_it_is_in_one_sentence() {
    let check = |bed: &Bed, fault: Fault| {
        let error = bed.prepare().unwrap_err();
        let text = error.to_string();
        assert_eq!(error.fault(), fault, "{text}");
        assert!(text.ends_with('.') && !text.contains('\n'), "{text}");
    };
    let bed = Bed::new();
    bed.prepare().unwrap();
    let mut other = Bed::new();
    other.settings.data_dir = bed.settings.data_dir;
    other.settings.user = "user_b".parse().unwrap();
    check(&other, Fault::Data);

    let mut bed = Bed::new();
    bed.settings.volume.must_be_mounted = true;
    check(&bed, Fault::Configuration);
    bed.settings.data_dir = bed.dir.path().join("missing");
    check(&bed, Fault::Configuration);

    let bed = Bed::new();
    fs::write(bed.settings.data_dir.join("old"), "").unwrap();
    check(&bed, Fault::Data);

    let bed = Bed::new();
    fs::write(&bed.settings.tmp_dir, "").unwrap();
    check(&bed, Fault::System);
}

#[test]
fn a_long_log_is_turned() {
    let bed = Bed::new();
    let log = bed.prepare().unwrap().log;
    fs::File::create(&log).unwrap().set_len(MAX_LOG_BYTES + 1).unwrap();
    bed.prepare().unwrap();
    assert!(!log.exists() && log.with_extension("jsonl.1").exists());
}

#[test]
fn the_report_is_for_status() {
    let bed = Bed::new();
    let mut prepared = bed.prepare().unwrap();
    prepared.report.alerts = vec![Alert::InodesNearlyGone { free: 7 }];
    let json = serde_json::to_value(prepared.report).unwrap();
    assert_eq!(json["volume"]["ownership"], "new");
    assert_eq!(json["healed"]["tailsCut"], 0);
    assert_eq!(json["alerts"][0]["code"], "inodes_nearly_gone");
}
