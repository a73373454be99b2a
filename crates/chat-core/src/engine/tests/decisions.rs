//! The engine's decisions one by one, on a real vault: what it wants done is looked at, and answered
//! as a relay may answer, also as no relay ought to.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tempfile::TempDir;
use valise_client::{SlotPut, random};
use valise_proto::{Reason, Token};

use crate::engine::commits::Wanted;
use crate::engine::core::{Core, now_ms};
use crate::engine::effect::{CommitPut, Effect, Gathered, Input, Job, Outcome, Purpose};
use crate::engine::fault::Fault;
use crate::engine::own_mailbox;
use crate::engine::records::{ONLY, state};
use crate::engine::renewal::Renewal;
use crate::identity::{AccountId, DeviceId, RootKey, SignedRecord};
use crate::mls::{Change, Device, Group, key_package};
use crate::relays::{RelayError, RelayEvent};
use crate::seal::{HpkeKeyPair, slot};
use crate::vault::{Cost, Passphrase, Transaction, Vault};
use crate::wire::{self, group_info::Kind};

const RELAY: &str = "valise://relay.example:443/";

/// A profile, caught up with a relay that is the test.
struct Profile {
    vault: Vault,
    core: Core,
    _directory: TempDir,
}

/// Another member's device.
struct Other {
    device: Device,
    newcomer: state::Newcomer,
}

impl Other {
    fn new() -> Self {
        let (root, seed) = (RootKey::generate(), random::bytes());
        let (account, device) = (random::bytes::<32>(), random::bytes::<16>());
        let key = Device::public_key(&seed);
        let credential = root.certify(AccountId(account), DeviceId(device), &key);
        let newcomer = state::Newcomer {
            account: account.to_vec(),
            device: device.to_vec(),
            relay: relay(),
            capability: vec![1; 60],
            hpke_key: HpkeKeyPair::generate().public().0.to_vec(),
            ..Default::default()
        };
        Self { device: Device::new(credential, &seed), newcomer }
    }

    /// A key package; `name` may be as long as one likes.
    fn package(&self, name: &str) -> crate::mls::NewKeyPackage {
        let state::Newcomer { relay, capability, hpke_key, .. } = self.newcomer.clone();
        let member = wire::Member {
            address: Some(wire::Address { relay, capability }),
            name: name.to_owned(),
            hpke_key,
        };
        key_package(&self.device, &member, false).unwrap()
    }
}

fn relay() -> String {
    format!("{RELAY}{}", "a".repeat(32))
}

