//! Groups as their members see them: who gets in, who reads what, and what everyone refuses.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::identity::{AccountId, DeviceId, RootKey};

/// A device, and the group as it has it.
struct Member {
    device: Device,
    group: Option<Group>,
    /// What its database would have.
    stored: HashMap<Vec<u8>, Vec<u8>>,
}

fn device(root: &RootKey, account: u8, number: u8) -> Device {
    let seed = valise_client::random::bytes();
    let key = Device::public_key(&seed);
    let credential =
        root.certify(AccountId([account; 32]), DeviceId([account ^ (number << 4); 16]), &key);
    Device::new(credential, &seed)
}

fn says(name: &str) -> wire::Member {
    let address = wire::Address { relay: "r".to_owned(), capability: vec![1; 60] };
    wire::Member { address: Some(address), name: name.to_owned(), hpke_key: vec![2; 32] }
}

fn info(kind: Kind) -> wire::GroupInfo {
    wire::GroupInfo { kind: kind as i32, home: "home".to_owned(), ..Default::default() }
}

impl Member {
    /// A person's first device.
    fn new(account: u8) -> Self {
        Self::of(&RootKey::generate(), account, 0)
    }

    fn of(root: &RootKey, account: u8, number: u8) -> Self {
        Self { device: device(root, account, number), group: None, stored: HashMap::new() }
    }

    fn founder(account: u8, kind: Kind) -> Self {
        let mut member = Self::new(account);
        let group = Group::create(&member.device, [7; 16], &info(kind), &says("founder"));
        member.group = Some(group.unwrap());
        member.store();
        member
    }

    fn group(&mut self) -> &mut Group {
        self.group.as_mut().unwrap()
    }

    fn store(&mut self) {
        for entry in self.group.as_mut().unwrap().changes() {
            match entry.value {
                Some(value) => drop(self.stored.insert(entry.key, value)),
                None => drop(self.stored.remove(&entry.key)),
            }
        }
    }

    /// As after a crash: what is not stored is gone.
    fn reload(&mut self) {
        let entries = self.stored.clone().into_iter().collect();
        self.group = Some(Group::load(&[7; 16], entries).unwrap());
    }

    fn package(&self) -> NewKeyPackage {
        key_package(&self.device, &says("member"), false).unwrap()
    }

    fn prepare(&mut self, change: Change) -> Result<Prepared, MlsError> {
        let device = self.device.clone();
        self.group().prepare(&device, change)
    }

    fn say(&mut self, text: &str) -> Vec<u8> {
        let device = self.device.clone();
        let message = self.group().encrypt(&device, text.as_bytes(), b"aad").unwrap();
        self.store();
        message
    }

    fn hear(&mut self, message: &[u8]) -> Result<String, MlsError> {
        let opened = self.group().open(message)?;
        assert_eq!(opened.authenticated, b"aad");
        self.store();
        Ok(String::from_utf8(opened.content).unwrap())
    }

    fn follow(&mut self, commit: &[u8]) -> Result<Summary, Junk> {
        let judged = self.group().judge(commit)?;
        let summary = self.group().apply(judged).unwrap();
        self.store();
        Ok(summary)
    }
}

/// Adds members: everyone in `present` follows.
fn add(founder: &mut Member, present: &mut [&mut Member], new: &mut [&mut Member]) -> Summary {
    let packages: Vec<_> = new.iter().map(|member| member.package()).collect();
    let bytes = packages.iter().map(|package| package.bytes.clone()).collect();
    let prepared = founder.prepare(Change { add: bytes, ..Default::default() }).unwrap();
    let summary = founder.group().merge_own().unwrap();
    founder.store();
    for member in present {
        assert_eq!(member.follow(&prepared.commit).unwrap().added.len(), new.len());
    }
    let welcome = prepared.welcome.unwrap();
    let references = welcome_references(&welcome).unwrap();
    for (member, package) in new.iter_mut().zip(packages) {
        assert!(references.contains(&package.reference));
        let group = Group::join(&member.device, &welcome, package.entries).unwrap();
        member.group = Some(group);
        member.store();
    }
    summary
}

fn three() -> (Member, Member, Member) {
    let (mut a, mut b, mut c) = (Member::founder(1, Kind::Group), Member::new(2), Member::new(3));
    add(&mut a, &mut [], &mut [&mut b, &mut c]);
    (a, b, c)
}

