//! When a call may be sent: one bucket per action and thing acted on, and a limit on calls under way.
//!
//! A bucket hands out *times* (the generic cell rate algorithm), so that whoever has to wait asks once, sets an
//! alarm, and neither polls nor is overtaken. Buckets of a user's own machine and app live with the user's object;
//! those that users share (an organisation's apps, everything of a shared app) must have one keeper for all.
//!
//! Fly allows one call a second with a burst of three, five a second with ten for reading a machine, and a hundred
//! app deletions a minute. We stay a little below: what was sent evenly may arrive in a bunch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::time::UnixMillis;

use super::call::Kind;

/// What a call is paid from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bucket {
    pub kind: Kind,
    /// The organisation, app, machine or volume.
    pub on: String,
}

/// A rate: one call each `every_ms`, `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub every_ms: u64,
    pub burst: u64,
}

/// What we allow ourselves.
#[must_use]
pub const fn limit(kind: Kind) -> Limit {
    match kind {
        Kind::ReadMachine => Limit { every_ms: 210, burst: 8 },
        Kind::DeleteApp => Limit { every_ms: 620, burst: 2 },
        Kind::CreateApp
        | Kind::ReadApp
        | Kind::AssignAddress
        | Kind::ListAddresses
        | Kind::CreateVolume
        | Kind::ListVolumes
        | Kind::ReadVolume
        | Kind::ExtendVolume
        | Kind::DeleteVolume
        | Kind::CreateMachine
        | Kind::ListMachines
        | Kind::Update
        | Kind::Start
        | Kind::Stop
        | Kind::Restart
        | Kind::DeleteMachine
        | Kind::Lease
        | Kind::ReleaseLease
        | Kind::ListOrgMachines
        | Kind::ListOrgVolumes => Limit { every_ms: 1030, burst: 2 },
    }
}

/// Most calls of the whole fleet under way at once. Fly has no such limit; it bounds what a bad hour costs.
pub const MAX_UNDER_WAY: usize = 64;

/// A call that has not come back after this is taken for lost, in ms. Who performs calls gives up by then.
pub const CALL_LIMIT_MS: u64 = 30_000;

/// The buckets of one keeper.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// For each bucket in use: when it is full again.
    #[serde(with = "entries")]
    full_at: BTreeMap<Bucket, UnixMillis>,
}

impl Budget {
    /// Reserves a call, and says from when on it may be sent; `now` if at once. A reservation that is not used is
    /// lost, which costs one call's worth of time.
    pub fn reserve(&mut self, bucket: Bucket, now: UnixMillis) -> UnixMillis {
        self.full_at.retain(|_, full_at| *full_at > now);
        let Limit { every_ms, burst } = limit(bucket.kind);
        let full_at = self.full_at.get(&bucket).copied().unwrap_or(now).max(now);
        let ahead_ms = every_ms.saturating_mul(burst.saturating_sub(1));
        let at = UnixMillis(full_at.0.saturating_sub(ahead_ms)).max(now);
        self.full_at.insert(bucket, full_at.plus_ms(every_ms));
        at
    }

    /// Fly has said that this bucket is empty: nobody sends from it for a while.
    pub fn refused(&mut self, bucket: Bucket, retry_after_ms: Option<u64>, now: UnixMillis) {
        let Limit { every_ms, burst } = limit(bucket.kind);
        let empty_for_ms = retry_after_ms.unwrap_or(every_ms);
        let full_at = now.plus_ms(empty_for_ms).plus_ms(every_ms.saturating_mul(burst.saturating_sub(1)));
        let entry = self.full_at.entry(bucket).or_insert(full_at);
        *entry = (*entry).max(full_at);
    }
}

/// The calls under way, by who makes them. A holder that does not come back is forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnderWay {
    until: BTreeMap<String, UnixMillis>,
}

