#!/usr/bin/env python3
"""Does the tree keep what docs/AUDIT.md claims, as far as a machine can tell? Prints one line for each claim.

    python3 tests/audit/audit.py            checks
    python3 tests/audit/audit.py --write    rewrites the tables of AUDIT.md that are made from the source

Reads the tree around it, with the Python standard library and `cryptography`. Runs `cargo tree`, and `rustc` on
tests/layering.rs, which needs no crate. FERNVPN names the program, which some claims ask.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from datetime import datetime
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "registry"
PROGRAM = Path(os.environ.get("FERNVPN", ROOT / "target/release/fernvpn"))

# The reading order of what an auditor has to trust. The other modules follow as a whole.
CORE = ["fernet/token", "fernet/key", "fernet/cbc", "fernet/base64url", "protocol/mod", "protocol/key_schedule",
        "protocol/frame", "protocol/fields", "protocol/handshake", "protocol/record", "protocol/suite/mod",
        "protocol/suite/aes_256_gcm", "protocol/suite/fernet", "protocol/ratchet"]
AROUND = ["os/entropy", "config/key_file", "config/state_file", "tunnel/peers/ratchet_store", "tunnel/peers/registry",
          "tunnel/peers/admission", "tunnel/server/mod", "tunnel/client/mod", "tunnel/session/receiver", "os/sys"]
MODULES = ["packet", "tunnel", "os", "config", "commands", "audit"]

# Constants, and phrases of PROTOCOL.md that must have their values, or values computed from them.
SPECIFIED = [
    ("protocol/mod.rs", "MAX_HELLO", "| hello body | {:,} bytes |"),
    ("protocol/mod.rs", "MAX_CONTENT", "| content of a record | {:,} bytes |"),
    ("protocol/mod.rs", "MAX_CONTENT", "| a record, suite `aes-256-gcm` | {:,} |", lambda n: 1 + n + 16),
    ("protocol/mod.rs", "MAX_CONTENT", "| a record, suite `fernet` | {:,} |",
     lambda n: (57 + (8 + 1 + n) // 16 * 16 + 16 + 2) // 3 * 4),
    ("protocol/mod.rs", "REKEY_AFTER_BYTES", "| content under one key | {} GiB then Rekey", lambda n: n >> 30),
    ("protocol/mod.rs", "REKEY_AFTER_SECONDS", "2^31 records or {} seconds"),
    ("protocol/mod.rs", "MAX_BYTES", "then Rekey; {} GiB hard", lambda n: n >> 30),
    ("protocol/mod.rs", "MAX_RECORDS", "| records under one key | 2^{} hard", lambda n: n.bit_length() - 1),
    ("tunnel/server/handshake.rs", "HANDSHAKE_TIME", "| handshake, from accept to Finished | {} s in all"),
    ("tunnel/peers/admission.rs", "PLACES", "| unauthenticated connections | {:,} |"),
    ("tunnel/peers/registry.rs", "REMEMBERED", "| remembered nonces per client | the last {} |"),
    ("config/settings.rs", "DEAD_AFTER", "dead if nothing at all has arrived {} s later"),
    ("tunnel/session/receiver.rs", "MAX_PING", "0 to {} bytes of the sender's choice"),
    ("tunnel/session/receiver.rs", "MAX_MESSAGE", "UTF-8 text, at most {:,} bytes"),
    ("tunnel/session/receiver.rs", "MAX_CLOSE", "at most {} bytes of text"),
    ("tunnel/wire/network_config.rs", "MIN_MTU", "of the tunnel device, in bytes: {} to 65,535"),
]


class Broken(Exception):
    """A claim does not hold. The text says why."""


def require(holds, why):
    if not holds:
        raise Broken(why)


def run(*command, **options):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def text(path):
    return (ROOT / path).read_text(encoding="utf-8")


# ---- the shape of the source: tests/layering.rs ------------------------------------------------------------------

def layering(test):
    """Runs a test of tests/layering.rs, compiled by itself."""
    source = text("tests/layering.rs")
    program = ROOT / "target/audit" / hashlib.sha256(f"{ROOT}\n{source}".encode()).hexdigest()[:16]
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        built = run("rustc", "--edition", "2024", "--test", "tests/layering.rs", "-o", program,
                    env={**os.environ, "CARGO_MANIFEST_DIR": str(ROOT)})
        require(built.returncode == 0, built.stderr)
    ran = run(program, "--exact", test, "--nocapture")
    why = re.findall(r"panicked at .*?:\n(.*?)\n(?:note|stack)", ran.stdout + ran.stderr, re.S)
    require(ran.returncode == 0, " ".join(why))
    require("1 passed" in ran.stdout, f"tests/layering.rs has no test {test}")
    return ", ".join(re.findall(r"^(.*: \d+ lines of code.*)$", ran.stdout, re.M))


def unsafe_is_explained():
    """Each `unsafe` has a SAFETY comment right above it, and the lint stands."""
    lints = tomllib.loads(text("Cargo.toml"))["lints"]["rust"]
    require(lints["unsafe_code"] == "deny", "Cargo.toml does not deny unsafe code")
    blocks = unsafe_blocks()
    silent = [f"{function} calls {calls}" for function, calls, why in blocks if not why]
    require(not silent, "no SAFETY comment in src/os/sys.rs: " + "; ".join(silent))
    code = re.sub(r"^\s*//.*$", "", text("src/os/sys.rs").split("#[cfg(test)]")[0], flags=re.M)
    foreign = re.findall(r'^unsafe extern "C" \{$', code, re.M)
    require(len(re.findall(r"\bunsafe\b", code)) == len(blocks) + len(foreign),
            "src/os/sys.rs has unsafe code in another form than `unsafe { call(...) }`")
    return f"{len(blocks)} blocks"


def unsafe_blocks():
    """(function, what it calls, why it is sound), for each block of src/os/sys.rs."""
    lines = text("src/os/sys.rs").split("#[cfg(test)]")[0].splitlines()
    blocks, function = [], None
    for number, line in enumerate(lines):
        if named := re.match(r"\s*(?:pub\(super\) )?fn (\w+)", line):
            function = named[1]
        if line.lstrip().startswith("//") or not re.search(r"\bunsafe \{", line):
            continue
        calls = re.search(r"unsafe \{ \(?(?:[\w:]+\.)?([\w:]+)\(", line)
        comment, above = [], number - 1
        while lines[above].strip().startswith("//"):
            comment.insert(0, lines[above].strip().lstrip("/ "))
            above -= 1
        why = " ".join(comment)
        blocks.append((function, calls[1] if calls else "?", why.removeprefix("SAFETY: ") if "SAFETY:" in why else ""))
    return blocks


# ---- the crates --------------------------------------------------------------------------------------------------

def recorded():
    """name -> (version, checksum, purpose, known), from crates.txt."""
    lines = [line for line in text("tests/audit/crates.txt").splitlines() if not line.startswith("#")]
    return {name: rest for name, *rest in ([part.strip() for part in line.split("|")] for line in lines)}


def crates_are_recorded():
    """The tree that cargo resolves, for every platform, is the one in crates.txt, with the checksums of Cargo.lock."""
    require(not (ROOT / ".cargo").exists(), ".cargo in this tree could replace crates and change the build")
    tree = run("cargo", "tree", "--locked", "--edges", "normal,build", "--target", "all", "--prefix", "none")
    require(tree.returncode == 0, tree.stderr.strip())
    found = {tuple(line.split()[:2]) for line in tree.stdout.splitlines() if line and not line.startswith("fernvpn ")}
    locked = {(package["name"], package["version"]): package.get("checksum", "none")
              for package in tomllib.loads(text("Cargo.lock"))["package"]}
    found = {name: (version[1:], locked[name, version[1:]]) for name, version in found}
    record = {name: (version, checksum) for name, (version, checksum, *_) in recorded().items()}
    differ = sorted(name for name in found.keys() | record.keys() if found.get(name) != record.get(name))
    require(not differ, "not as in tests/audit/crates.txt: " + ", ".join(differ))
    return f"{len(found)} crates"


def crate_sources(name, version):
    """The folder with the source that cargo compiles, and the file it came in."""
    files = list(REGISTRY.glob(f"cache/*/{name}-{version}.crate"))
    require(files, f"{name} {version} is not in {REGISTRY}: cargo fetch --locked")
    return REGISTRY / "src" / files[0].parent.name / f"{name}-{version}", files[0]


def crates_are_as_published():
    """What the compiler reads is what was published: each file, byte by byte."""
    count = 0
    for name, (version, checksum, *_) in recorded().items():
        folder, packed = crate_sources(name, version)
        require(hashlib.sha256(packed.read_bytes()).hexdigest() == checksum, f"{packed} has another checksum")
        with tarfile.open(packed) as archive:
            members = [member for member in archive if member.isfile()]
            for member in members:
                path = folder.parent / member.name
                published = archive.extractfile(member).read()
                require(path.exists() and path.read_bytes() == published, f"{path} was changed")
        extra = {str(path.relative_to(folder.parent)) for path in folder.rglob("*.rs")} - {m.name for m in members}
        require(not extra, f"{folder} has files that were not published: {extra}")
        count += len(members)
    return f"{count} files"


# ---- vectors, recomputed by other software -----------------------------------------------------------------------

def sessions_are_recomputed():
    """tests/interop/vectors.py: every value of four sessions."""
    ran = run(sys.executable, "tests/interop/vectors.py")
    require(ran.returncode == 0, (ran.stdout + ran.stderr).strip().splitlines()[-1:])
    files = sorted(path.name for path in (ROOT / "tests/vectors").glob("session-*.json"))
    require(len(files) == 4 == ran.stdout.count("values recomputed"), f"four sessions are due, not {files}")
    return f"{sum(map(int, re.findall('([0-9]+) values recomputed', ran.stdout)))} values"


def tokens_are_the_specifications():
    """The Fernet specification's own vectors, unchanged, and Python agrees with them."""
    folder = ROOT / "tests/vectors/fernet"
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        checksum, name = line.split()
        require(hashlib.sha256((folder / name).read_bytes()).hexdigest() == checksum, f"{name} has another checksum")
    count = 0
    for name in ["generate", "verify", "invalid"]:
        for vector in json.loads((folder / f"{name}.json").read_text()):
            now = int(datetime.fromisoformat(vector["now"]).timestamp())
            try:
                opened = Fernet(vector["secret"]).decrypt_at_time(vector["token"], vector.get("ttl_sec", 0), now)
                found = opened.decode()
            except InvalidToken:
                found = None
            require(found == vector.get("src"), f"{name}.json: {vector.get('desc', vector['token'])}")
            count += 1
    return f"{count} tokens"


