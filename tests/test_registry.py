import sys
from importlib import metadata

import pytest

from minitx.errors import BadInputError
from minitx.registry import Registry, _entry_points


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """A registry of a package with two modules, each of which registers one kind."""
    package = tmp_path / "shapes_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from minitx.registry import Registry\nSHAPES = Registry('shape', 'shapes_package')\n"
    )
    for name in ("circle", "square"):
        (package / f"{name}.py").write_text(
            "from shapes_package import SHAPES\n"
            f"@SHAPES.register('{name}')\ndef area(size):\n    return '{name}', size\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("shapes_package").SHAPES
    for name in [name for name in sys.modules if name.startswith("shapes_package")]:
        del sys.modules[name]


def test_modules_of_the_package_register_when_a_name_is_first_asked_for(shapes):
    assert "shapes_package.circle" not in sys.modules
    assert shapes.names() == ("circle", "square")
    assert shapes.get("square")(2) == ("square", 2)


def test_one_from_outside_joins_and_an_unknown_name_lists_all(shapes):
    shapes.register("star")(len)
    assert shapes.get("star") is len
    with pytest.raises(BadInputError, match=r"shape is 'line'.*star, circle, square"):
        shapes.get("line")


def test_a_name_belongs_to_one():
    registry = Registry("shape", "minitx")
    registry.register("circle")(len)
    registry.register("circle")(len)
    with pytest.raises(ValueError, match="already a shape called 'circle'"):
        registry.register("circle")(max)


def test_installed_packages_add_kinds_and_are_looked_through_once(shapes, tmp_path, monkeypatch):
    package = tmp_path / "more_shapes-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Name: more-shapes\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[minitx.shapes]\nstar = more_shapes\n")
    (tmp_path / "more_shapes.py").write_text(
        "from shapes_package import SHAPES\nSHAPES.register('star')(len)\n"
    )
    looks, look = [], metadata.entry_points
    monkeypatch.setattr(metadata, "entry_points", lambda: looks.append(1) or look())
    _entry_points.cache_clear()
    try:
        assert shapes.names() == ("circle", "square", "star")
        assert Registry("colour", "minitx.training.logging").names() == ()
        assert len(looks) == 1
    finally:
        _entry_points.cache_clear()
        sys.modules.pop("more_shapes", None)
