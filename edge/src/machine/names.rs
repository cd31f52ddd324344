//! What a user's things are called. The names are made of the user id and the generation alone, so that a call
//! whose answer was lost can be looked up, and a second one meets the first.

use sha2::{Digest as _, Sha256};
use shared::id::{AppName, Generation, UserId};

use super::desired::Layout;

/// Hexadecimal digits of the user's tag: 80 bits, so that even ten million users do not meet.
const TAG_DIGITS: usize = 20;

/// The metadata key of the generation.
pub const GENERATION_KEY: &str = "automna_generation";

/// The names of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    pub app: AppName,
    pub machine: String,
    /// At most 30 of `[a-z0-9_]`, which is Fly's rule.
    pub volume: String,
    /// Stands for the user where a third party reads it.
    pub tag: String,
}

/// Stands for a user in names and metadata: a hash of the id with its case kept. The last characters of the id
/// in lower case, which were used once, are the same for different users.
#[must_use]
pub fn tag(user: &UserId) -> String {
    let hash = Sha256::new().chain_update(b"automna/names/v1\0").chain_update(user.as_str()).finalize();
    hash.iter().flat_map(|byte| [byte >> 4, byte & 15]).take(TAG_DIGITS).map(hex).collect()
}

fn hex(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('0')
}

/// The names of `user`'s things in this generation. `None` for an id that no name is made of
/// ([`UserId::is_portable`]), or a prefix that leaves no room for the tag.
#[must_use]
pub fn names(layout: &Layout, user: &UserId, generation: Generation) -> Option<Names> {
    if !user.is_portable() {
        return None;
    }
    let tag = tag(user);
    let app = match layout {
        Layout::PerUser { prefix } => format!("{prefix}-{tag}").parse().ok()?,
        Layout::Shared { app } => app.clone(),
    };
    let Generation(number) = generation;
    Some(Names { app, machine: format!("u-{tag}-g{number}"), volume: format!("u{tag}g{number:x}"), tag })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shared::id::VolumeId;

    fn layout() -> Layout {
        Layout::PerUser { prefix: "automna-u".into() }
    }

    /// Names live as long as their machines: they may never change. Computed with Python's `hashlib`.
    #[test]
    fn names_are_stable() {
        let names = names(&layout(), &"user_abc123".parse().unwrap(), Generation(1)).unwrap();
        assert_eq!(names.tag, "362908974d002911c600");
        assert_eq!(names.app.as_str(), "automna-u-362908974d002911c600");
        assert_eq!(names.machine, "u-362908974d002911c600-g1");
        assert_eq!(names.volume, "u362908974d002911c600g1");
    }

    #[test]
    fn no_names() {
        assert_eq!(names(&layout(), &"user_a.b".parse().unwrap(), Generation(1)), None);
        let long = Layout::PerUser { prefix: "x".repeat(50) };
        assert_eq!(names(&long, &"user_a".parse().unwrap(), Generation(1)), None);
    }

    proptest! {
        #[test]
        fn names_fit_flys_rules(id in "user_[A-Za-z0-9_-]{1,100}", generation: u32) {
            let user: UserId = id.parse().unwrap();
            let names = names(&layout(), &user, Generation(generation)).unwrap();
            prop_assert!(names.volume.len() <= 30 && names.volume.parse::<VolumeId>().is_ok());
            prop_assert!(names.machine.len() <= 63);
        }

        #[test]
        fn users_who_differ_in_case_alone_are_two(id in "[a-z]{1,20}") {
            let tag_of = |id: String| tag(&id.parse().unwrap());
            prop_assert_ne!(tag_of(format!("user_{id}")), tag_of(format!("user_{}", id.to_uppercase())));
        }
    }
}
