use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const NOTHING_CHOSEN: DiskOptions = DiskOptions { free_min: None, budget: None, ballast: 64 * MIB };

#[test]
fn posts_need_room() {
    // Size, free, ballast missing: are posts taken, is the ballast made again.
    let cases = [
        (100 * GIB, 50 * GIB, 0, true, false),
        (100 * GIB, GIB, 0, true, false),
        (100 * GIB, GIB - 1, 0, false, false),
        // 5 % of a small disk.
        (2_000 * MIB, 100 * MIB, 0, true, false),
        (2_000 * MIB, 100 * MIB - 1, 0, false, false),
        // What the ballast will take is not free.
        (2_000 * MIB, 163 * MIB, 64 * MIB, false, false),
        (2_000 * MIB, 164 * MIB, 64 * MIB, true, true),
        (2_000 * MIB, 0, 64 * MIB, false, false),
    ];
    for (size, free, ballast_missing, takes, rebuild) in cases {
        let found = Found { size, free, used: size - free, ballast_missing };
        let verdict = judge(&found, &NOTHING_CHOSEN);
        assert_eq!((verdict.takes, verdict.rebuild), (takes, rebuild), "{found:?}");
        assert_eq!(verdict.budget, size);
    }
    let chosen = DiskOptions { free_min: Some(0), ..NOTHING_CHOSEN };
    assert!(judge(&Found { size: GIB, free: 1, used: GIB - 1, ballast_missing: 0 }, &chosen).takes);
}

#[test]
fn a_budget_ends_before_the_disk() {
    let options = DiskOptions { budget: Some(10 * GIB), ..NOTHING_CHOSEN };
    let found = |used| Found { size: 100 * GIB, free: 50 * GIB, used, ballast_missing: 0 };
    assert!(judge(&found(10 * GIB - 1), &options).takes);
    assert!(!judge(&found(10 * GIB), &options).takes);
    assert_eq!(judge(&found(9 * GIB), &options).mailbox_bytes_max, 4 * MIB);
}

#[test]
fn the_quota_halves_every_twentieth_above_four_fifths() {
    let table = [
        (0, 16),
        (80, 16),
        (84, 16),
        (85, 8),
        (89, 8),
        (90, 4),
        (94, 4),
        (95, 2),
        (99, 2),
        (100, 1),
        (150, 1),
    ];
    for (percent, mib) in table {
        let quota = mailbox_bytes_max(percent * GIB, 100 * GIB);
        assert_eq!(quota, mib * MIB, "at {percent} %");
    }
    assert_eq!(mailbox_bytes_max(85 * GIB - 1, 100 * GIB), 16 * MIB);
    assert_eq!(mailbox_bytes_max(1, 0), MIB, "no budget is a full one");
    assert_eq!(mailbox_bytes_max(u64::MAX, u64::MAX), MIB);
}

#[test]
fn the_ballast_comes_and_goes() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ballast");
    let options = DiskOptions { free_min: Some(MIB), budget: Some(GIB), ballast: 2 * MIB };
    let disk = Disk::new(directory.path(), options).unwrap();
    assert_eq!(disk.notice(), None);
    assert!(files_bytes(directory.path()).unwrap() >= 2 * MIB, "it is really there");
    assert!(disk.allowed().takes());

    assert!(disk.make_room());
    assert!(!file.exists());
    let standing = disk.look().unwrap();
    assert_eq!(file.metadata().unwrap().len(), 2 * MIB);
    assert_eq!(standing.found.ballast_missing, 0);
    assert!(standing.found.used < MIB, "the ballast is not what the store uses");

    // One of another size is made anew.
    drop(disk);
    let disk = Disk::new(directory.path(), DiskOptions { ballast: MIB, ..options }).unwrap();
    assert_eq!(file.metadata().unwrap().len(), MIB);
    drop(disk);
    let disk = Disk::new(directory.path(), DiskOptions { ballast: 0, ..options }).unwrap();
    assert!(!file.exists());
    assert_eq!(disk.notice(), None);
    drop(disk);
    let disk = Disk::new(directory.path(), DiskOptions { ballast: u64::MAX / 2, ..options });
    assert!(disk.unwrap().notice().unwrap().contains("an eighth of the disk"));
}

#[test]
fn a_disk_beyond_its_budget_takes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let options = DiskOptions { free_min: Some(0), budget: Some(MIB), ballast: 0 };
    let disk = Disk::new(directory.path(), options).unwrap();
    let allowed = disk.allowed();
    assert!(allowed.takes() && !disk.is_short());
    std::fs::write(directory.path().join("x"), vec![1; 2 * MIB as usize]).unwrap();
    let standing = disk.look().unwrap();
    assert!(!allowed.takes() && disk.is_short());
    assert!(standing.found.used >= 2 * MIB);
    assert_eq!(allowed.mailbox_bytes_max(), MIB);
    std::fs::remove_file(directory.path().join("x")).unwrap();
    disk.look().unwrap();
    assert!(allowed.takes());
}
