//! The embedded store behind its committer, on the disk that holds the current directory's
//! `target`: how many frames a second become durable, what one costs, and what is written for it.
//!
//! `cargo bench --bench store [-- SECONDS]`; 4 seconds a shape unless told otherwise.
#![allow(clippy::print_stdout, missing_docs)]

use std::collections::VecDeque;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use valise::committer::{Append, Committer, Patience, Settle};
use valise::payload::Payload;
use valise::store::{
    Batch, EmbeddedOptions, EmbeddedStore, Frame, Removal, RunningHours, Seq, ShardKey, Step,
    Store, Totals,
};
use valise_proto::{FrameId, MailboxId, PacketPayload};

const FRAME_BYTES: usize = 512;
const BATCH_FRAMES: usize = 256;
const MAILBOXES: u64 = 100_000;
const SENDERS: usize = 16;
const IN_FLIGHT: usize = 64;

fn main() {
    let seconds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(4);
    let duration = Duration::from_secs(seconds);
    let parent = std::env::current_exe().expect("a running program has a path");
    let parent = parent.parent().expect("a program lies in a directory");
    println!("{FRAME_BYTES}-byte frames, {seconds} s each");
    for (name, acknowledged) in [("kept", 0), ("90 % removed 20 commits later", 9)] {
        in_directory(parent, |dir| {
            batches(&format!("commits of {BATCH_FRAMES}, {name}"), dir, duration, acknowledged);
        });
    }
    for mailboxes in [SENDERS as u64, MAILBOXES] {
        in_directory(parent, |dir| senders(dir, duration, mailboxes));
    }
    in_directory(parent, |dir| one_in_flight(dir, duration));
}

fn in_directory(parent: &Path, measure: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir_in(parent).expect("the target directory can be written");
    measure(dir.path());
}

/// The store alone: one commit after the other.
fn batches(name: &str, dir: &Path, duration: Duration, removed_of_ten: u64) {
    let store = open(dir);
    let (begin, usage) = (Instant::now(), Usage::now());
    let mut pending: VecDeque<Vec<Arc<Frame>>> = VecDeque::new();
    let mut batch = Batch { next_seq: Seq(1), ..Batch::default() };
    let mut took = Vec::new();
    while begin.elapsed() < duration {
        let mut frames = Vec::with_capacity(BATCH_FRAMES);
        for _ in 0..BATCH_FRAMES {
            let seq = batch.next_seq;
            batch.next_seq.0 += 1;
            let frame = Arc::new(frame(scatter(seq.0) % MAILBOXES, seq));
            batch.steps.push(Step::Append { frame: Arc::clone(&frame), floor: Seq(seq.0 - 1) });
            frames.push(frame);
        }
        batch.totals.accepted += BATCH_FRAMES as u64;
        pending.push_back(frames);
        if pending.len() > 20 {
            for frame in pending.pop_front().unwrap_or_default() {
                if frame.seq.0 % 10 < removed_of_ten {
                    batch.totals.acknowledged += 1;
                    batch.steps.push(Step::Remove(Removal {
                        mailbox: frame.mailbox,
                        seqs: vec![frame.seq],
                        floor: frame.seq,
                        emptied: true,
                    }));
                }
            }
        }
        let before = Instant::now();
        store.commit(&batch).expect("the disk is healthy");
        took.push(before.elapsed());
        batch.steps.clear();
    }
    report(name, batch.totals.accepted, begin, &usage);
    took.sort_unstable();
    println!("  commit p50 {:?}, p99 {:?}", took[took.len() / 2], took[took.len() * 99 / 100]);
    reopen(store, dir, batch.totals);
}

/// Through the committer: senders that each keep some frames in flight.
fn senders(dir: &Path, duration: Duration, mailboxes: u64) {
    let committer = Committer::start(Arc::new(open(dir)));
    let (begin, usage) = (Instant::now(), Usage::now());
    let waited = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for sender in 0..SENDERS as u64 {
            let (committer, waited) = (&committer, &waited);
            scope.spawn(move || {
                let window = Arc::new(Window::default());
                let mut sent = 0;
                while begin.elapsed() < duration {
                    window.enter();
                    let mailbox = (scatter(sent) % (mailboxes / SENDERS as u64)) * 16 + sender;
                    let seq = committer.next_seq();
                    let settle = Arc::clone(&window) as Arc<dyn Settle>;
                    let append = Append::new(Arc::new(frame(mailbox, seq)), Seq(0), settle);
                    committer.append(append, Patience::None).expect("the window is small");
                    sent += 1;
                }
                window.drain();
                waited.fetch_add(window.blocked.load(Ordering::Relaxed), Ordering::Relaxed);
            });
        }
    });
    let totals = committer.totals();
    let name = format!("{SENDERS} senders, {IN_FLIGHT} in flight each, {mailboxes} mailboxes");
    report(&name, totals.accepted, begin, &usage);
    let stats = committer.stats();
    println!(
        "  {} frames a commit, {:?} a commit, {:.0} % of the time; senders slept {} times",
        stats.steps() / stats.commits().max(1),
        stats.sync_total() / u32::try_from(stats.commits().max(1)).unwrap_or(u32::MAX),
        100.0 * stats.sync_total().as_secs_f64() / begin.elapsed().as_secs_f64(),
        waited.load(Ordering::Relaxed),
    );
    committer.close();
    drop(committer);
    let begin = Instant::now();
    let store = open(dir);
    println!("  opened again in {:?}", begin.elapsed());
    assert_eq!(store.count().expect("the disk is healthy"), totals.queued());
}