impl Profile {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("profile");
        let passphrase = Passphrase::from("x");
        let me = state::Me {
            account: random::bytes::<32>().to_vec(),
            root_seed: random::bytes::<32>().to_vec(),
            device: random::bytes::<16>().to_vec(),
            signature_seed: random::bytes::<32>().to_vec(),
            hpke_public: HpkeKeyPair::generate().public().0.to_vec(),
            relay: relay(),
            name: "Ann".to_owned(),
            member_token_ms: now_ms(),
            bundle_ms: now_ms(),
            bundle_published: true,
            bundle_format: 1,
            ..Default::default()
        };
        let me = with_record(me);
        let vault = Vault::create_with(&path, &passphrase, Cost::CHEAPEST, |tx| {
            Ok::<(), Fault>(tx.put(ONLY, &me)?)
        });
        let vault = vault.unwrap();
        let core = vault.read(Core::load).unwrap();
        let mut profile = Self { vault, core, _directory: directory };
        profile.step(Input::Relay(RelayEvent::CaughtUp));
        profile
    }

    /// One input; the jobs that follow from it.
    fn step(&mut self, input: Input) -> Vec<Job> {
        let core = &mut self.core;
        self.vault.write(|tx| core.step(tx, input)).unwrap();
        self.jobs()
    }

    fn done(&mut self, outcome: Outcome) -> Vec<Job> {
        self.step(Input::Done(outcome))
    }

    fn write<R>(
        &mut self,
        change: impl FnOnce(&mut Core, &Transaction<'_>) -> Result<R, Fault>,
    ) -> (R, Vec<Job>) {
        let core = &mut self.core;
        let result = self.vault.write(|tx| change(core, tx)).unwrap();
        (result, self.jobs())
    }

    /// What is to be done at slots; posts and waits are left out.
    fn jobs(&mut self) -> Vec<Job> {
        let jobs = self.core.take_effects().into_iter().filter_map(|effect| match effect {
            Effect::Start(Job::Post(_) | Job::Wait(..)) => None,
            Effect::Start(job) => Some(job),
            _ => None,
        });
        jobs.collect()
    }

    /// A group that the other has made, and this device has joined and followed to its end.
    fn joined(&mut self, other: &Other) -> (i64, Group) {
        self.joined_at(other, &relay())
    }

    /// The same, where the other has its mailbox at this relay.
    fn joined_at(&mut self, other: &Other, theirs: &str) -> (i64, Group) {
        let info = wire::GroupInfo {
            kind: Kind::Group as i32,
            home: relay(),
            slot_token: vec![6; 60],
            slot_token_ms: now_ms(),
            ..Default::default()
        };
        let member = self.core.member(vec![2; 60]);
        let package = key_package(&self.core.device, &member, false).unwrap();
        let address = wire::Address { relay: theirs.to_owned(), capability: vec![8; 60] };
        let address = Some(address);
        let founder = wire::Member { address, hpke_key: vec![4; 32], ..member.clone() };
        let mut group = Group::create(&other.device, random::bytes(), &info, &founder).unwrap();
        let change = Change { add: vec![package.bytes], ..Default::default() };
        let welcome = group.prepare(&other.device, change).unwrap().welcome.unwrap();
        group.merge_own().unwrap();
        let joined = Group::join(&self.core.device, &welcome, package.entries).unwrap();
        let (row, jobs) = self.write(|core, tx| {
            let kind = Kind::Group as u32;
            let conversation = tx.insert(&state::Conversation { kind, ..Default::default() })?;
            let row = core.insert_group(tx, joined, conversation, member.address.unwrap())?;
            let mut stored: state::Group = tx.get(row)?.unwrap();
            stored.slot_token = vec![3; 60];
            tx.put(row, &stored)?;
            core.walk(tx, row)?;
            Ok(row)
        });
        assert_eq!(walk_of(&jobs), (group.epoch(), 0));
        assert!(self.walked(row, (group.epoch(), 0), None).is_empty());
        (row, group)
    }

    /// The group's slot is looked at again, and holds this.
    fn look(&mut self, row: i64, value: Option<Bytes>) -> Vec<Job> {
        let ((), jobs) = self.write(|core, tx| core.walk(tx, row));
        self.walked(row, walk_of(&jobs), value)
    }

    /// The answer to a walk.
    fn walked(&mut self, row: i64, (epoch, attempt): (u64, u32), value: Option<Bytes>) -> Vec<Job> {
        let heads = vec![(row, epoch, attempt)];
        self.done(Outcome::Walked { heads, result: Ok(vec![value]) })
    }
}

/// The epoch and attempt of the one walk.
fn walk_of(jobs: &[Job]) -> (u64, u32) {
    match jobs {
        [Job::Walk { heads, .. }] => (heads[0].1, heads[0].2),
        _ => panic!("no walk alone"),
    }
}

fn with_record(mut me: state::Me) -> state::Me {
    let root = RootKey::from_seed(&me.root_seed.clone().try_into().unwrap());
    let account = AccountId(me.account.clone().try_into().unwrap());
    let device = crate::engine::own::device_record(&me).unwrap();
    let record = SignedRecord::first(&root, account, device, [5; 32]).unwrap();
    me.signed_record = wire::SignedRecord::from(record).encode_to_vec();
    me
}

