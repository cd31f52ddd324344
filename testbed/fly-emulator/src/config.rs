//! What an emulator is made of. Read from JSON by the binary; every field has a default but the images.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fly_model::{Profile, Range, Region};
use serde::{Deserialize, Serialize};

/// The settings of an emulator.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the Machines API and the admin routes listen on 127.0.0.1; 0 for any free port.
    pub api_port: u16,
    /// Where the proxy listens.
    pub proxy_port: u16,
    /// Where volumes, root folders and logs are. Made if it is not there.
    pub dir: PathBuf,
    /// Of all chance.
    pub seed: u64,
    /// So many ms of Fly's time in one of ours. Processes take what they take.
    pub speed: f64,
    /// Time stands still, and is moved by `POST /_admin/clock`.
    pub clock_by_hand: bool,
    /// What the admin routes want as a bearer; without it they are open, on loopback.
    pub admin_token: Option<String>,
    pub org: String,
    /// The API's bearer token.
    pub token: String,
    /// Hosts of each region, by their memory in MB.
    pub regions: BTreeMap<String, Vec<u64>>,
    /// App names that belong to others.
    pub foreign_apps: Vec<String>,
    /// Whether rates are limited.
    pub limits: bool,
    /// Memory that the organisation may use in one region, in MB.
    pub quota_mb: Option<u64>,
    /// What the first start of an image on a host takes beyond the start, from so many ms to so many.
    pub pull_ms: (u64, u64),
    /// Machines get addresses in `127.<this>.0.0/16`. Emulators that run at the same time need different ones.
    pub net: u8,
    /// Which of a service's public ports the proxy stands for.
    pub public_port: u16,
    /// Whether an app may replay to an app of another network.
    pub cross_network_replays: bool,
    /// Host names beside `<app>.fly.dev`, with their apps.
    pub hostnames: BTreeMap<String, String>,
    /// What runs in place of an image. The key is a reference in full, or without tag and digest, or `*`. A
    /// machine of any other image fails to launch.
    pub images: BTreeMap<String, Image>,
}

/// A program in place of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// The program, by its absolute path, and its arguments.
    pub command: Vec<String>,
    /// Laid over the machine's own environment. `${NAME}` stands for a variable of that.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        let profile = Profile::default();
        Self {
            api_port: 4280,
            proxy_port: 4281,
            dir: PathBuf::from("fly-emulator"),
            seed: 1,
            speed: 1.0,
            clock_by_hand: false,
            admin_token: None,
            org: profile.org,
            token: profile.token,
            regions: profile.regions.into_iter().map(|region| (region.code, region.hosts_mb)).collect(),
            foreign_apps: Vec::new(),
            limits: true,
            quota_mb: None,
            pull_ms: (0, 0),
            net: 10,
            public_port: 443,
            cross_network_replays: false,
            hostnames: BTreeMap::new(),
            images: BTreeMap::new(),
        }
    }
}

impl Config {
    /// The model's numbers.
    #[must_use]
    pub fn profile(&self) -> Profile {
        let regions = self.regions.iter();
        let regions = regions
            .map(|(code, hosts_mb)| Region { code: code.clone(), hosts_mb: hosts_mb.clone() })
            .collect();
        Profile {
            org: self.org.clone(),
            token: self.token.clone(),
            regions,
            foreign_apps: self.foreign_apps.clone(),
            limits: self.limits,
            quota_mb: self.quota_mb.unwrap_or(u64::MAX),
            pull: Range(self.pull_ms.0, self.pull_ms.1),
            real_processes: true,
            loopback: Some(self.net),
            ..Profile::default()
        }
    }

    /// What runs in place of an image.
    #[must_use]
    pub fn image(&self, reference: &str) -> Option<&Image> {
        let bare = reference.split('@').next().unwrap_or(reference);
        // A colon before the last slash is a registry's port.
        let named = match (bare.rfind(':'), bare.rfind('/')) {
            (Some(colon), slash) if slash.is_none_or(|slash| colon > slash) => {
                bare.get(..colon).unwrap_or(bare)
            }
            _ => bare,
        };
        [reference, named, "*"].into_iter().find_map(|key| self.images.get(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_by_reference_then_by_name_then_by_star() {
        let image = |word: &str| Image { command: vec![word.to_owned()], env: BTreeMap::new() };
        let mut config = Config::default();
        assert_eq!(config.image("x"), None);
        config.images.insert("r:5000/a@sha256:1".into(), image("exact"));
        config.images.insert("r:5000/a".into(), image("named"));
        config.images.insert("*".into(), image("any"));
        for (reference, expected) in [
            ("r:5000/a@sha256:1", "exact"),
            ("r:5000/a@sha256:2", "named"),
            ("r:5000/a:tag", "named"),
            ("r:5000/a:tag@sha256:2", "named"),
            ("r:5000/b", "any"),
        ] {
            assert_eq!(config.image(reference), Some(&image(expected)), "{reference}");
        }
    }

    #[test]
    fn misspelt_settings_are_refused() {
        assert!(serde_json::from_str::<Config>(r#"{"sped": 2}"#).is_err());
        assert!(
            serde_json::from_str::<Config>(r#"{"speed": 2.0, "images": {"*": {"command": ["/bin/true"]}}}"#)
                .is_ok()
        );
    }
}