/// Latency without company, beside what the disk alone takes.
fn one_in_flight(dir: &Path, duration: Duration) {
    let mut file = fs::File::create(dir.join("raw")).expect("a fresh directory");
    let bytes = [0x55; 700];
    let raw = median(duration / 4, || {
        file.write_all(&bytes).and_then(|()| file.sync_data()).expect("the disk is healthy");
    });
    let committer = Committer::start(Arc::new(open(&dir.join("store"))));
    let window = Arc::new(Window::default());
    let posted = median(duration / 2, || {
        window.enter();
        let seq = committer.next_seq();
        let settle = Arc::clone(&window) as Arc<dyn Settle>;
        let append = Append::new(Arc::new(frame(seq.0 % MAILBOXES, seq)), Seq(0), settle);
        committer.append(append, Patience::None).expect("one is not too many");
        window.drain();
    });
    println!("one in flight\n  p50 {posted:?}; write and fdatasync alone {raw:?}");
    committer.close();
}

fn median(duration: Duration, mut act: impl FnMut()) -> Duration {
    let begin = Instant::now();
    let mut took = Vec::new();
    while begin.elapsed() < duration {
        let before = Instant::now();
        act();
        took.push(before.elapsed());
    }
    took.sort_unstable();
    took[took.len() / 2]
}

/// What a sender has in flight. It sleeps when that is full, and is woken when half of it is free.
#[derive(Default)]
struct Window {
    in_flight: Mutex<usize>,
    room: Condvar,
    blocked: AtomicU64,
}

impl Window {
    fn enter(&self) {
        let mut in_flight = self.in_flight.lock().expect("nothing panics under it");
        if *in_flight >= IN_FLIGHT {
            self.blocked.fetch_add(1, Ordering::Relaxed);
            in_flight = self
                .room
                .wait_while(in_flight, |in_flight| *in_flight > IN_FLIGHT / 2)
                .expect("nothing panics under it");
        }
        *in_flight += 1;
    }

    fn drain(&self) {
        let in_flight = self.in_flight.lock().expect("nothing panics under it");
        let left = self.room.wait_while(in_flight, |in_flight| *in_flight > 0);
        drop(left.expect("nothing panics under it"));
    }
}

impl Settle for Window {
    fn durable(&self, _: &Append) {
        let mut in_flight = self.in_flight.lock().expect("nothing panics under it");
        *in_flight -= 1;
        if *in_flight == IN_FLIGHT / 2 || *in_flight == 0 {
            self.room.notify_one();
        }
    }

    fn unknown(&self, _: &Append) {
        panic!("the store failed");
    }

    fn failed(&self, _: &Append) -> bool {
        panic!("the store failed");
    }
}

fn open(dir: &Path) -> EmbeddedStore {
    let options = EmbeddedOptions::default();
    EmbeddedStore::open(dir, ShardKey::new(&[7; 32]), options).expect("a fresh directory")
}

fn reopen(store: EmbeddedStore, dir: &Path, totals: Totals) {
    drop(store);
    let begin = Instant::now();
    let store = open(dir);
    println!("  opened again in {:?}", begin.elapsed());
    assert_eq!(store.opened().totals, totals);
    assert_eq!(store.count().expect("the disk is healthy"), totals.queued());
}

fn frame(mailbox: u64, seq: Seq) -> Frame {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&scatter(mailbox).to_be_bytes());
    id[8..].copy_from_slice(&mailbox.to_be_bytes());
    let mut bytes = vec![0; FRAME_BYTES];
    for (at, chunk) in bytes.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&scatter(seq.0 ^ (at as u64) << 40).to_be_bytes());
    }
    Frame {
        mailbox: MailboxId::new(id),
        seq,
        frame_id: FrameId::new(id),
        accepted: RunningHours(0),
        ttl_hours: 720,
        payload: Payload::from_packet(Bytes::from(bytes)),
    }
}

/// Fibonacci hashing with a finish: numbers that look random, and are the same in every run.
fn scatter(number: u64) -> u64 {
    let number = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    number ^ (number >> 29)
}

fn report(name: &str, frames: u64, begin: Instant, before: &Usage) {
    let (elapsed, usage) = (begin.elapsed(), Usage::now());
    let stored = frames as f64 * FRAME_BYTES as f64;
    println!("{name}");
    println!(
        "  {:.0} frames/s, {:.2} us CPU a frame, {:.2} bytes written a byte stored",
        frames as f64 / elapsed.as_secs_f64(),
        (usage.cpu - before.cpu).as_secs_f64() * 1e6 / frames as f64,
        (usage.written - before.written) as f64 / stored,
    );
}

/// What this process has used so far, its senders included.
struct Usage {
    cpu: Duration,
    written: u64,
}

impl Usage {
    fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        // Fields 14 and 15, in ticks of 10 ms.
        let ticks: u64 = fields[11..13].iter().filter_map(|field| field.parse::<u64>().ok()).sum();
        let io = fs::read_to_string("/proc/self/io").expect("Linux");
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        Self {
            cpu: Duration::from_millis(ticks * 10),
            written: written.and_then(|number| number.parse().ok()).unwrap_or(0),
        }
    }
}
