#!/usr/bin/env python3
"""Does the lab do what docs/LAB.md tells? Runs each exercise against the peers, against fernvpn, and against peers from
which the line that the book names was removed; the other commands of the book; and the marking. FERNVPN names the
program.
"""

import concurrent.futures
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    from lab import EXERCISES, PEERS, REFUSED, SUCCEEDED
except SystemExit as reason:
    print(f"\nSKIPPED: {reason}\n")
    print("lab: 0 passed, 0 failed, 1 skipped")
    sys.exit("FERNVPN_REQUIRE_INTEROP" in os.environ)

ROOT = Path(__file__).resolve().parents[2]
BOOK = (ROOT / "docs/LAB.md").read_text(encoding="utf-8")
PROGRAM = Path(os.environ.get("FERNVPN", ROOT / "target/release/fernvpn")).resolve()
NAMES = [attack.__name__ for attack in EXERCISES]

# What works by its nature: what is readable is read, a static key reads the past, a server for one at a time is busy.
OPEN = {"timestamp", "steal", "exhaust"}
# And with fernvpn.
OPEN_IN_PROGRAM = {"timestamp", "steal"}


def lab(*words, stdin=""):
    """(exit status, what it says)"""
    done = subprocess.run([sys.executable, "tests/lab/lab.py", *words], cwd=ROOT, input=stdin, encoding="utf-8",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    return done.returncode, done.stdout


def judged(status, *words, says=""):
    """Whether the lab comes to this verdict, and the word is among what it says."""
    found, said = lab(*words)
    verdict = {REFUSED: "\nREFUSED: ", SUCCEEDED: "\nSUCCEEDED: "}[status]
    return found == status and verdict in said and says in said, said


def removals():
    """(exercise, file, line), as the book tells it."""
    parts = re.split(r"^### \d+\. ", BOOK, flags=re.M)[1:]
    for part in parts:
        if told := re.search(r"\*\*Remove one line\.\*\* In `([\w.]+)`:\n\n```python\n(.*?\n)```", part, re.S):
            yield re.search(r"lab\.py (\w+)\n", part)[1], *told.groups()


def without(file, line, folder):
    """A copy of the peers without that line."""
    shutil.copytree(PEERS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = (folder / file).read_text(encoding="utf-8")
    assert text.count(line) == 1 and line.count("\n") == 1, f"{file} has this line {text.count(line)} times: {line}"
    (folder / file).write_text(text.replace(line, ""), encoding="utf-8")
    return str(folder)


def runs(command, mine):
    """A command of the book. `mine` is a copy of the peers here too, but not in this tree."""
    python, script, *words = shlex.split(command)
    assert (python, script) == ("python3", "tests/lab/lab.py"), command
    words = [mine if word == "mine" else str(PROGRAM) if word == "target/release/fernvpn" else word for word in words]
    status, said = lab(*words, stdin="quit\n")
    return status in (REFUSED, SUCCEEDED), said


def prompt(_):
    typed = ["help", "orders", "run cut client 3", "cut", "nonsense", "peers nowhere", "suite fernet", "5", "quit", ""]
    status, said = lab(stdin="\n".join(typed))
    due = ["reflect client 1", "<- cut", "truncation: the stream ended", "REFUSED: the connection is gone",
           "there is no exercise 'nonsense'", "in nowhere there are no peers", "REFUSED: the record after the gap"]
    return status == 0 and all(text in said for text in due), said


def role(folder):
    """The question of exercise 6: without the role, the nonce refuses."""
    line = '    require(fields.get("role") == "server", "our own hello was reflected")\n'
    peers = without("client.py", line, folder / "role")
    return judged(REFUSED, "--peers", peers, "reflect", says="the ServerHello answers another hello")


def wrong_words(_):
    wrong = ["nothing", "run drop nobody 1", "run fly client 1", "run flip client 1", "--peers /nowhere replay",
             "--suite rot13 replay"]
    statuses = [lab(*words.split())[0] for words in wrong]
    return statuses == [2] * len(wrong), str(statuses)


def mark(*words):
    done = subprocess.run([sys.executable, "tests/lab/mark.py", "--program", str(PROGRAM), *words], cwd=ROOT,
                          encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    return done.returncode, done.stdout


def explained(seed):
    """The answers for one session, as `fernvpn explain` prints them."""
    words = [str(PROGRAM), "explain", "--seed", seed, "--suite", "aes-256-gcm"]
    text = subprocess.run(words, capture_output=True, encoding="utf-8", check=True).stdout.split("\nA SESSION")[0]
    hexadecimal = r"((?:[0-9a-f]{2} ?)+)(?:  .*)?$"

    def derived(name):
        """The last line of a derivation."""
        block = re.search(rf"^{name}: .*\n((?: .*\n)+)", text, re.M)[1]
        return re.findall(rf"^ +{hexadecimal}", block, re.M)[-1]

    def field(step, name):
        """The bytes of a field."""
        part = text[text.index(f"  {step} "):]
        rows = re.search(rf"^ +\d+ +\d+  {name} .*\n((?: {{32}}.*\n)+)", part, re.M)[1]
        return bytes.fromhex(" ".join(re.findall(rf"^ +{hexadecimal}", rows, re.M)))

    iv = bytes.fromhex(derived("client_iv"))
    return {"id": derived("id"), "time": str(int.from_bytes(field("ServerHello", "timestamp"), "big")),
            "iv": field("ClientHello", "IV").hex(" "), "hello-key": "0x" + derived("hello"),
            "server-nonce": field("ServerHello", "nonce").decode().split("=")[1].strip(),
            "transcript": derived("transcript").upper(), "client-secret": derived("client"),
            "nonce-3": (iv[:-1] + bytes([iv[-1] ^ 3])).hex(), "said": field("Message", "text").decode(), "step": "3"}


def marking(folder):
    """Everybody has other answers; the right ones are right, wrong ones get a hint and not the solution."""
    anna, ben = explained("anna"), explained("ben")

    def marked(answers, seed="anna"):
        file = folder / f"{seed}-answers.txt"
        file.write_text("".join(f"{name} = {answer}   # mine\n" for name, answer in answers.items()), encoding="utf-8")
        return mark("--seed", seed, str(file))

    status, said = mark("--seed", "anna")
    if status or any(f"\n{name} " not in said or (name not in ("id", "iv", "step", "said") and answer in said)
                     for name, answer in anna.items()):
        return False, said
    for answers, seed in [(anna, "anna"), (ben, "ben")]:
        status, said = marked(answers, seed)
        if status or "\n10 of 10 are right" not in said:
            return False, said
    same = [name for name in anna if anna[name] == ben[name]]
    status, said = marked(ben)                              # somebody else's answers
    if status != 1 or said.count("right  ") != len(same) or len(same) > 3:
        return False, f"{same}\n{said}"
    for name, answer in anna.items():
        wrong = {"time": "1", "step": "6", "said": "Hello"}.get(name, "00" + answer[-2:])
        status, said = marked({**anna, name: wrong})
        solved = name not in ("time", "step", "said") and answer in said
        if status != 1 or f"wrong  {name}: " not in said or "9 of 10" not in said or solved:
            return False, said
    status, said = marked({"transcript": "not hexadecimal", "speed": "1"})
    return status == 1 and "cannot be read as hexadecimal" in said and "no such question" in said, said


def malformed_answers(folder):
    """A line that is no answer is named, with its number, and the others count."""
    answers = folder / "malformed.txt"
    answers.write_text("\ufeff# mine\n\nstep = 3\ntime: 12\nid\n= 7\nstep = 3\n", encoding="utf-8")
    status, said = mark("--seed", "anna", str(answers))
    due = ["line 4: this is not 'question = answer': time: 12", "line 5: this is not 'question = answer': id",
           "line 6: this is not", "line 7: step has an answer already, in line 3", "right  step", "1 of 10"]
    if status != 1 or any(part not in said for part in due):
        return False, said
    answers.write_bytes(b"step = 3\nid = \xff\n")
    status, said = mark("--seed", "anna", str(answers))
    return status == 2 and "line 2" in said and "UTF-8" in said and "Traceback" not in said, said


def without_cryptography(folder):
    """What is missing is named, with the command that installs it."""
    missing = folder / "missing"
    missing.mkdir()
    (missing / "cryptography.py").write_text("raise ImportError('No module named cryptography')\n")
    for name in ("lab.py", "mark.py"):
        done = subprocess.run([sys.executable, f"tests/lab/{name}", "--seed", "anna"], cwd=ROOT, encoding="utf-8", stdin=subprocess.DEVNULL,
                              env=os.environ | {"PYTHONPATH": str(missing)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        status, said = done.returncode, done.stdout
        if status != 1 or "Traceback" in said or "apt-get install -y python3-cryptography" not in said:
            return False, said
    return True, ""


def outside(_):
    """Nothing of the lab is in fernvpn."""
    sources = [path for path in (ROOT / "src").rglob("*") if path.is_file()] + [ROOT / "Cargo.toml"]
    reached = [str(path) for path in sources if re.search(r"tests/(lab|interop)", path.read_text(encoding="utf-8"))]
    return not reached and b"tests/lab" not in PROGRAM.read_bytes(), str(reached)


def cases(folder):
    for name in NAMES:
        yield f"{name}, the peers", lambda name=name: judged(SUCCEEDED if name in OPEN else REFUSED, name)
        yield f"{name}, fernvpn", lambda name=name: judged(
            SUCCEEDED if name in OPEN_IN_PROGRAM else REFUSED, "--program", str(PROGRAM), name,
            says="the hellos do not open" if name == "steal" else "")
    removed = list(removals())
    assert [name for name, *_ in removed] == ["replay", "disagree", "drop", "spoof"], removed
    for name, file, line in removed:
        peers = without(file, line, folder / name)
        yield f"{name}, without its line", lambda name=name, peers=peers: judged(SUCCEEDED, "--peers", peers, name)
    mine = str(folder / "mine")
    blocks = re.findall(r"```sh\n(.*?)```", BOOK, re.S)
    commands = [line for block in blocks for line in block.splitlines() if "mark.py" not in line]
    for command in sorted(set(commands), key=lambda line: " copy " not in line):
        if " copy " in command:
            assert runs(command, mine)[0], command          # before those that use it
        elif any(word in command for word in ("mine", " run ")) or command.endswith("lab.py"):
            yield command, lambda command=command: runs(command, mine)
    for case in (prompt, role, wrong_words, marking, malformed_answers, without_cryptography, outside):
        yield case.__name__.replace("_", " "), lambda case=case: case(folder)


def main():
    if not PROGRAM.is_file():
        sys.exit(f"there is no {PROGRAM}: make build")
    failed = 0
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(6) as pool:
        running = [(name, pool.submit(case)) for name, case in cases(Path(folder))]
        for name, case in running:
            holds, said = case.result()
            failed += not holds
            print(f"{'ok   ' if holds else '!!   '} {name}" + ("" if holds else f"\n{said}"), flush=True)
    print(f"lab: {len(running) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
