use valise_proto::{Signature, SignedRealmRecord, SigningKey, statement};

use super::*;
use crate::OwnerKeyPair;

/// A realm served at a, b and c, whose clients were given a.
struct Realm {
    root: OwnerKeyPair,
}

const HERE: [&str; 3] = ["a.example:443", "b.example:443", "c.example:443"];

impl Realm {
    fn new() -> Self {
        Self { root: OwnerKeyPair::generate() }
    }

    fn record(&self, epoch: u64, endpoints: &[&str]) -> RealmRecord {
        let root_key = SigningKey::new(*self.root.owner_key().as_bytes());
        RealmRecord {
            realm: RealmId::of_root_key(&root_key),
            root_key,
            epoch,
            endpoints: endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect(),
            relay_keys: Vec::new(),
            key_log_url: String::new(),
        }
    }

    fn signed(&self, epoch: u64, endpoints: &[&str]) -> SignedRealmRecord {
        let record = self.record(epoch, endpoints).encode();
        let signature = self.root.sign(&statement::realm_record(&record));
        SignedRealmRecord { record, signature }
    }

    fn at(&self, endpoint: &str) -> RelayAddress {
        place(endpoint, self.record(1, &[]).realm).unwrap()
    }

    fn places(&self) -> Places {
        Places::new(&Dial::new(self.at("a.example:443")))
    }

    /// A connection to this place has shown such a record.
    fn reached(&self, places: &mut Places, at: &str, epoch: u64, endpoints: &[&str]) {
        let (record, signed) = (self.record(epoch, endpoints), self.signed(epoch, endpoints));
        places.reached(&self.at(at), &record, &signed);
    }

    /// Places of a client that is connected to a.
    fn at_a(&self, endpoints: &[&str]) -> Places {
        let mut places = self.places();
        self.reached(&mut places, "a.example:443", 5, endpoints);
        places
    }
}

fn go(endpoints: &[&str]) -> Move {
    Move {
        phase: Some(MovePhase::Go),
        realm_record: None,
        endpoints: endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect(),
        spread_ms: 100,
    }
}

fn texts(places: &[RelayAddress]) -> Vec<String> {
    places.iter().map(endpoint).collect()
}

#[test]
fn only_a_move_within_the_record_is_obeyed() {
    let realm = Realm::new();
    let at = realm.at("a.example:443");
    let now = Instant::now();
    let judge = |moved: &Move| {
        let mut places = realm.at_a(&HERE);
        if moved.realm_record.as_ref().is_some_and(|signed| !places.admit(now, signed)) {
            return None;
        }
        let order = places.judge(now, moved, &at)?;
        Some(texts(&order.places).join(" "))
    };
    assert_eq!(judge(&go(&HERE[1..])).as_deref(), Some("b.example:443 c.example:443"));
    // A phase of later versions, nothing to go to, where it is, and what is not in the record.
    assert_eq!(judge(&Move { phase: None, ..go(&HERE[1..]) }), None);
    assert_eq!(judge(&go(&[])), None);
    assert_eq!(judge(&go(&HERE)), None);
    assert_eq!(judge(&go(&["evil.example:443"])), None);
    assert_eq!(judge(&go(&["b.example:443", "evil.example:443"])), None, "not even in part");
    assert_eq!(judge(&go(&["b.example:443"; 17])), None);
    // By a newer record, which must be genuine, and of this realm.
    let with = |signed| Move { realm_record: Some(signed), ..go(&["d.example:443"]) };
    let newer = realm.signed(6, &["d.example:443"]);
    assert_eq!(judge(&with(newer.clone())).as_deref(), Some("d.example:443"));
    assert_eq!(judge(&with(realm.signed(4, &["d.example:443"]))), None, "an older one");
    assert_eq!(judge(&with(realm.signed(1_006, &["d.example:443"]))), None, "too far ahead");
    assert_eq!(judge(&with(Realm::new().signed(6, &["d.example:443"]))), None);
    let forged = SignedRealmRecord { signature: Signature::new([1; 64]), ..newer };
    assert_eq!(judge(&with(forged)), None);
}

#[test]
fn a_client_is_not_sent_to_and_fro() {
    let realm = Realm::new();
    let mut places = realm.at_a(&HERE);
    let (now, mut obeyed) = (Instant::now(), 0);
    for turn in 0..100_u32 {
        let (from, to) = if turn.is_multiple_of(2) { (0, 1) } else { (1, 0) };
        let at = realm.at(HERE[from]);
        let moved = places.judge(now + Duration::from_millis(500) * turn, &go(&[HERE[to]]), &at);
        obeyed += usize::from(moved.is_some());
    }
    assert_eq!(obeyed, MOVES_PER_MINUTE);
    let later = now + Duration::from_secs(120);
    assert!(places.judge(later, &go(&[HERE[1]]), &realm.at(HERE[0])).is_some());
}