impl UnderWay {
    /// Whether another call may start. Ask before a turn is reserved: a turn that is not used when it comes makes
    /// its call meet the next one. A call that has waited for its turn starts in any case; turns come one by one.
    pub fn has_room(&mut self, now: UnixMillis) -> bool {
        self.until.retain(|_, until| *until > now);
        self.until.len() < MAX_UNDER_WAY
    }

    /// `holder` makes a call, which counts until [`Self::back`] or [`CALL_LIMIT_MS`].
    pub fn start(&mut self, holder: &str, now: UnixMillis) {
        self.until.insert(holder.to_owned(), now.plus_ms(CALL_LIMIT_MS));
    }

    /// The holder's call has come back.
    pub fn back(&mut self, holder: &str) {
        self.until.remove(holder);
    }
}

/// JSON has no keys but text, so the map is stored as a list.
mod entries {
    use super::{BTreeMap, Bucket, UnixMillis};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<Bucket, UnixMillis>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Bucket, UnixMillis>, D::Error> {
        Vec::deserialize(deserializer).map(BTreeMap::from_iter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(kind: Kind) -> Bucket {
        Bucket { kind, on: "x".into() }
    }

    #[test]
    fn a_burst_and_then_one_at_a_time() {
        let mut budget = Budget::default();
        let at: Vec<u64> =
            (0..5).map(|_| budget.reserve(bucket(Kind::CreateVolume), UnixMillis(1000)).0).collect();
        assert_eq!(at, [1000, 1000, 2030, 3060, 4090]);
        assert_eq!(
            budget.reserve(bucket(Kind::CreateMachine), UnixMillis(1000)).0,
            1000,
            "a bucket of its own"
        );
        assert_eq!(
            budget.reserve(bucket(Kind::CreateVolume), UnixMillis(60_000)).0,
            60_000,
            "filled up again"
        );
    }

    #[test]
    fn a_refusal_is_believed() {
        let mut budget = Budget::default();
        budget.refused(bucket(Kind::Start), Some(7000), UnixMillis(0));
        assert_eq!(budget.reserve(bucket(Kind::Start), UnixMillis(0)).0, 7000);
        budget.refused(bucket(Kind::Stop), None, UnixMillis(0));
        assert_eq!(budget.reserve(bucket(Kind::Stop), UnixMillis(0)).0, 1030);
    }

    #[test]
    fn stored_and_read_back() {
        let mut budget = Budget::default();
        budget.reserve(bucket(Kind::Start), UnixMillis(5));
        let text = serde_json::to_string(&budget).unwrap();
        assert_eq!(serde_json::from_str::<Budget>(&text).unwrap(), budget);
    }

    #[test]
    fn calls_under_way_are_few_and_a_lost_one_is_forgotten() {
        let mut under_way = UnderWay::default();
        let now = UnixMillis(0);
        for n in 0..MAX_UNDER_WAY {
            assert!(under_way.has_room(now));
            under_way.start(&format!("user{n}"), now);
        }
        assert!(!under_way.has_room(now));
        under_way.back("user1");
        assert!(under_way.has_room(now));
        under_way.start("late", now);
        assert!(!under_way.has_room(now));
        assert!(under_way.has_room(UnixMillis(CALL_LIMIT_MS)));
    }

    proptest! {
        /// Fly's own bucket (one a second, three at once) never runs dry under any pattern of asking.
        #[test]
        fn within_flys_limit(gaps in prop::collection::vec(0_u64..3000, 1..60)) {
            let mut budget = Budget::default();
            let (mut now, mut tokens_ms, mut last) = (0, 3000_u64, 0);
            for gap in gaps {
                now += gap;
                let at = budget.reserve(bucket(Kind::CreateApp), UnixMillis(now)).0;
                prop_assert!(at >= now && at >= last, "times are handed out in order");
                tokens_ms = (tokens_ms + (at - last)).min(3000);
                prop_assert!(tokens_ms >= 1000);
                tokens_ms -= 1000;
                last = at;
            }
        }
    }
}