#[test]
fn everyone_in_the_group_reads_and_shares_its_keys() {
    let (mut a, mut b, mut c) = three();
    let message = b.say("hello");
    assert_eq!(a.hear(&message).unwrap(), "hello");
    assert_eq!(c.hear(&message).unwrap(), "hello");
    assert_eq!(a.hear(&message), Err(MlsError::Copy));
    assert_eq!(b.hear(&message), Err(MlsError::Copy), "one's own");
    for other in [&mut b, &mut c] {
        assert_eq!(a.group().keys().envelope, other.group().keys().envelope);
        assert_eq!(a.group().epoch_authenticator(), other.group().epoch_authenticator());
    }
    let keys = a.group().keys();
    assert!(keys.hint != keys.envelope && keys.envelope != keys.slot);
    let names: Vec<_> = c.group().roster().into_iter().map(|leaf| leaf.member.name).collect();
    assert_eq!(names, ["founder", "member", "member"]);
}

#[test]
fn whoever_is_removed_reads_no_more() {
    let (mut a, mut b, mut c) = three();
    let change = Change { remove: vec![c.group().own_leaf()], ..Default::default() };
    let prepared = a.prepare(change).unwrap();
    let gone = a.group().merge_own().unwrap();
    assert_eq!(gone.removed[0].account, c.device.credential().account);
    b.follow(&prepared.commit).unwrap();
    let old_keys = c.group().keys();
    assert!(c.follow(&prepared.commit).unwrap().removed_me);
    assert!(!c.group().is_active());
    assert!(a.group().keys().envelope != old_keys.envelope);
    let message = a.say("without you");
    assert_eq!(b.hear(&message).unwrap(), "without you");
    assert!(c.hear(&message).is_err());
}

#[test]
fn old_state_opens_nothing_new_and_new_state_nothing_opened_before() {
    let (mut a, mut b, _) = three();
    let first = a.say("first");
    b.hear(&first).unwrap();
    // Forward secrecy: whoever takes the state now does not open what was opened.
    let stolen: Vec<_> = b.stored.clone().into_iter().collect();
    let mut thief = Group::load(&[7; 16], stolen.clone()).unwrap();
    assert!(thief.open(&first).is_err());
    // Recovery after compromise: an update by either side locks the thief out.
    let later = a.say("still open to the thief");
    assert!(thief.open(&later).is_ok());
    b.hear(&later).unwrap();
    let update = b.prepare(Change::default()).unwrap();
    b.group().merge_own().unwrap();
    a.follow(&update.commit).unwrap();
    let healed = a.say("healed");
    assert_eq!(b.hear(&healed).unwrap(), "healed");
    let mut thief = Group::load(&[7; 16], stolen).unwrap();
    assert!(thief.open(&healed).is_err());
    assert!(thief.judge(&update.commit).is_err(), "not even the commit");
    assert!(thief.keys().envelope != a.group().keys().envelope);
}

#[test]
fn keys_of_old_epochs_go() {
    let (mut a, mut b, _) = three();
    let old = a.say("very old");
    let late = |rounds: usize, a: &mut Member, b: &mut Member| {
        for _ in 0..rounds {
            let update = a.prepare(Change::default()).unwrap();
            a.group().merge_own().unwrap();
            b.follow(&update.commit).unwrap();
        }
    };
    late(PAST_EPOCHS - 1, &mut a, &mut b);
    let recent = a.say("recent");
    late(PAST_EPOCHS, &mut a, &mut b);
    assert_eq!(b.hear(&recent).unwrap(), "recent");
    let lost = b.hear(&old).unwrap_err();
    assert!(lost.is_lost(), "{lost}");
}