/// Our own commit, with two values, was put before a crash, and somebody has put a void meanwhile.
#[test]
fn a_commit_whose_part_is_void_is_made_again() {
    let (mut ann, bob) = (Profile::new(), Other::new());
    let (row, group) = ann.joined(&bob);
    let keys = group.keys();
    let newcomers: Vec<_> = (0..60).map(|_| Other::new()).collect();
    let fat = |other: &Other| (other.package(&"x".repeat(800)).bytes, other.newcomer.clone());
    let wanted = Wanted { add: newcomers.iter().map(fat).collect(), ..Default::default() };
    let ((), jobs) = ann.write(|core, tx| core.want(tx, row, wanted));
    let [Job::PutCommit { puts, .. }] = &jobs[..] else { panic!("no commit") };
    let (later, head) = (puts[0].clone(), puts[1].clone());
    assert_eq!(puts.len(), 2);

    let spoilt = |ann: &mut Profile| {
        ann.done(Outcome::Committed { group: row, result: Ok(CommitPut::Spoilt) })
    };
    let jobs = spoilt(&mut ann);
    assert_eq!(walk_of(&jobs), (1, 0));
    // Part 0 was put before the crash: it is there, and junk.
    let jobs = ann.walked(row, (1, 0), Some(head.2.clone()));
    let [Job::FetchParts { ids, .. }] = &jobs[..] else { panic!("no parts asked for") };
    assert_eq!(ids[..], [later.0]);
    let void = slot::seal_void(&keys, &later.0);
    let parts =
        |attempt, value| Outcome::Parts { group: row, epoch: 1, attempt, result: Ok(vec![value]) };
    assert_eq!(walk_of(&ann.done(parts(0, Some(void)))), (1, 1));
    let jobs = ann.walked(row, (1, 1), None);
    let [Job::PutCommit { puts, .. }] = &jobs[..] else { panic!("the change is wanted again") };
    assert_eq!(puts[1].0, slot::id(&keys, 1));
    let (slot, again) = (puts[0].0, puts[1].0);

    // And if part 0 was not there yet, this attempt is free.
    assert_eq!(walk_of(&spoilt(&mut ann)), (1, 1));
    let jobs = ann.walked(row, (1, 1), None);
    let [Job::PutCommit { puts, .. }] = &jobs[..] else { panic!("the change is wanted again") };
    assert!(puts[1].0 == again && puts[0].0 != slot, "the same attempt, parts elsewhere");
    assert!(ann.done(Outcome::Committed { group: row, result: Ok(CommitPut::Stored) }).is_empty());
    let ((), _) = ann.write(|core, tx| {
        assert_eq!((core.group(tx, row)?.epoch(), core.group(tx, row)?.roster().len()), (2, 62));
        Ok(())
    });
}

