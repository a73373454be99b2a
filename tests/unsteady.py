#!/usr/bin/env python3
"""Runs a command, and makes the machine an unsteady one meanwhile: its cores are busy, its disk syncs all the
time, and any process of the command stands still for 1 to 3 s now and then. What a test shows may not depend
on how fast the machine is. Linux; the standard library only."""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from multiprocessing import Process

# Compilers are only made slower by this, and nothing is learnt.
BUILD = {"cargo", "rustc", "rustdoc", "cc", "ld", "ld.lld", "rust-lld", "cc1", "as", "collect2"}


def spin():
    while True:
        pass


def sync(folder):
    path = os.path.join(folder, "synced")
    while True:
        with open(path, "wb") as file:
            for _ in range(16):
                file.write(os.urandom(65_536))
                file.flush()
                os.fsync(file.fileno())


def status(pid):
    """Name and parent of a process; none once it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            name, rest = file.read().split("(", 1)[1].rsplit(")", 1)
        return name, int(rest.split()[1])
    except (OSError, IndexError, ValueError):
        return None


def below(root):
    """The processes of a command, without those that build."""
    all_ = {int(pid): status(pid) for pid in os.listdir("/proc") if pid.isdigit()}
    all_ = {pid: found for pid, found in all_.items() if found}
    family = {root}
    while more := {pid for pid, (_, parent) in all_.items() if parent in family} - family:
        family |= more
    return [pid for pid in family - {root} if all_[pid][0] not in BUILD]


def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def stand_still(root, ended, chance, every_s):
    while not ended.wait(chance.uniform(0.5, 1.5) * every_s):
        family = below(root)
        if not family:
            continue
        # One of them, or all, as when the whole machine stands still.
        stopped = family if chance.random() < 0.3 else [chance.choice(family)]
        for pid in stopped:
            send(pid, signal.SIGSTOP)
        ended.wait(chance.uniform(1, 3))
        for pid in stopped:
            send(pid, signal.SIGCONT)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, default=3, help="busy loops beside it")
    parser.add_argument("--every", type=float, default=8, help="seconds between two pauses")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not options.command:
        parser.error("a command is missing, such as: cargo test --workspace --test wire")
    print(f"unsteady: seed {options.seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        beside = [Process(target=spin, daemon=True) for _ in range(options.busy)]
        beside.append(Process(target=sync, args=(folder,), daemon=True))
        for process in beside:
            process.start()
        command = subprocess.Popen(options.command)
        ended = threading.Event()
        chance = random.Random(options.seed)
        pauses = threading.Thread(target=stand_still, args=(command.pid, ended, chance, options.every))
        pauses.start()
        try:
            code = command.wait()
        finally:
            ended.set()
            pauses.join()
            for process in beside:
                process.kill()
                process.join()
    return code


if __name__ == "__main__":
    sys.exit(main())
