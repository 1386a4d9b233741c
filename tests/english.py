#!/usr/bin/env python3
"""Which sentences of the documents, comments and the program's help have more than 25 words? Prints each with its place.

    python3 tests/english.py [FILE...]

Reads Markdown, without code, tables and generated parts, and the comments of Rust, without pictures and tables. If FERNVPN
names the program, it also reads its man pages, which have the help of every command. Blanks separate words, so `a/b` is
one, and inline code is one.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST = 25
# These are still being rewritten.
LATER = set()


def paragraphs(source, is_markdown):
    """(line, text) of each paragraph and list item."""
    keep_lines = lambda found: "\n" * found[0].count("\n")
    if is_markdown:
        source = re.sub(r"^<!-- begin .*?^<!-- end .*?$", keep_lines, source, flags=re.M | re.S)
        source = re.sub(r"^ *```.*?^ *```", keep_lines, source, flags=re.M | re.S)
        source = re.sub(r"^(    |\t)(?! *[-*\d]).*$", "", source, flags=re.M)
        source = re.sub(r"^ *\|.*$", "", source, flags=re.M)
        source = re.sub(r"`[^`]*`", lambda found: "code" + keep_lines(found), source)
        source = re.sub(r"\]\([^)]*\)|\]\[[^\]]*\]", "]", source)
        breaks = r"\n\s*\n|\n(?= *(?:[-*]|\d+\.) )|\n(?=#)"
    else:
        source = re.sub(r"^\.Bd -literal.*?^\.Ed", keep_lines, source, flags=re.M | re.S)
        source = re.sub(r"^\.(?:It|Sh|Ss|Pp|Bl|El|Nd|Nm|Dd|Dt|Os|Xr|\\\").*$", "", source, flags=re.M)
        source = re.sub(r"^\.[A-Z][a-z] ", "", source, flags=re.M)
        breaks = r"\n\s*\n|(?<=[.?!:)])\n"  # each sentence begins a line
    at = 0
    for part in re.split(f"({breaks})", source):
        if part.strip():
            yield source.count("\n", 0, at + len(part) - len(part.lstrip())) + 1, part
        at += len(part)


def comments(source):
    """(line, text) of each paragraph and list item in the comments of Rust, without pictures, tables and headings."""
    begun, text, kind, is_picture = 0, "", None, False
    for number, line in enumerate([*source.splitlines(), ""], 1):
        found = re.match(r"( *)(//[!/]?) ?(.*)", line)
        said = found[3] if found else ""
        is_picture = found is not None and is_picture != said.startswith("```")
        is_prose = said.strip() and not is_picture and not re.match(r"```|\||#|----", said)
        is_prose = is_prose and (text or not said.startswith("   "))
        is_new = not is_prose or found.group(1, 2) != kind or re.match(r" *(?:[-*]|\d+\.) ", said)
        if is_new and text:
            yield begun, re.sub(r"`[^`]*`", "code", text)
            text = ""
        if is_prose:
            if not text:
                begun, kind = number, found.group(1, 2)
            text += said + "\n"


def sentences(text):
    """A sentence ends before a blank and a capital or an opening sign; an abbreviation does not."""
    text = re.sub(r"\s+", " ", re.sub(r"^\s*(?:[-*]|\d+\.|#+) ", "", text)).strip()
    return re.split(r"(?<=[.?!:])(?<!e\.g\.)(?<!i\.e\.)[)*\"']*(?: (?=[*(\"']*(?:[A-Z0-9\[]|code))|$)", text)


def rust_files():
    return [path for folder in ["src", "tests", "fuzz", "benches"] for path in (ROOT / folder).rglob("*.rs")]


def parts(path):
    """(line, text) of each piece of prose in a file."""
    source = path.read_text(encoding="utf-8")
    return comments(source) if path.suffix == ".rs" else paragraphs(source, path.suffix == ".md")


def man_pages():
    """(page, paragraph) of the man pages, which the program prints."""
    for page in ["fernvpn.8", "fernvpn.conf.5"]:
        if "FERNVPN" in os.environ and page not in LATER:
            said = subprocess.run([os.environ["FERNVPN"], "help", "--man", page], capture_output=True, text=True, check=True)
            yield from ((f"{page}:{line}", text) for line, text in paragraphs(said.stdout, False))


def main():
    files = [Path(name).resolve() for name in sys.argv[1:]] or [
        path for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *rust_files()])
        if str(path.relative_to(ROOT)) not in LATER]
    places = [(f"{os.path.relpath(path, ROOT)}:{line}", text)
              for path in files for line, text in parts(path)]
    places += man_pages() if not sys.argv[1:] else []
    count = long = 0
    for place, text in places:
        for sentence in sentences(text):
            count += 1
            words = len([word for word in sentence.split() if re.search(r"\w", word)])
            if words > MOST:
                long += 1
                print(f"{place}: {words} words: {sentence}")
    print(f"english: {count} sentences, {long} of them too long")
    return 1 if long else 0


if __name__ == "__main__":
    sys.exit(main())
