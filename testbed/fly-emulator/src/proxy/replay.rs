//! `fly-replay`: an app's answer that sends the request elsewhere.

/// Where a request is to go instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    pub app: Option<String>,
    pub instance: Option<String>,
    pub prefer_instance: Option<String>,
    /// Handed to the target.
    pub state: Option<String>,
}

impl Replay {
    /// Reads the header's value: `name=value` by semicolons, values quoted or not. Unknown names are skipped.
    #[must_use]
    pub fn parse(value: &str) -> Self {
        let mut replay = Self::default();
        for (name, value) in value.split(';').filter_map(|pair| pair.split_once('=')) {
            let value = Some(value.trim().trim_matches('"').to_owned());
            match name.trim() {
                "app" => replay.app = value,
                "instance" => replay.instance = value,
                "prefer_instance" => replay.prefer_instance = value,
                "state" => replay.state = value,
                _ => {}
            }
        }
        replay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_header_says() {
        let text = |text: &str| Some(text.to_owned());
        for (header, expected) in [
            ("app=a", Replay { app: text("a"), ..Replay::default() }),
            (
                " app=a ; instance=\"m\";state=x=y;region=\"iad,lhr\"",
                Replay { app: text("a"), instance: text("m"), state: text("x=y"), ..Replay::default() },
            ),
            ("prefer_instance=m", Replay { prefer_instance: text("m"), ..Replay::default() }),
            ("", Replay::default()),
            ("elsewhere", Replay::default()),
        ] {
            assert_eq!(Replay::parse(header), expected, "{header}");
        }
    }
}
