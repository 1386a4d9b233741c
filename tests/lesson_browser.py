#!/usr/bin/env python3
"""Can people read the lesson? Opens it in headless Chromium at four widths, dark and light, with a mouse, with a finger,
with the keyboard alone, without scripts, and printed.

    python3 tests/lesson_browser.py docs/lesson/index.html [FOLDER FOR SCREENSHOTS]

Speaks the DevTools protocol over a pipe: JSON, each message ended by a zero byte. Every step waits for an answer or an
event, and none for a fixed time. Prints how many checks passed. Exits with 1 and the first that failed.
"""

import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe", "about:blank"]
WIDTHS = [(360, 740), (400, 800), (800, 1100), (1400, 1000)]


class Browser:
    def __init__(self, profile):
        program = shutil.which("chromium") or shutil.which("chromium-browser") or sys.exit("there is no chromium")
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()

        def fds_3_and_4():
            for number, fd in [(3, os.dup(theirs_in)), (4, os.dup(theirs_out))]:
                os.dup2(fd, number)

        self.process = subprocess.Popen([program, f"--user-data-dir={profile}", *FLAGS], close_fds=False,
                                        preexec_fn=fds_3_and_4, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.reading, self.writing = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb")
        self.left, self.number, self.session, self.events = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(domain + ".enable")

    def message(self):
        while b"\0" not in self.left:
            more = os.read(self.reading.fileno(), 1 << 20)
            if not more:
                sys.exit("the browser has gone")
            self.left += more
        one, _, self.left = self.left.partition(b"\0")
        return json.loads(one)

    def call(self, method, **parameters):
        self.number += 1
        call = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            call["sessionId"] = self.session
        self.writing.write(json.dumps(call).encode() + b"\0")
        self.writing.flush()
        while True:
            message = self.message()
            if message.get("id") == self.number:
                if "error" in message:
                    sys.exit(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def wait_for(self, method):
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.message())

    def js(self, expression):
        """Returns the value of an expression, or what a promise resolves to."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True,
                         userGesture=True)
        if "exceptionDetails" in done:
            sys.exit(f"{expression}: {done['exceptionDetails']['exception'].get('description')}")
        return done["result"].get("value")

    def open(self, address, width, height, scheme="light", media=""):
        self.as_on(width, height, scheme, media)
        # The empty page makes the browser load an address that differs only behind its #.
        for step in ["about:blank", address]:
            self.events.clear()
            self.call("Page.navigate", url=step)
            self.wait_for("Page.loadEventFired")

    def as_on(self, width, height, scheme="light", media=""):
        """Sets the window's size and the reader's preferences."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", media=media, features=[
            {"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}])

    def middle(self, selector):
        """Scrolls to an element, and returns the middle of its first line."""
        return self.js(f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "center"}});
            const box = element.getClientRects()[0];
            return [box.x + Math.min(box.width / 2, 12), box.y + box.height / 2];
        }})()""")

    def mouse(self, selector, press):
        x, y = self.middle(selector)
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"][:3 if press else 1]:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left" if press else "none", clickCount=1)

    def tap(self, selector):
        x, y = self.middle(selector)
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        # A tap becomes a click a little later, at most two frames on.
        self.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")

    def key(self, key, code):
        text = {"Enter": "\r"}.get(key, "")
        for kind in ["keyDown", "keyUp"]:
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                      **({"text": text} if kind == "keyDown" and text else {}))


CHECKS = 0


def check(what, holds, seen=""):
    global CHECKS
    CHECKS += 1
    if not holds:
        sys.exit(f"NOT SO: {what}  {seen}")


# The worst contrast of text with what is behind it, by WCAG 2, and the smallest text. Text of a drawing may be on one of
# its boxes.
READABLE = """(() => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const mix = (colours) => {
        canvas.globalCompositeOperation = "source-over";
        canvas.fillStyle = "#fff"; canvas.fillRect(0, 0, 1, 1);
        for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((c) => c / 255);
    };
    const light = (colour) => {
        const [r, g, b] = colour.map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    let worst = [99, ""], smallest = [99, ""];
    const seen = new Set();
    for (const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); walker.nextNode();) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("script, style")) continue;
        const style = getComputedStyle(element), chain = [], drawing = element.closest("svg");
        for (let e = element; e; e = e.parentElement) chain.unshift(getComputedStyle(e).backgroundColor);
        const colour = drawing ? style.fill : style.color;
        const key = colour + style.fontSize + chain;
        if (seen.has(key)) continue;
        seen.add(key);
        const name = element.outerHTML.slice(0, 90);
        const boxes = [...(drawing?.querySelectorAll("rect") ?? [])].map((box) => [...chain, getComputedStyle(box).fill]);
        for (const behind of [chain, ...boxes]) {
            const [a, b] = [light(mix([...behind, colour])), light(mix(behind))];
            const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (contrast < worst[0]) worst = [contrast, name];
        }
        if (!drawing && parseFloat(style.fontSize) < smallest[0]) smallest = [parseFloat(style.fontSize), name];
    }
    return {worst, smallest, kinds: seen.size};
})()"""

# Lights them as if one pointed at all pairs of bytes and field at once.
LIGHT_ALL = "document.querySelectorAll('.bytes a, .fields li').forEach((element) => element.classList.add('on'));"

# Finds what the message covers: elements that do not hold it, at points all over it.
COVERED = """(() => {
    const now = document.getElementById("now"), box = now.getBoundingClientRect(), covered = new Set();
    for (const x of [0.02, 0.25, 0.5, 0.75, 0.98]) for (const y of [0.05, 0.5, 0.95]) {
        for (const element of document.elementsFromPoint(box.x + x * box.width, box.y + y * box.height)) {
            if (!element.contains(now)) covered.add(element.outerHTML.slice(0, 90));
        }
    }
    return {shown: !now.hidden && box.height > 0, inside: box.top >= 0 && box.bottom <= innerHeight, covered: [...covered]};
})()"""

# Finds everything that is wider than its place and does not scroll by itself.
TOO_WIDE = """[...document.querySelectorAll("body *")].filter((element) => {
    const box = element.getBoundingClientRect();
    return box.width && box.right > document.documentElement.clientWidth + 0.5 && !element.closest("pre");
}).slice(0, 3).map((element) => element.outerHTML.slice(0, 120))"""


def quiet(browser, address):
    """The browser reports no error, and requested nothing but the page."""
    for event in browser.events:
        name = event.get("method")
        check("no exception", name != "Runtime.exceptionThrown", event)
        check("no message in the log", name not in ["Log.entryAdded", "Runtime.consoleAPICalled"], event)
        if name == "Network.requestWillBeSent":
            url = event["params"]["request"]["url"]
            check("no request but for the page", url == address.partition("#")[0] or url.startswith("data:"), url)


def looks(browser, address, shots):
    for width, height in WIDTHS:
        for scheme in ["light", "dark"]:
            browser.open(address, width, height, scheme)
            check("steps are closed at first", browser.js("document.querySelectorAll('details[open]').length") == 0)
            browser.mouse("[data-open=true]", press=True)
            check("all open", browser.js("document.querySelectorAll('details:not([open])').length") == 0)
            check("no wider than the window", browser.js("document.documentElement.scrollWidth") <= width)
            wide = browser.js(TOO_WIDE)
            check(f"nothing leaves the window at {width}", wide == [], wide)
            readable = browser.js(READABLE)
            check("there is text to look at", readable["kinds"] > 20, readable)
            check(f"contrast at {width}, {scheme}", readable["worst"][0] >= 4.5, readable)
            check(f"size of text at {width}", readable["smallest"][0] >= 11, readable)
            lit = browser.js(LIGHT_ALL + READABLE)
            check(f"contrast where one points, at {width}, {scheme}", lit["worst"][0] >= 4.5, lit)
            browser.js("document.querySelectorAll('.on').forEach((element) => element.classList.remove('on'))")
            if shots:
                browser.js("document.querySelector('details.step:nth-of-type(2)').scrollIntoView()")
                shot = base64.b64decode(browser.call("Page.captureScreenshot")["data"])
                (pathlib.Path(shots) / f"{width}-{scheme}.png").write_bytes(shot)
            browser.mouse("[data-open=false]", press=True)
            check("all closed", browser.js("document.querySelectorAll('details[open]').length") == 0)
            quiet(browser, address)


LIT = "[...document.querySelectorAll('.on')].map((element) => element.id).sort()"
STEP, BYTES, FIELD = "#c0s2", "#c0s2l0b1", "#c0s2l0f1"


def points(browser, address):
    browser.open(address, 1400, 1000)
    browser.mouse(STEP + " > summary", press=True)
    check("a click opens a step", browser.js(f"document.querySelector('{STEP}').open"))
    browser.mouse(BYTES, press=False)
    check("bytes light their field", browser.js(LIT) == [BYTES[1:], FIELD[1:]], browser.js(LIT))
    check("and name it", browser.js("document.querySelector('#now').innerText").startswith("id, bytes 4–11: "))
    browser.mouse(FIELD, press=False)
    check("a field lights its bytes", browser.js(LIT) == [BYTES[1:], FIELD[1:]])
    browser.mouse("h1", press=False)
    check("until one points elsewhere", browser.js(LIT) == [])
    # Bytes and fields belong together in pairs.
    wrong = browser.js("""[...document.querySelectorAll(".bytes a")].filter((bytes) => {
        const field = document.querySelector(bytes.getAttribute("href"));
        return field?.querySelector("a").getAttribute("href") !== "#" + bytes.id;
    }).length""")
    check("bytes and fields name each other", wrong == 0, wrong)

    for width in [360, 400]:
        covers_nothing(browser, address, width)
    browser.open(address, 360, 740)
    browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
    browser.tap(STEP + " > summary")
    check("a tap opens a step", browser.js(f"document.querySelector('{STEP}').open"))
    browser.tap(BYTES)
    check("a tap lights the field", browser.js(LIT) == [BYTES[1:], FIELD[1:]], browser.js(LIT))
    check("and does not move the page", browser.js("location.hash") == "")
    browser.call("Emulation.setTouchEmulationEnabled", enabled=False)

    browser.open(address, 1400, 1000)
    browser.js(f"document.querySelector('{STEP} > summary').focus()")
    browser.key("Enter", 13)
    check("the Enter key opens a step", browser.js(f"document.querySelector('{STEP}').open"))
    for _ in range(2):
        browser.key("Tab", 9)
    check("the Tab key goes through the bytes", browser.js(LIT) == [BYTES[1:], FIELD[1:]], browser.js(LIT))
    browser.key("Enter", 13)
    check("the Enter key goes to the field", browser.js("document.activeElement.closest('li').id") == FIELD[1:])
    browser.key("Escape", 27)
    check("the Escape key ends it", browser.js(LIT) == [])
    browser.open(address + "#c3s3l0f1", 1400, 1000)
    check("a link opens its step", browser.js("document.querySelector('#c3s3').open"))
    quiet(browser, address + "#c3s3l0f1")


def covers_nothing(browser, address, width):
    """In a narrow window the message is between the bytes, and not in front of anything."""
    browser.open(address, width, 800)
    browser.mouse("[data-open=true]", press=True)
    for layer in browser.js("[...document.querySelectorAll('.layer')].slice(0, 12).map((layer) => layer.querySelector('.bytes a').id)"):
        for way in ["mouse", "finger"]:
            browser.call("Emulation.setTouchEmulationEnabled", enabled=way == "finger")
            browser.key("Escape", 27)  # the message that is still shown would move what is behind it
            if way == "mouse":
                browser.mouse("#" + layer, press=False)
            else:
                browser.tap("#" + layer)
            seen = browser.js(COVERED)
            check(f"a {way} shows the message at {width}", seen["shown"], (layer, seen))
            check(f"it covers nothing at {width}", seen["covered"] == [], (layer, seen))
            check(f"the bytes stay lit at {width}", layer in browser.js(LIT), layer)
            check(f"no wider than {width}", browser.js("document.documentElement.scrollWidth") <= width, layer)
    browser.call("Emulation.setTouchEmulationEnabled", enabled=False)
    browser.mouse("h1", press=False)
    check("and it goes", browser.js("document.querySelector('#now').hidden"))


def copies(browser, address):
    browser.open(address, 1400, 1000)
    browser.js("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    browser.mouse("#c2s8 > summary", press=True)
    browser.mouse("#c2s8 .python button", press=True)
    lines = browser.js("document.querySelector('#c2s8 pre code').innerText")
    check("the lines are copied", browser.js("copied").strip() == lines.strip(), browser.js("copied"))
    browser.mouse("#c2s8 .python button + button", press=True)
    names = {}
    exec(browser.js("copied"), names)
    shown = browser.js("document.querySelector('#c2s8l0b0').parentElement.innerText")
    check("with all before they run alone", names["record3"] == bytes.fromhex(shown))
    quiet(browser, address)


def without_scripts(browser, address):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(address, 800, 1100)
    check("no buttons that do nothing", browser.js("getComputedStyle(document.querySelector('.buttons')).display") == "none")
    browser.mouse(STEP + " > summary", press=True)
    check("a step opens", browser.js(f"document.querySelector('{STEP}').open"))
    browser.mouse(BYTES, press=True)
    check("bytes lead to their field", browser.js("location.hash") == FIELD)
    browser.open(address, 800, 1100, media="print")
    hidden = browser.js("[...document.querySelectorAll('.layer')].filter((l) => !l.getBoundingClientRect().height).length")
    check("all is printed", hidden == 0, hidden)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    browser.open(address, 800, 1100)
    pdf = base64.b64decode(browser.call("Page.printToPDF", printBackground=True)["data"])
    check("and fills pages", pdf.count(b"/Type /Page\n") > 40, pdf.count(b"/Type /Page\n"))


def main(page, shots=None):
    address = pathlib.Path(page).resolve().as_uri()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        try:
            looks(browser, address, shots)
            points(browser, address)
            copies(browser, address)
            without_scripts(browser, address)
        finally:
            browser.process.kill()
            browser.process.wait()
    print(f"{CHECKS} checks in Chromium passed")


if __name__ == "__main__":
    main(*sys.argv[1:])
