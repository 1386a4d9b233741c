#!/usr/bin/env python3
"""Runs all Python lines of the lesson and compares what they compute with what the page shows.

    python3 tests/lesson_python.py docs/lesson/index.html

It takes the lines from the page as a reader would copy them: the functions, then step after step, each chapter from the
beginning. Prints how many values agree. Exits with 1 and the name of the first that differs.
"""

import pathlib
import sys
from html.parser import HTMLParser


class Page(HTMLParser):
    """The blocks of Python lines and the values, in the order of the page, each with the chapter in which it stands."""

    def __init__(self):
        super().__init__()
        self.chapter, self.items, self.open, self.text = None, [], [], ""
        self.steps = 0

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        classes = attributes.get("class", "").split()
        if tag == "section":
            self.chapter = attributes["id"] if "chapter" in classes else None
        self.steps += tag == "details"
        if tag == "pre" or attributes.get("data-python"):
            self.open.append((tag, attributes.get("data-python")))
            self.text = ""
        if "bytes" in classes and not attributes["data-python"]:
            sys.exit(f"{self.chapter}: bytes that no Python line computes")

    def handle_data(self, data):
        self.text += data

    def handle_endtag(self, tag):
        if self.open and self.open[-1][0] == tag:
            _, expression = self.open.pop()
            self.items.append((self.chapter, self.steps, expression, self.text))


def main(path):
    page = Page()
    page.feed(pathlib.Path(path).read_text())
    functions = next(text for chapter, _, expression, text in page.items if chapter is None and expression is None)
    checked, chapters = 0, {}
    for step in range(1, page.steps + 1):
        here = [item for item in page.items if item[1] == step and item[0] is not None]
        for chapter, _, expression, lines in here:
            if expression is None:
                names = chapters.setdefault(chapter, {})
                if not names:
                    exec(functions, names)
                exec(lines, names)
        for chapter, _, expression, shown in here:
            if expression is not None:
                computed = eval(expression, chapters[chapter])
                if computed != bytes.fromhex(shown):
                    sys.exit(f"{chapter}: {expression} is {computed.hex(' ')}\nand the page has {shown}")
                checked += 1
    print(f"{checked} values of {len(chapters)} chapters recomputed")


if __name__ == "__main__":
    main(sys.argv[1])