#[test]
fn a_ghost_is_refused_by_everyone_on_every_path() {
    let (mut a, mut b, _) = three();
    // Signed by nobody, by another root, and by a second root of a known account.
    let root = RootKey::generate();
    let good = device(&root, 9, 0);
    let mut credential = good.credential().clone();
    credential.certificate[0] ^= 1;
    let unsigned = Device::new(credential, &valise_client::random::bytes());
    let package = key_package(&unsigned, &says("ghost"), false).unwrap();
    assert_eq!(read_key_package(&package.bytes), Err(Junk::Ghost));
    let change = Change { add: vec![package.bytes.clone()], ..Default::default() };
    assert_eq!(a.prepare(change), Err(Junk::Ghost.into()));
    let second_root = device(&RootKey::generate(), 2, 3);
    let second = key_package(&second_root, &says("ghost"), false).unwrap();
    assert!(read_key_package(&second.bytes).is_ok(), "by itself it is whole");
    let change = Change { add: vec![second.bytes.clone()], ..Default::default() };
    assert_eq!(a.prepare(change), Err(Junk::Ghost.into()));

    // A member that does not keep to the rules commits it all the same: all others refuse alike.
    for package in [package, second] {
        let commit = a.forge(&[package.bytes]);
        let (one, again) = (b.group().judge(&commit).err(), b.group().judge(&commit).err());
        assert_eq!(one, Some(Junk::Ghost));
        assert!(again.is_some(), "and it stays junk");
        a.group().abandon_own().unwrap();
    }
    // And whoever is let into a group with a ghost does not join.
    let (victim, package) = (Member::new(5), key_package(&unsigned, &says("g"), false).unwrap());
    let of_victim = victim.package();
    let (_, welcome) = a.forge_with_welcome(&[package.bytes, of_victim.bytes]);
    let joined = Group::join(&victim.device, &welcome.unwrap(), of_victim.entries);
    assert_eq!(joined.err(), Some(Junk::Ghost.into()));
}

/// No clock is asked about a package that says it is good at all times. Every other one is refused by
/// everyone, whatever their clocks say.
#[test]
fn clocks_do_not_matter() {
    let ours = Member::new(9).package().bytes;
    let time = [&[0; 8][..], &[0x7f], &[0xff; 7]].concat();
    assert!(ours.windows(16).any(|bytes| bytes == time), "from 0 to 2^63 - 1");

    let (mut a, mut b, _) = three();
    let late = Member::new(8);
    for time in [(1, i64::MAX as u64), (0, i64::MAX as u64 - 1), (0, u64::MAX), (0, 4_000_000_000)]
    {
        let package = device::key_package_in(&late.device, &says("late"), false, time).unwrap();
        assert!(matches!(read_key_package(&package.bytes), Err(Junk::Forbidden(_))), "{time:?}");
        let change = Change { add: vec![package.bytes.clone()], ..Default::default() };
        assert!(matches!(a.prepare(change), Err(MlsError::Junk(Junk::Forbidden(_)))), "{time:?}");
        let commit = a.forge(&[package.bytes]);
        assert!(matches!(b.group().judge(&commit), Err(Junk::Forbidden(_))), "{time:?}");
        a.group().abandon_own().unwrap();
    }
    // One of the future, or of the past, is refused before that.
    for time in [(i64::MAX as u64 - 1, i64::MAX as u64), (0, 1)] {
        let package = device::key_package_in(&late.device, &says("late"), false, time).unwrap();
        assert!(read_key_package(&package.bytes).is_err());
    }
}

impl Member {
    /// A commit that no honest device makes.
    fn forge(&mut self, packages: &[Vec<u8>]) -> Vec<u8> {
        self.forge_with_welcome(packages).0
    }

    fn forge_with_welcome(&mut self, packages: &[Vec<u8>]) -> (Vec<u8>, Option<Vec<u8>>) {
        let device = self.device.clone();
        let Group { mls, provider, .. } = self.group();
        let packages = packages.iter().map(|bytes| device::validated(bytes).unwrap());
        let bundle = mls
            .commit_builder()
            .consume_proposal_store(false)
            .force_self_update(true)
            .propose_adds(packages)
            .load_psks(provider.storage())
            .unwrap()
            .build(provider.rand(), provider.crypto(), &device.signer(), |_| true)
            .unwrap()
            .stage_commit(provider)
            .unwrap();
        let (commit, welcome, _) = bundle.into_messages();
        (to_bytes(commit).unwrap(), welcome.map(|welcome| to_bytes(welcome).unwrap()))
    }
}

#[test]
fn a_direct_group_has_two_accounts_and_ones_own_one() {
    let (mut a, mut b) = (Member::founder(1, Kind::Direct), Member::new(2));
    add(&mut a, &mut [], &mut [&mut b]);
    let third = Member::new(3).package().bytes;
    let change = Change { add: vec![third.clone()], ..Default::default() };
    assert!(matches!(a.prepare(change), Err(MlsError::Junk(Junk::Forbidden(_)))));
    let commit = a.forge(&[third]);
    assert_eq!(b.group().judge(&commit).err(), Some(Junk::Forbidden("a third account")));

    let root = RootKey::generate();
    let mut own = Member::of(&root, 4, 0);
    let kind = info(Kind::OwnDevices);
    own.group = Some(Group::create(&own.device, [7; 16], &kind, &says("one")).unwrap());
    let mut second = Member::of(&root, 4, 1);
    add(&mut own, &mut [], &mut [&mut second]);
    let change = Change { add: vec![Member::new(5).package().bytes], ..Default::default() };
    assert!(own.prepare(change).is_err());
}

