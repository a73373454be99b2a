//! What MLS is given from outside: key packages, Welcomes, commits of slots, messages. Whatever it
//! is, the group is the same afterwards.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use valise_chat_core::identity::{AccountId, DeviceId, RootKey};
use valise_chat_core::mls::{self, Device, Group, key_package};
use valise_chat_core::wire::{self, group_info::Kind};

struct Member {
    device: Device,
    package: Vec<(Vec<u8>, Vec<u8>)>,
    group: Group,
}

thread_local! {
    static MEMBER: RefCell<Member> = RefCell::new(member());
}

fn member() -> Member {
    let (root, seed) = (RootKey::from_seed(&[1; 32]), [2; 32]);
    let key = Device::public_key(&seed);
    let credential = root.certify(AccountId([3; 32]), DeviceId([4; 16]), &key);
    let device = Device::new(credential, &seed);
    let address = Some(wire::Address { relay: String::new(), capability: vec![1; 60] });
    let says = wire::Member { address, name: "Ann".to_owned(), hpke_key: vec![2; 32] };
    let home = format!("valise://relay.example.org:7443/{}", "a".repeat(32));
    let info = wire::GroupInfo { kind: Kind::Group as i32, home, ..Default::default() };
    let group = Group::create(&device, [7; 16], &info, &says).unwrap();
    let package = key_package(&device, &says, false).unwrap().entries;
    Member { device, package, group }
}

fuzz_target!(|bytes: &[u8]| {
    MEMBER.with_borrow_mut(|Member { device, package, group }| {
        mls::read_key_package(bytes).ok();
        mls::welcome_references(bytes).ok();
        let before = (group.epoch(), group.epoch_authenticator());
        assert!(group.open(bytes).is_err() && group.judge(bytes).is_err(), "nobody else is in it");
        assert!(Group::join(device, bytes, package.clone()).is_err());
        assert_eq!((group.epoch(), group.epoch_authenticator()), before);
    });
});
