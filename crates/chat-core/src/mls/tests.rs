//! Groups as their members see them: who gets in, who reads what, and what everyone refuses.

use std::collections::HashMap;

use proptest::prelude::*;

use openmls::prelude::*;

use super::device::{key_package_in, validated};
use super::group::to_bytes;
use super::policy::{self, INFO};
use super::{
    Change, Device, Group, Junk, MlsError, NewKeyPackage, PAST_EPOCHS, Prepared, Refusal, Summary,
    key_package, read_key_package, welcome_references,
};
use crate::identity::{AccountId, DeviceId, RootKey};
use crate::wire;
use crate::wire::group_info::Kind;

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

fn home(host: &str) -> String {
    format!("valise://{host}:7443/{}", "a".repeat(32))
}

fn info(kind: Kind) -> wire::GroupInfo {
    wire::GroupInfo { kind: kind as i32, home: home("relay.example.org"), ..Default::default() }
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

    fn follow(&mut self, commit: &[u8]) -> Result<Summary, Refusal> {
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
    let unsigned = unsigned();
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
        assert_eq!(one, Some(Junk::Ghost.into()));
        assert_eq!(again, one, "and it stays junk");
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
        let package = key_package_in(&late.device, &says("late"), false, time).unwrap();
        assert!(matches!(read_key_package(&package.bytes), Err(Junk::Forbidden(_))), "{time:?}");
        let change = Change { add: vec![package.bytes.clone()], ..Default::default() };
        assert!(matches!(a.prepare(change), Err(MlsError::Junk(Junk::Forbidden(_)))), "{time:?}");
        let commit = a.forge(&[package.bytes]);
        let junk = b.group().judge(&commit);
        assert!(matches!(junk, Err(Refusal::Junk(Junk::Forbidden(_)))), "{time:?}");
        a.group().abandon_own().unwrap();
    }
    // One of the future, or of the past, is refused before that.
    for time in [(i64::MAX as u64 - 1, i64::MAX as u64), (0, 1)] {
        let package = key_package_in(&late.device, &says("late"), false, time).unwrap();
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
        let packages = packages.iter().map(|bytes| validated(bytes).unwrap());
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
    let junk = Junk::Forbidden("a third account");
    assert_eq!(b.group().judge(&commit).err(), Some(junk.into()));

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
    for bad in [
        info(Kind::Direct),
        wire::GroupInfo { home: home("elsewhere.example.org"), ..info(Kind::Group) },
    ] {
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

#[test]
fn judging_leaves_no_trace() {
    let (mut a, mut b, mut c) = three();
    // Two commits with the same key: one that the rules refuse, and one that is good.
    let junk = a.forge(&[key_package(&unsigned(), &says("ghost"), false).unwrap().bytes]);
    a.reload();
    let good = a.prepare(Change::default()).unwrap().commit;
    a.group().merge_own().unwrap();
    for member in [&mut b, &mut c] {
        assert_eq!(member.group().judge(&junk).err(), Some(Junk::Ghost.into()));
    }
    c.reload();
    b.follow(&good).unwrap();
    c.follow(&good).unwrap();
    let keys = a.group().keys().envelope;
    assert!(b.group().keys().envelope == keys && c.group().keys().envelope == keys);
}

/// A device with a certificate that its account has not made.
fn unsigned() -> Device {
    let mut credential = device(&RootKey::generate(), 9, 0).credential().clone();
    credential.certificate[0] ^= 1;
    Device::new(credential, &valise_client::random::bytes())
}

/// Breaks the private keys that path secrets are opened with, if it is their entry; whether it was.
/// Public keys stay as they are. For the device it is as if a committer had sealed another secret for
/// it, and nobody else sees it.
pub(crate) fn break_path_keys(key: &[u8], value: &mut Vec<u8>) -> bool {
    if !key.starts_with(b"EpochKeyPairs") {
        return false;
    }
    let mut stored: serde_json::Value = serde_json::from_slice(value).unwrap();
    let broken = break_private_keys(&mut stored, false);
    *value = serde_json::to_vec(&stored).unwrap();
    assert!(broken > 0, "the library stores its keys in another way");
    true
}

fn break_private_keys(value: &mut serde_json::Value, is_private: bool) -> usize {
    use serde_json::Value;
    match value {
        Value::Array(bytes) if is_private && bytes.len() == 32 => {
            bytes[10] = (bytes[10].as_u64().unwrap() ^ 1).into();
            1
        }
        Value::Array(all) => all.iter_mut().map(|one| break_private_keys(one, is_private)).sum(),
        Value::Object(fields) => {
            let fields = fields.iter_mut();
            fields
                .map(|(name, one)| break_private_keys(one, is_private || name == "private_key"))
                .sum()
        }
        _ => 0,
    }
}

#[test]
fn what_one_member_alone_cannot_open_is_no_junk() {
    let (mut a, mut b, mut c) = three();
    assert!(b.stored.iter_mut().any(|(key, value)| break_path_keys(key, value)));
    b.reload();
    let commit = a.prepare(Change::default()).unwrap().commit;
    a.group().merge_own().unwrap();
    let before = b.group().keys().envelope;
    for _ in 0..2 {
        let lost = b.follow(&commit).unwrap_err();
        assert!(matches!(lost, Refusal::Lost(_)), "{lost:?}");
    }
    assert!(b.group().keys().envelope == before);
    c.follow(&commit).unwrap();
    // The others let it in again by a new key package: it is the same device.
    let package = b.package();
    let leaf = b.group().own_leaf();
    let change = Change { add: vec![package.bytes], remove: vec![leaf], ..Default::default() };
    let prepared = c.prepare(change).unwrap();
    c.group().merge_own().unwrap();
    let summary = a.follow(&prepared.commit).unwrap();
    assert!(summary.added.is_empty() && summary.removed.is_empty());
    assert_eq!(summary.again, std::slice::from_ref(&package.reference));
    let welcome = prepared.welcome.unwrap();
    let joined = Group::join(&b.device, &welcome, package.entries).unwrap();
    assert_eq!(joined.inviter(), Some(c.device.credential().account));
    b.group = Some(joined);
    b.store();
    let message = b.say("back");
    assert_eq!(a.hear(&message).unwrap(), "back");
}

#[test]
fn a_commit_in_ones_own_name_is_no_junk() {
    let (mut a, mut b, _) = three();
    let commit = a.prepare(Change::default()).unwrap().commit;
    a.group().abandon_own().unwrap();
    assert!(matches!(a.group().judge(&commit), Err(Refusal::Lost(_))));
    b.follow(&commit).unwrap();
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

#[test]
fn what_leaves_and_groups_say_is_bounded() {
    let ann = Member::new(1);
    let package = |member: &wire::Member| key_package(&ann.device, member, false).unwrap().bytes;
    assert!(read_key_package(&package(&says("Ann"))).is_ok());
    for hpke_key in [vec![], vec![2; 31], vec![2; 33]] {
        let member = wire::Member { hpke_key, ..says("Ann") };
        assert!(read_key_package(&package(&member)).is_err());
    }
    assert!(read_key_package(&package(&says(&"x".repeat(1_025)))).is_err());
    let long = wire::GroupInfo { name: "x".repeat(1_025), ..info(Kind::Group) };
    let nowhere = wire::GroupInfo { home: String::new(), ..info(Kind::Group) };
    for bad in [long, nowhere] {
        assert!(Group::create(&ann.device, [7; 16], &bad, &says("Ann")).is_err());
        let extension = Extensions::single(policy::extension(INFO, &bad)).unwrap();
        assert!(policy::info(&extension).is_err(), "nor does anyone join one");
    }
}

/// What is told of a device, where it is reached and what it said go by its id.
#[test]
fn nobody_takes_the_device_id_of_another_account() {
    let mut founder = Member::founder(1, Kind::Group);
    let (bob, root) = (Member::new(2), RootKey::generate());
    let package = |device: &Device| key_package(device, &says("x"), false).unwrap().bytes;
    let seed = valise_client::random::bytes();
    let id = bob.device.credential().device;
    let credential = root.certify(AccountId([3; 32]), id, &Device::public_key(&seed));
    let mallory = Device::new(credential, &seed);
    let device = founder.device.clone();
    let add = vec![package(&bob.device), package(&mallory)];
    let refused = founder.group().prepare(&device, Change { add, ..Change::default() });
    assert_eq!(refused, Err(MlsError::Junk(Junk::Forbidden("a device twice"))));
}