/// What a relay says of a later part: that it is free, and then what is there.
#[test]
fn a_part_that_is_missing_is_decided_by_its_slot() {
    let (mut ann, bob) = (Profile::new(), Other::new());
    let (row, mut group) = ann.joined(&bob);
    let keys = group.keys();
    let fat = |_| Other::new().package(&"x".repeat(800)).bytes;
    let change = Change { add: (0..100).map(fat).collect(), ..Default::default() };
    let commit = group.prepare(&bob.device, change).unwrap().commit;
    let values = slot::seal_values(&keys, 0, &commit).unwrap();
    assert_eq!(values.len(), 3);
    let (head, one, two) = (&values[2], &values[1], &values[0]);
    let fetch = |ann: &mut Profile, parts: [Option<&Bytes>; 2]| {
        let jobs = ann.look(row, Some(head.1.clone()));
        assert!(matches!(&jobs[..], [Job::FetchParts { ids, .. }] if ids[..] == [one.0, two.0]));
        let result = Ok(parts.map(Option::<&Bytes>::cloned).to_vec());
        ann.done(Outcome::Parts { group: row, epoch: 1, attempt: 0, result })
    };
    let void_of = |jobs: &[Job]| match jobs {
        [Job::PutVoid { part, slot, payload, .. }] => (*part, *slot, payload.clone()),
        _ => panic!("no void"),
    };
    let voided = |ann: &mut Profile, part, result| {
        ann.done(Outcome::Voided { group: row, epoch: 1, attempt: 0, part, result })
    };

    // The relay cannot be asked, or takes no token: nothing is decided, and it goes on later.
    let jobs = fetch(&mut ann, [None, Some(&two.1)]);
    assert_eq!(void_of(&jobs).1, one.0);
    let away = || RelayError::Unreachable("away".to_owned());
    assert!(voided(&mut ann, 1, Err(away())).is_empty());
    assert!(ann.core.rewalk.contains(&row));
    void_of(&fetch(&mut ann, [None, Some(&two.1)]));
    let refused =
        RelayError::Refused { reason: Some(Reason::TokenExpired), retry_after: Duration::ZERO };
    assert!(voided(&mut ann, 1, Err(refused)).is_empty());
    let jobs = fetch(&mut ann, [None, Some(&two.1)]);
    let [Job::Gather(Purpose::Slot { .. }, _)] = &jobs[..] else { panic!("a token is asked for") };
    let gathered =
        Gathered { slot: Some(Token::try_from(&[5; 60][..]).unwrap()), ..Default::default() };
    ann.done(Outcome::Gathered(Purpose::Slot { group: row }, Ok(gathered)));

    // A part that is there after all is used: no void is anywhere.
    let jobs = fetch(&mut ann, [None, None]);
    assert_eq!(void_of(&jobs).0, 1);
    let jobs = voided(&mut ann, 1, Ok(SlotPut::Taken(one.1.clone())));
    assert_eq!((void_of(&jobs).0, void_of(&jobs).1), (2, two.0));
    let jobs = voided(&mut ann, 2, Ok(SlotPut::Taken(two.1.clone())));
    assert_eq!(walk_of(&jobs), (2, 0), "the commit is good");
}

/// As in production, but what is due is not put off at random.
fn at_once() -> Renewal {
    Renewal { soon: Duration::ZERO, ..Renewal::default() }
}

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

impl Profile {
    fn change_group(&mut self, row: i64, change: impl FnOnce(&mut state::Group)) {
        self.write(|_, tx| {
            let mut stored: state::Group = tx.get(row)?.unwrap();
            change(&mut stored);
            Ok(tx.put(row, &stored)?)
        });
    }

    fn stored(&mut self, row: i64) -> state::Group {
        self.write(|_, tx| Ok(tx.get::<state::Group>(row)?.unwrap())).0
    }

    fn info(&mut self, row: i64) -> wire::GroupInfo {
        self.write(|core, tx| Ok(core.group(tx, row)?.info())).0
    }

    fn upkeep(&mut self) -> Vec<Job> {
        self.done(Outcome::Upkeep)
    }
}