#[test]
fn places_are_tried_in_their_order() {
    let realm = Realm::new();
    let (at, now) = (realm.at(HERE[0]), Instant::now());
    let mut places = realm.places();
    assert_eq!(texts(&places.candidates()), ["a.example:443"]);
    realm.reached(&mut places, HERE[0], 5, &HERE);
    assert_eq!(texts(&places.candidates()), HERE);
    assert_eq!(places.prefers(), None);
    places.judge(now, &go(&["c.example:443"]), &at).unwrap();
    let order = ["c.example:443", "a.example:443", "b.example:443"];
    assert_eq!(texts(&places.candidates()), order);
    assert_eq!(places.prefers().as_deref(), Some("c.example:443"));
    // What does not answer comes last, until it does.
    places.silent(&realm.at("c.example:443"));
    assert_eq!(texts(&places.candidates()), HERE);
    realm.reached(&mut places, "c.example:443", 5, &HERE);
    assert_eq!(texts(&places.candidates()), order);
    // What does not prove the realm is not tried again, unless it is all there is.
    for endpoint in HERE {
        places.untrusted(&realm.at(endpoint));
    }
    assert_eq!(texts(&places.candidates()), ["a.example:443"]);
}

#[test]
fn what_was_preferred_is_tried_first_and_forgotten_when_it_is_not_listed() {
    let realm = Realm::new();
    let prefer = Some("c.example:443".to_owned());
    let mut places = Places::new(&Dial { prefer, ..Dial::new(realm.at(HERE[0])) });
    assert_eq!(texts(&places.candidates()), ["c.example:443", "a.example:443"]);
    realm.reached(&mut places, HERE[0], 5, &HERE);
    assert_eq!(places.prefers().as_deref(), Some("c.example:443"));
    realm.reached(&mut places, HERE[0], 6, &HERE[..2]);
    assert_eq!(places.prefers(), None);
    assert_eq!(texts(&places.candidates()), HERE[..2]);
}

#[test]
fn a_relay_of_others_leads_to_no_door_of_ones_own_network() {
    let realm = Realm::new();
    let inside = ["a.example:443", "192.168.1.1:443"];
    let (at, now) = (realm.at(HERE[0]), Instant::now());
    let mut places = Places::new(&Dial { public_only: true, ..Dial::new(at.clone()) });
    realm.reached(&mut places, HERE[0], 5, &inside);
    assert_eq!(texts(&places.candidates()), ["a.example:443"]);
    assert_eq!(places.judge(now, &go(&inside[1..]), &at), None);
}

#[test]
fn the_record_that_counts_is_never_taken_back() {
    let realm = Realm::new();
    let mut places = realm.at_a(&HERE);
    let newest = realm.signed(6, &HERE[1..]);
    assert!(places.admit(Instant::now(), &newest));
    assert_eq!((places.epoch(), places.signed()), (6, Some(&newest)));
    // The address that was given is tried all the same: it may be another name of a listed one.
    assert_eq!(texts(&places.candidates()), HERE);
    assert!(places.given_is_left());
    // Neither by a lower one nor by a second of its epoch, over whatever connection.
    realm.reached(&mut places, HERE[0], 5, &HERE);
    realm.reached(&mut places, HERE[0], 6, &HERE[..1]);
    assert!(!places.admit(Instant::now(), &realm.signed(5, &HERE)));
    assert!(
        places.admit(Instant::now(), &realm.signed(6, &HERE[..1])),
        "it is genuine, and it counts for nothing"
    );
    assert_eq!((places.epoch(), places.signed()), (6, Some(&newest)));
    // Not more than some in a minute: the application writes each of them down.
    let mut busy = realm.at_a(&HERE);
    let now = Instant::now();
    let admitted = (6..100).filter(|epoch| busy.admit(now, &realm.signed(*epoch, &HERE))).count();
    assert_eq!(admitted, MOVES_PER_MINUTE);
    assert!(busy.admit(now + MINUTE, &realm.signed(100, &HERE)));
    // A `Move` is judged by it.
    let at = realm.at(HERE[0]);
    assert_eq!(places.judge(Instant::now(), &go(&HERE[..1]), &at), None);
    assert!(places.judge(Instant::now(), &go(&HERE[1..2]), &at).is_some());
    // So it is after a restart, and a forged one is none.
    let kept = |signed| {
        let realm_record = Some(signed);
        Places::new(&Dial { realm_record, ..Dial::new(realm.at(HERE[0])) })
    };
    assert_eq!(texts(&kept(newest.clone()).candidates()), HERE);
    assert_eq!(kept(newest.clone()).epoch(), 6);
    let forged = SignedRealmRecord { signature: Signature::new([1; 64]), ..newest };
    assert_eq!(kept(forged).epoch(), 0);
}

#[test]
fn what_says_moved_is_tried_after_the_others() {
    let realm = Realm::new();
    let mut places = realm.at_a(&HERE);
    let [a, b, c] = HERE.map(|endpoint| realm.at(endpoint));
    places.said_moved(&a);
    assert_eq!(places.others(&a), [b.clone(), c.clone()]);
    places.said_moved(&b);
    assert_eq!(places.others(&b), [c.clone(), a.clone()]);
    places.said_moved(&c);
    assert_eq!(places.others(&c), [a.clone(), b.clone()], "and so on, as long as it takes");
    places.found(&b);
    assert_eq!(places.candidates(), [b, a, c]);
    assert_eq!(places.prefers().as_deref(), Some(HERE[1]), "it is where to begin next time");
}