#[test]
fn kind_and_home_never_change_and_the_name_may() {
    let (mut a, mut b, _) = three();
    for bad in [info(Kind::Direct), wire::GroupInfo { home: "x".to_owned(), ..info(Kind::Group) }] {
        let change = Change { info: Some(bad), ..Default::default() };
        assert!(a.prepare(change).is_err());
    }
    let named = wire::GroupInfo { name: "Trip".to_owned(), ..info(Kind::Group) };
    let change = Change { info: Some(named.clone()), ..Default::default() };
    let prepared = a.prepare(change).unwrap();
    assert!(a.group().merge_own().unwrap().info_changed);
    assert!(b.follow(&prepared.commit).unwrap().info_changed);
    assert_eq!(b.group().info(), named);
    let change = Change { member: Some(says("new name")), ..Default::default() };
    let prepared = b.prepare(change).unwrap();
    b.group().merge_own().unwrap();
    assert_eq!(a.follow(&prepared.commit).unwrap().changed[0].member.name, "new name");
}

#[test]
fn one_commit_wins_and_the_other_is_made_again() {
    let (mut a, mut b, mut c) = three();
    let rename = |name: &str| {
        let info = wire::GroupInfo { name: name.to_owned(), ..info(Kind::Group) };
        Change { info: Some(info), ..Default::default() }
    };
    let first = a.prepare(rename("a")).unwrap();
    b.prepare(rename("b")).unwrap();
    b.store();
    b.reload();
    assert!(b.group().has_pending(), "a crash between the slot and here loses nothing");
    a.group().merge_own().unwrap();
    b.group().abandon_own().unwrap();
    b.follow(&first.commit).unwrap();
    c.follow(&first.commit).unwrap();
    let again = b.prepare(rename("b")).unwrap();
    b.store();
    b.reload();
    b.group().merge_own().unwrap();
    for other in [&mut a, &mut c] {
        other.follow(&again.commit).unwrap();
        assert_eq!(other.group().info().name, "b");
    }
    let message = c.say("together");
    assert_eq!(b.hear(&message).unwrap(), "together");
}

#[test]
fn what_is_no_commit_is_junk_and_changes_nothing() {
    let (mut a, mut b, _) = three();
    let message = a.say("a message");
    assert!(b.group().judge(&message).is_err());
    assert!(b.group().judge(b"").is_err());
    let good = a.prepare(Change::default()).unwrap();
    a.group().merge_own().unwrap();
    let mut bad = good.commit.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    assert!(b.group().judge(&bad).is_err());
    assert!(b.group().open(&good.commit).is_err(), "a commit outside the slots");
    let mut clear = b.stored.clone();
    b.store();
    clear.clone_from(&b.stored);
    b.follow(&good.commit).unwrap();
    assert_ne!(clear, b.stored);
}

#[derive(Debug, Clone)]
enum Step {
    Say(usize),
    Update(usize),
    Reload(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..3usize, 0..3usize).prop_map(|(kind, who)| match kind {
        0 => Step::Say(who),
        1 => Step::Update(who),
        _ => Step::Reload(who),
    });
    proptest::collection::vec(step, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_is_stored_is_the_whole_state(steps in steps()) {
        let (a, b, c) = three();
        let mut members = [a, b, c];
        for step in steps {
            match step {
                Step::Say(who) => {
                    let message = members[who].say("x");
                    for (i, member) in members.iter_mut().enumerate() {
                        prop_assert_eq!(member.hear(&message).is_ok(), i != who);
                    }
                }
                Step::Update(who) => {
                    let prepared = members[who].prepare(Change::default()).unwrap();
                    members[who].group().merge_own().unwrap();
                    members[who].store();
                    for (i, member) in members.iter_mut().enumerate() {
                        if i != who {
                            member.follow(&prepared.commit).unwrap();
                        }
                    }
                }
                Step::Reload(who) => members[who].reload(),
            }
        }
        let keys = members[0].group().keys().envelope;
        for member in &mut members {
            prop_assert_eq!(member.group().keys().envelope, keys);
        }
    }
}