# ---- documents ---------------------------------------------------------------------------------------------------

def documents():
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")])


def anchors(path):
    """What `#...` may name, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_lead_somewhere():
    count = 0
    for document in documents():
        for label, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", without_blocks(document)):
            if re.match(r"\w+:", target):
                continue
            where, _, anchor = target.partition("#")
            path = (document.parent / where).resolve() if where else document
            here = f"{document.relative_to(ROOT)}: [{label}]({target})"
            require(path.exists(), f"{here}: there is no such file")
            require(not anchor or anchor in anchors(path), f"{here}: there is no such heading")
            if (name := re.fullmatch(r"`([\w:]+)`", label)) and path.is_file():
                require(all(defines(path, part) for part in name[1].split("::")), f"{here}: it has no {name[1]}")
            count += 1
    return f"{count} links"


def defines(path, name):
    """Whether a file of Rust, Python, shell or Make has something of this name."""
    word = re.escape(name)
    forms = [rf"\b(?:fn|struct|enum|const|static|type|mod|trait|def|class) {word}\b", rf"^{word}(?: =|:)",
             rf"^    {word} =", rf"^\s+{word}(?:,| \{{|\()"]
    return any(re.search(form, path.read_text(encoding="utf-8"), re.M) for form in forms)


def without_blocks(document):
    return re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)


def names_exist():
    """Every path and every long name of a test in the documents is one of this tree."""
    sources = [path for folder in ["src", "tests", "benches", "docs"] for path in (ROOT / folder).rglob("*")
               if path.suffix in (".rs", ".py")]
    defined = {name for path in sources for name in re.findall(r"\b(?:fn|def) (\w+)", path.read_text(encoding="utf-8"))}
    count = 0
    for document in documents():
        for name in re.findall(r"`([^`\n]+)`", without_blocks(document)):
            here = f"{document.relative_to(ROOT)}: `{name}`"
            if re.fullmatch(r"(src|tests|docs|benches|packaging|fuzz)/[\w./-]+", name):
                require((ROOT / name).exists(), f"{here}: there is no such file")
            elif re.fullmatch(r"[a-z]\w*(_[a-z0-9]+){3,}", name):
                require(name in defined, f"{here}: nothing has this name")
            else:
                continue
            count += 1
    return f"{count} names"


def the_specification_has_the_limits():
    protocol = text("docs/PROTOCOL.md")
    for file, name, phrase, *follows in SPECIFIED:
        found = re.search(rf"const {name}: [\w:]+ = (.*?);", text(f"src/{file}"))
        require(found, f"src/{file} has no {name}")
        number = value(found[1])
        phrase = phrase.format(follows[0](number) if follows else number)
        require(phrase in protocol, f"docs/PROTOCOL.md does not say '{phrase}' ({name} in src/{file})")
    return f"{len(SPECIFIED)} limits"


def value(expression):
    """The number that a constant of the source is, durations in seconds; the expression itself, if it has names."""
    plain = re.sub(r"Duration::from_secs\((\d+)\)", r"\1", expression).replace("_", "")
    return eval(plain, {}) if re.fullmatch(r"[\d\sx<>*+()-]+", plain) else expression


def sentences_are_short():
    ran = run(sys.executable, "tests/english.py")
    require(ran.returncode == 0, " ".join(ran.stdout.splitlines()[:3] + ran.stderr.splitlines()[-1:]))
    return ran.stdout.splitlines()[-1].removeprefix("english: ").split(",")[0]


def the_lesson_is_the_programs():
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "index.html")
        ran = run(PROGRAM, "explain", "--html", page)
        require(ran.returncode == 0, ran.stderr.strip())
        require(page.read_bytes() == (ROOT / "docs/lesson/index.html").read_bytes(),
                "docs/lesson/index.html is not what this program makes: make lesson")
    return ""


def tables_are_current():
    current = with_tables(text("docs/AUDIT.md")) == text("docs/AUDIT.md")
    require(current, "a table is stale: python3 tests/audit/audit.py --write")
    return f"{len(TABLES)} tables"


# ---- the tables of AUDIT.md --------------------------------------------------------------------------------------

def rows(*lines):
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def question(path):
    """The first sentence of the head of a file."""
    head = re.match(r"(?://! .*\n)+", path.read_text(encoding="utf-8"))
    return re.match(r".*?[.?](?= |$)", head[0].replace("//! ", "").replace("\n", " "))[0] if head else ""


def about(paths):
    """Lines of files, to the next 100: comments and tests count too."""
    return f"{-(-sum(len(path.read_text(encoding='utf-8').splitlines()) for path in paths) // 100) * 100:,}"


def reading_order():
    def line(name):
        path = ROOT / f"src/{name}.rs"
        return [f"[src/{name}.rs](../src/{name}.rs)", about([path]), question(path)]

    def module(name):
        folder = ROOT / "src" / name
        read = {ROOT / f"src/{name}.rs" for name in AROUND}
        files = [path for path in folder.rglob("*.rs") if path not in read]
        return [f"the rest of [src/{name}](../src/{name})", about(files), question(folder / "mod.rs")]

    return rows(["read", "lines", "question"], ["---"] * 3,
                ["**the trusted core**", about([ROOT / f"src/{name}.rs" for name in CORE]), ""], *map(line, CORE),
                ["**what it rests on, and what uses it**", "", ""], *map(line, AROUND),
                ["**the rest**", "", ""], *map(module, MODULES))


def crate_table():
    table = []
    for name, (version, _, purpose, known) in recorded().items():
        folder, _ = crate_sources(name, version)
        sources = [path.read_text(encoding="utf-8") for path in (folder / "src").rglob("*.rs")]
        lines = [line for source in sources for line in source.splitlines()]
        unsafe = sum(bool(re.search(r"\bunsafe\b", line)) for line in lines if not line.strip().startswith("//"))
        script = "yes" if (folder / "build.rs").exists() else ""
        table.append([f"`{name}` {version}", f"{len(lines):,}", unsafe or "", script, purpose, known])
    return rows(["crate", "lines", "`unsafe`", "build script", "does here", "audits and advisories known to us"],
                ["---"] * 6, *table)


def unsafe_table():
    return rows(["function of src/os/sys.rs", "calls", "why it is sound"], ["---"] * 3,
                *[[f"`{function}`", f"`{calls}`", why] for function, calls, why in unsafe_blocks()])


# What a limit or a timer is made of: numbers, durations, and lists and tuples that hold some.
NUMBER = r"(?:usize|u8|u16|u32|u64|u128|i32|f64|Duration|RateLimitedLog|BufferPool)"
LIMIT = re.compile(
    r"((?:^ *///.*\n)*)^ *(?:pub(?:\([\w: ]+\))? )?(?:const|static) ([A-Z][A-Z0-9_]*): "
    rf"({NUMBER}|&?[\[(][^=]*?\b{NUMBER}\b[^=]*?) = ([^;]*);", re.M)
# The bytes of a format are no limits, nor are names of numbers.
NO_LIMIT = re.compile(r"&?\[u8\b[^\]]*\]|&\[\(u(?:8|16), &str\)\]")


def without_tests(path):
    return re.split(r"^#\[cfg\(test\)\]\n(?:#\[.*\]\n)*mod tests", path.read_text(encoding="utf-8"), flags=re.M)[0]


def sources_with_limits():
    """Those of os/sys.rs are the kernel's."""
    return [path for path in sorted((ROOT / "src").rglob("*.rs")) if path != ROOT / "src/os/sys.rs"]


