"""The page of `minitx explore` for a small model, served in a thread of the test's own process."""

import http.client
import json
import threading
from contextlib import contextmanager

from minitx.report.pages.explore_page import explore_page
from minitx.serving.page_app import PageApp
from minitx.serving.server import ServerStop, listen, run_page
from minitx.workflows.attend import study_model
from minitx.workflows.explore import Explorer


class Page:
    def __init__(self, port, explorer):
        self.port, self.explorer = port, explorer

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            got = connection.getresponse()
            return got.status, dict(got.getheaders()), got.read()
        finally:
            connection.close()

    def answer(self, name, **given):
        headers = {"Content-Type": "application/json"}
        status, _, body = self.ask("POST", f"/answers/{name}", json.dumps(given), **headers)
        return status, json.loads(body)


@contextmanager
def exploring(loaded, prompt=None, page_of=explore_page):
    explorer = Explorer(study_model(loaded, prompt, stand_in="The"))
    stop, ready = ServerStop(), threading.Event()
    opened = listen("127.0.0.1", 0)
    page = Page(opened.getsockname()[1], explorer)
    app = PageApp(page_of(explorer), explorer.answers)
    thread = threading.Thread(target=run_page, args=(opened, app, stop, ready.set))
    thread.start()
    try:
        assert ready.wait(30)
        yield page
    finally:
        stop.signal_number = 15
        thread.join(30)
        assert not thread.is_alive()
