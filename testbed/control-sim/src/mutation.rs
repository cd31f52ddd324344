//! Rules taken out, one at a time, at the seams of the executor. The decisions themselves are not touched.

use edge::fly::{Answer, Fault};
use edge::machine::{Action, Outcome, Record};

/// A rule that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// What is intended is not stored before the call leaves.
    NoStoreBeforeCall,
    /// What exists already is not taken over.
    NoAdoption,
    /// The same, but only where Fly says that a name is taken.
    NoAdoptionOnConflict,
    /// A create whose outcome is unknown counts as one that did not happen.
    NoLookUp,
    /// After a restart, what had left is forgotten.
    NoDoubtAfterRestart,
    /// One look at something that may exist is enough, and at once.
    NoSettling,
    /// What a volume had on it is forgotten.
    NoMemoryOfData,
    /// Nobody asks when a call may be sent.
    NoBudget,
}

impl Mutation {
    pub const ALL: [Self; 8] = [
        Self::NoStoreBeforeCall,
        Self::NoAdoption,
        Self::NoAdoptionOnConflict,
        Self::NoLookUp,
        Self::NoDoubtAfterRestart,
        Self::NoSettling,
        Self::NoMemoryOfData,
        Self::NoBudget,
    ];

    /// What the executor is told instead of what came back.
    pub(crate) fn outcome(self, action: &Action, outcome: Outcome) -> Outcome {
        match (self, outcome) {
            (Self::NoAdoption, Outcome::Fly(Ok(Answer::Volumes(_)))) => {
                Outcome::Fly(Ok(Answer::Volumes(Vec::new())))
            }
            (Self::NoAdoption, Outcome::Fly(Ok(Answer::Machines(_)))) => {
                Outcome::Fly(Ok(Answer::Machines(Vec::new())))
            }
            (Self::NoAdoption | Self::NoAdoptionOnConflict, Outcome::Fly(Err(mut error))) => {
                if let Fault::MachineExists(_) = error.fault {
                    error.fault = Fault::NotYet;
                }
                Outcome::Fly(Err(error))
            }
            (Self::NoLookUp, Outcome::Fly(Err(mut error))) => {
                if error.fault == Fault::Unknown && is_create(action) {
                    error.fault = Fault::NotSent;
                }
                Outcome::Fly(Err(error))
            }
            (_, outcome) => outcome,
        }
    }

    /// What the executor stores instead of what it should.
    pub(crate) fn record(self, mut record: Record) -> Record {
        match self {
            Self::NoSettling => {
                if let Some(doubt) = &mut record.doubt {
                    doubt.next_look = shared::time::UnixMillis(0);
                    doubt.absent_reads = 1;
                }
            }
            Self::NoMemoryOfData => record.content = edge::machine::record::Content::Empty,
            Self::NoStoreBeforeCall
            | Self::NoAdoption
            | Self::NoAdoptionOnConflict
            | Self::NoLookUp
            | Self::NoDoubtAfterRestart
            | Self::NoBudget => {}
        }
        record
    }
}

const fn is_create(action: &Action) -> bool {
    matches!(action, Action::CreateApp | Action::CreateVolume { .. } | Action::CreateMachine)
}