def limit_table():
    """Every named number, duration, and list of them."""
    table = []
    for path in sources_with_limits():
        name = path.relative_to(ROOT / "src")
        for doc, constant, kind, amount in LIMIT.findall(without_tests(path)):
            if NO_LIMIT.fullmatch(kind):
                continue
            meaning = " ".join(line.strip().removeprefix("///").strip() for line in doc.splitlines())
            number = value(" ".join(re.sub(r"//.*", "", amount).split()))
            shown = f"{number:,}" if isinstance(number, int) else f"`{number}`"
            shown += " s" if amount.startswith("Duration") and isinstance(number, int) else ""
            table.append([f"[`{constant}`](../src/{name})", *(cell.replace("|", "\\|") for cell in (shown, meaning))])
    return rows(["constant", "value", "meaning"], ["---"] * 3, *table)


def every_timer_has_a_name():
    """A duration in numbers stands in a constant, so that the table of limits has it."""
    count = 0
    for path in sources_with_limits():
        code = re.sub(r"^ *//.*$", "", without_tests(path), flags=re.M)
        # A constant's value ends with a semicolon at the end of a line.
        code, constants = re.subn(r"\b(?:const|static) [A-Z]\w*: .*?;$", "", code, flags=re.M | re.S)
        count += constants
        found = re.search(r"Duration::from_\w+\(\s*[\d_.]+\s*\)", code)
        require(not found, f"{path.relative_to(ROOT)}: {found and found[0]} has no name")
    return f"{count} constants"


