"""A headless browser for tests of pages."""

import base64
import json
import os
import shutil
import subprocess
import time

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Browser:
    """Headless Chromium spoken to over a pipe in the DevTools protocol: no driver needed."""

    def __init__(self, profile, page):
        read_commands, self.commands = os.pipe()
        self.answers, write_answers = os.pipe()

        def as_3_and_4():
            # Chromium reads commands from descriptor 3 and answers on 4.
            spare = [os.dup(read_commands), os.dup(write_answers)]
            os.dup2(spare[0], 3)
            os.dup2(spare[1], 4)

        self.process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                f"--user-data-dir={profile}",
                "--remote-debugging-pipe",
                "--window-size=1200,900",
                "about:blank",
            ],
            preexec_fn=as_3_and_4,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self.buffer, self.number, self.session, self.events = b"", 0, None, []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.open(page if isinstance(page, str) else page.as_uri())

    def open(self, url):
        self.events.clear()
        self.send("Page.navigate", url=url)
        self.wait("Page.loadEventFired")

    def requested(self):
        """Addresses asked for since the page was opened."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def send(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def receive(self):
        while b"\0" not in self.buffer:
            part = os.read(self.answers, 1 << 16)
            assert part, "the browser went away"
            self.buffer += part
        message, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(message)
        if "method" in message:
            self.events.append(message)
        return message

    def wait(self, method):
        while not any(event["method"] == method for event in self.events):
            self.receive()

    def run(self, script):
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, condition):
        # Patient: on a busy machine a pass of the model may take seconds.
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self.run(condition):
                return
            time.sleep(0.02)
        raise AssertionError(f"never true: {condition}")

    def text(self, selector):
        return self.run(f"document.querySelector({selector!r}).textContent")

    def choose(self, name, value):
        self.run(
            f"(() => {{ const s = document.getElementById({name!r}); s.value = {value!r};"
            " s.dispatchEvent(new Event('change')); })()"
        )

    def middle(self, selector):
        return self.run(
            f"(() => {{ const e = document.querySelector({selector!r});"
            " e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )

    def mouse(self, kind, x, y):
        button = "none" if kind == "mouseMoved" else "left"
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def click(self, selector):
        x, y = self.middle(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)

    def key(self, name):
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def theme(self, scheme):
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=media)

    def width(self, pixels, height=900):
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=pixels,
            height=height,
            deviceScaleFactor=1,
            mobile=pixels < 600,
        )

    def screenshot(self, path, whole=False):
        clip = {}
        if whole:
            size = self.send("Page.getLayoutMetrics")["cssContentSize"]
            clip = {
                "clip": {"x": 0, "y": 0, **{k: size[k] for k in ("width", "height")}, "scale": 1}
            }
        shot = self.send(
            "Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip
        )
        path.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self):
        """Exceptions, errors on the console, and whatever was asked for beside the page."""
        thrown = [
            event["params"]["exceptionDetails"]
            for event in self.events
            if event["method"] == "Runtime.exceptionThrown"
        ]
        entries = [e["params"]["entry"] for e in self.events if e["method"] == "Log.entryAdded"]
        errors = [entry["text"] for entry in entries if entry["level"] == "error"]
        return [*thrown, *errors, *self.requested()[1:]]

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=20)
        os.close(self.commands)
        os.close(self.answers)