#[test]
fn an_old_leaf_is_renewed_and_a_new_one_is_not() {
    let (mut ann, bob) = (Profile::new(), Other::new());
    ann.core.renewal = at_once();
    let (row, mut group) = ann.joined(&bob);
    assert!(ann.upkeep().is_empty());
    // A profile of before: the leaf counts as new.
    ann.change_group(row, |stored| stored.own_leaf_ms = 0);
    assert!(ann.upkeep().is_empty());
    assert!(ann.stored(row).own_leaf_ms + DAY_MS > now_ms());

    ann.change_group(row, |stored| stored.own_leaf_ms = now_ms() - 8 * DAY_MS);
    assert!(ann.upkeep().is_empty(), "a time is drawn");
    let jobs = ann.upkeep();
    let [Job::PutCommit { puts, .. }] = &jobs[..] else { panic!("no commit") };
    assert!(ann.upkeep().is_empty(), "one is enough");
    // Somebody else was first: it is wanted again upon theirs, and opens for them.
    let theirs = group.prepare(&bob.device, Change::default()).unwrap().commit;
    let value = slot::seal_values(&group.keys(), 0, &theirs).unwrap().remove(0).1;
    let put = puts[0].0;
    let taken = Ok(CommitPut::Taken(value));
    group.merge_own().unwrap();
    assert_eq!(walk_of(&ann.done(Outcome::Committed { group: row, result: taken })), (2, 0));
    let jobs = ann.walked(row, (2, 0), None);
    let [Job::PutCommit { puts, .. }] = &jobs[..] else { panic!("no commit") };
    assert!(puts[0].0 != put);
    let head = slot::open_head(&group.keys(), 0, &puts[0].2).unwrap();
    let judged = group.judge(&head.bytes).unwrap();
    ann.done(Outcome::Committed { group: row, result: Ok(CommitPut::Stored) });
    let summary = group.apply(judged).unwrap();
    assert!(summary.added.is_empty() && summary.removed.is_empty() && !summary.info_changed);
    assert!(ann.stored(row).own_leaf_ms + DAY_MS > now_ms());
    assert!(ann.upkeep().is_empty() && ann.upkeep().is_empty());

    // A relay that does not take it is not asked again at once.
    ann.change_group(row, |stored| stored.renew_leaf_ms = 1);
    assert!(matches!(&ann.upkeep()[..], [Job::PutCommit { .. }]));
    let reason = Some(Reason::TokenExpired);
    let result = Err(RelayError::Refused { reason, retry_after: Duration::ZERO });
    ann.done(Outcome::Committed { group: row, result });
    assert!(ann.upkeep().is_empty() && ann.upkeep().is_empty());
}

#[test]
fn the_shared_token_is_renewed_for_those_elsewhere() {
    let elsewhere = relay().replace("/aaaa", "/bbbb");
    let token = |byte: u8| vec![byte; 60];
    let (mut ann, bob) = (Profile::new(), Other::new());
    ann.core.renewal = at_once();
    let (row, _) = ann.joined(&bob);
    assert!(ann.upkeep().is_empty(), "all have a token of their own");

    let (mut ann, bob) = (Profile::new(), Other::new());
    ann.core.renewal = at_once();
    let (_, mut group) = ann.joined_at(&bob, &elsewhere);
    let asked = |jobs: &[Job]| matches!(jobs, [Job::Gather(Purpose::SharedSlot { .. }, _)]);
    assert!(ann.upkeep().is_empty(), "it is not old");
    ann.core.renewal.shared_token = Duration::ZERO;
    assert!(asked(&ann.upkeep()));
    assert!(ann.upkeep().is_empty());
    let gathered = |byte| {
        let slot = Token::try_from(&token(byte)[..]).ok();
        let gathered = Gathered { slot, ..Default::default() };
        Outcome::Gathered(Purpose::SharedSlot { group: row }, Ok(gathered))
    };
    let jobs = ann.done(gathered(7));
    let [Job::PutCommit { puts, .. }] = &jobs[..] else { panic!("no commit") };
    let head = slot::open_head(&group.keys(), 0, &puts[0].2).unwrap();
    let judged = group.judge(&head.bytes).unwrap();
    ann.core.renewal = at_once();
    ann.done(Outcome::Committed { group: row, result: Ok(CommitPut::Stored) });
    group.apply(judged).unwrap();
    assert_eq!(group.info().slot_token, token(7));
    assert!(group.info().slot_token_ms + DAY_MS > now_ms());
    assert!(ann.upkeep().is_empty() && ann.upkeep().is_empty());

    // Two hundred days later; but while the token is had, another member is first.
    ann.core.renewal.shared_token = Duration::ZERO;
    assert!(asked(&ann.upkeep()));
    ann.core.renewal = at_once();
    assert!(ann.done(gathered(8)).is_empty(), "it is done already");
    assert_eq!(ann.info(row).slot_token, token(7));
    // The group's name may be changed at the same time without taking the token back.
    ann.core.renewal.shared_token = Duration::ZERO;
    assert!(asked(&ann.upkeep()));
    let named = Wanted { name: Some("Trip".to_owned()), ..Default::default() };
    let ((), jobs) = ann.write(|core, tx| core.want(tx, row, named));
    assert!(matches!(&jobs[..], [Job::PutCommit { .. }]));
    assert!(ann.done(gathered(9)).is_empty(), "one commit at a time");
    let jobs = ann.done(Outcome::Committed { group: row, result: Ok(CommitPut::Stored) });
    assert!(matches!(&jobs[..], [Job::PutCommit { .. }]));
    ann.done(Outcome::Committed { group: row, result: Ok(CommitPut::Stored) });
    let info = ann.info(row);
    assert_eq!((&info.name[..], info.slot_token), ("Trip", token(9)));
}