TABLES = {"reading order": reading_order, "crates": crate_table, "unsafe": unsafe_table, "limits": limit_table}


def with_tables(document):
    for name, make in TABLES.items():
        begin, end = f"<!-- begin {name}: made by tests/audit/audit.py -->\n", f"<!-- end {name} -->"
        require(begin in document and end in document, f"docs/AUDIT.md has no place for the table '{name}'")
        head, rest = document.split(begin)
        document = head + begin + "\n" + make() + "\n\n" + end + rest.split(end)[1]
    return document


# ---- the claims --------------------------------------------------------------------------------------------------

CLAIMS = [
    ("four crates, no build script", lambda: layering("four_crates_and_no_more")),
    ("their tree is the recorded one", crates_are_recorded),
    ("the crates' sources are as published", crates_are_as_published),
    ("unsafe code in one file only", lambda: layering("unsafe_has_one_address")),
    ("each unsafe block says why it is sound", unsafe_is_explained),
    ("modules use only the modules they may", lambda: layering("modules_use_only_the_modules_they_may")),
    ("the core has no clock, file, socket, thread or randomness", lambda: layering("the_core_asks_for_everything")),
    ("nothing is unwrapped", lambda: layering("nothing_is_unwrapped")),
    ("line budgets are kept", lambda: layering("the_budgets_are_kept")),
    ("Python recomputes the sessions", sessions_are_recomputed),
    ("the Fernet specification's vectors hold", tokens_are_the_specifications),
    ("PROTOCOL.md has the limits of the source", the_specification_has_the_limits),
    ("every timer has a name", every_timer_has_a_name),
    ("the tables of AUDIT.md are made from this source", tables_are_current),
    ("the lesson is what the program makes", the_lesson_is_the_programs),
    ("links in documents lead somewhere", links_lead_somewhere),
    ("files and tests that documents name exist", names_exist),
    ("sentences in documents and comments are short", sentences_are_short),
]


def main():
    if sys.argv[1:] == ["--write"]:
        (ROOT / "docs/AUDIT.md").write_text(with_tables(text("docs/AUDIT.md")), encoding="utf-8")
        return 0
    if sys.argv[1:]:
        sys.exit(__doc__)
    failed = 0
    for claim, check in CLAIMS:
        try:
            detail = check()
            print(f"holds   {claim}" + (f": {detail}" if detail else ""), flush=True)
        except (Broken, OSError, KeyError, ValueError) as reason:
            failed += 1
            print(f"BROKEN  {claim}: {reason}", flush=True)
    print(f"audit: {len(CLAIMS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
