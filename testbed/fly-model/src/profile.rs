//! Every number of the model.

/// From so many ms to so many.
#[derive(Debug, Clone, Copy)]
pub struct Range(pub u64, pub u64);

/// A region and the machines that it has room for.
#[derive(Debug, Clone)]
pub struct Region {
    pub code: String,
    /// Memory of each host, in MB.
    pub hosts_mb: Vec<u64>,
}

/// How this Fly is made, and how fast it is. Times in ms.
#[derive(Debug, Clone)]
pub struct Profile {
    pub org: String,
    pub token: String,
    pub regions: Vec<Region>,
    /// App names that belong to other organisations.
    pub foreign_apps: Vec<String>,
    /// Whether rates are limited.
    pub limits: bool,
    /// Whether a 429 carries `Retry-After`.
    pub retry_after: bool,
    /// Whether making apps is counted on the organisation, or on each name.
    pub app_creates_per_org: bool,
    /// How long an answer takes.
    pub answer: Range,
    pub create_to_starting: Range,
    pub starting_to_started: Range,
    /// Beyond that, the first time that a host runs an image.
    pub pull: Range,
    pub start: Range,
    pub stop: Range,
    /// After a stop, for so long a start is refused.
    pub still_active: u64,
    pub update_running: Range,
    pub update_stopped: Range,
    pub destroy: Range,
    /// How long a volume stays claimed by a machine that is gone.
    pub claim: Range,
    pub volume_create: Range,
    pub volume_copy: Range,
    /// How long a new thing is missing from lists.
    pub list_lag: Range,
    /// How long a new app is not found.
    pub app_lag: Range,
    /// How long a deleted volume is still listed, and still readable.
    pub volume_tombstone: u64,
    /// How long a destroyed machine is still readable.
    pub machine_tombstone: u64,
    /// How long deleting an app takes.
    pub app_delete: Range,
    /// Memory that the organisation may use in one region, in MB.
    pub quota_mb: u64,
    /// In how many of 1000 cases a volume is put on a host without room for the machine that it is meant for.
    pub misplaced: u32,
    /// In how many of 1000 cases somebody else has changed a machine just before an update arrives.
    pub meddled: u32,
    /// How long a machine may still boot with the secrets from before a change.
    pub secrets_lag: Range,
    /// Whether somebody runs a process for each machine, and reports its end by [`crate::Fly::exited`]. What the
    /// model would let happen after a stop then waits for that report.
    pub real_processes: bool,
    /// The second number of the loopback addresses (`127.x.0.0/16`) that machines get instead of private ones.
    pub loopback: Option<u8>,
}

impl Default for Profile {
    /// An organisation in two regions with plenty of room.
    fn default() -> Self {
        let region = |code: &str| Region { code: code.to_owned(), hosts_mb: vec![65_536; 3] };
        Self {
            org: "automna".to_owned(),
            token: "token".to_owned(),
            regions: vec![region("sjc"), region("iad")],
            foreign_apps: Vec::new(),
            limits: true,
            retry_after: true,
            app_creates_per_org: true,
            answer: Range(80, 250),
            create_to_starting: Range(400, 800),
            starting_to_started: Range(600, 1000),
            pull: Range(0, 0),
            start: Range(300, 500),
            stop: Range(200, 3_000),
            still_active: 400,
            update_running: Range(1_500, 2_500),
            update_stopped: Range(300, 700),
            destroy: Range(1_000, 5_000),
            claim: Range(0, 10_000),
            volume_create: Range(300, 700),
            volume_copy: Range(4_000, 7_000),
            list_lag: Range(0, 1_000),
            app_lag: Range(0, 800),
            volume_tombstone: 5_000,
            machine_tombstone: 300_000,
            app_delete: Range(1_000, 3_000),
            quota_mb: u64::MAX,
            misplaced: 0,
            meddled: 0,
            secrets_lag: Range(0, 2_000),
            real_processes: false,
            loopback: None,
        }
    }
}