#[test]
fn a_leaf_from_the_last_resort_is_renewed_within_minutes() {
    for last_resort in [true, false] {
        let (mut ann, bob) = (Profile::new(), Other::new());
        let (package, _) = ann.write(|core, tx| core.new_key_package(tx, vec![2; 60], last_resort));
        let info =
            wire::GroupInfo { kind: Kind::Group as i32, home: relay(), ..Default::default() };
        let member = ann.core.member(vec![8; 60]);
        let mut group = Group::create(&bob.device, random::bytes(), &info, &member).unwrap();
        let change = Change { add: vec![package], ..Default::default() };
        let welcome = group.prepare(&bob.device, change).unwrap().welcome.unwrap();
        ann.write(|core, tx| core.welcomed(tx, &welcome, &[]));
        let stored = ann.stored(1);
        assert!(stored.own_leaf_ms > 0);
        assert_eq!(stored.renew_leaf_ms > 0, last_resort);
        assert!(stored.renew_leaf_ms <= now_ms() + 10 * 60 * 1_000);
    }
}

/// The next start goes there first. The user hears nothing of it.
#[test]
fn where_to_begin_is_kept() {
    let mut profile = Profile::new();
    for endpoint in [Some("b.example:443".to_owned()), None] {
        let input = Input::Relay(RelayEvent::Prefers(endpoint.clone()));
        let core = &mut profile.core;
        profile.vault.write(|tx| core.step(tx, input)).unwrap();
        let effects = profile.core.take_effects();
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Emit(_))));
        let me = profile.vault.read(Core::load).unwrap().me;
        let (owner_key, member_token) = (vec![1; 32], vec![2; 60]);
        let own = own_mailbox(&state::Me { owner_key, member_token, ..me }).unwrap();
        assert_eq!(own.prefer, endpoint);
    }
}

/// The address of a relay that has moved leads nowhere; what was learnt of its realm does.
#[test]
fn what_is_known_of_a_realm_is_kept() {
    use crate::engine::realms;
    use crate::relays::KnownRealm;
    use valise_client::proto::{RealmId, Signature, SignedRealmRecord};

    let mut profile = Profile::new();
    let known = |realm, epoch: u8, prefer: Option<&str>| KnownRealm {
        realm: RealmId::new([realm; 20]),
        record: SignedRealmRecord {
            record: vec![epoch; 90].into(),
            signature: Signature::new([epoch; 64]),
        },
        prefer: prefer.map(str::to_owned),
    };
    for news in [known(1, 5, None), known(2, 1, None), known(1, 6, Some("b.example:443"))] {
        let input = Input::Relay(RelayEvent::Realm(news));
        let core = &mut profile.core;
        profile.vault.write(|tx| core.step(tx, input)).unwrap();
        let effects = profile.core.take_effects();
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Emit(_))), "nobody is told");
    }
    let kept = profile.vault.read(realms::load).unwrap();
    assert_eq!(kept, [known(1, 6, Some("b.example:443")), known(2, 1, None)]);
}
