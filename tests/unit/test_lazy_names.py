import importlib

import pytest

from probes.lazy_names import lazy_names


@pytest.mark.parametrize("package", ["probes", "probes.report", "probes.studies"])
def test_every_public_name_of_a_package_is_found_where_it_is_defined(package):
    module = importlib.import_module(package)
    assert module.__all__ == sorted(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        assert getattr(importlib.import_module(value.__module__), value.__name__) is value, name


def test_only_the_module_that_defines_the_name_is_imported(tmp_path, monkeypatch):
    folder = tmp_path / "some_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "light.py").write_text("name = 'light'")
    (folder / "heavy.py").write_text("raise AssertionError('this module must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    find = lazy_names("some_package", {"light": ("name",), "heavy": ("other",)})
    assert find("name") == "light"
    with pytest.raises(AssertionError, match="must not be imported"):
        find("other")
    with pytest.raises(AttributeError, match="'some_package' has no attribute 'nothing'; it has name, other"):
        find("nothing")
