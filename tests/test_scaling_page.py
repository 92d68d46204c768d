"""The table of docs/scaling.md is what the cost model says."""

import importlib.util
import re

import pytest
from documented import ROOT

from minitx.training import devices


@pytest.fixture
def page():
    path = ROOT / "docs/generated/scaling_table.py"
    spec = importlib.util.spec_from_file_location("scaling_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_what_the_cost_model_says(page):
    text = page.PAGE.read_text()
    assert text == page.with_table(text)
    assert len(page.rows()) == 9


def test_another_rate_moves_the_table(page, monkeypatch):
    before = page.table()
    monkeypatch.setattr(devices, "EFFICIENCY", 0.2)
    assert page.table() != before


def test_every_device_is_named():
    text = (ROOT / "docs/scaling.md").read_text()
    assert set(devices.DEVICES) <= set(re.findall(r"`([a-z0-9-]+)`", text))
