//! What is deployed is what was tested: wrangler accepts both configurations, and neither opens a test's door.

use std::process::Command;

use crate::support::tools;
use testbed::workerd::COMPATIBILITY_DATE;

#[test]
fn wrangler_packs_both_scripts() {
    let tools = tools();
    for config in ["wrangler.toml", "edge/objects.toml"] {
        let out = tempfile::tempdir().unwrap();
        // The build command would run this very program; what it makes is there already.
        let text = std::fs::read_to_string(tools.repository().join(config)).unwrap();
        let folder = tools.repository().join(config).parent().unwrap().to_owned();
        let without_build: String =
            text.lines().filter(|line| !line.starts_with("build = ")).map(|l| format!("{l}\n")).collect();
        let copy = folder.join(format!(".test-{}.toml", config.replace('/', "-")));
        std::fs::write(&copy, without_build).unwrap();
        let output = Command::new(tools.node())
            .arg(tools.wrangler())
            .args(["deploy", "--dry-run", "--config"])
            .arg(&copy)
            .arg("--outdir")
            .arg(out.path())
            .envs([("WRANGLER_SEND_METRICS", "false"), ("CI", "1"), ("NO_COLOR", "1")])
            .current_dir(tools.repository())
            .output();
        std::fs::remove_file(&copy).unwrap();
        let output = output.unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{config}: {said}");
        assert!(
            out.path().read_dir().unwrap().any(|f| f
                .unwrap()
                .path()
                .extension()
                .is_some_and(|e| e == "wasm")),
            "{said}"
        );
    }
}

#[test]
fn no_deployed_configuration_has_a_test_hook_or_moves_users_without_data() {
    for config in ["wrangler.toml", "edge/objects.toml"] {
        let text = std::fs::read_to_string(tools().repository().join(config)).unwrap();
        let settings: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        let settings = settings.join("\n");
        for name in ["TEST_HOOKS", "DIRECT_FLIPS"] {
            assert!(!settings.contains(name), "{config} sets {name}");
        }
        assert!(settings.contains(&format!("compatibility_date = \"{COMPATIBILITY_DATE}\"")), "{config}");
        assert!(settings.contains("DEFAULT_BACKEND = \"legacy\""), "{config}");
    }
}
