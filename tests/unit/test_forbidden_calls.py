"""Calls that would run or print what a file says, or leave half a file: none of them may be in the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "pixelflow"
FILES = sorted(PACKAGE.rglob("*.py"))

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle", "telnetlib"}
BUILTINS = {"eval", "exec", "compile", "__import__", "print"}
ATTRIBUTES = {"system", "popen", "extractall", "extract", "unpack_archive", "unsafe_load", "full_load", "read_pickle"}

ALLOWED = {
    "interop/pixelgen.py: import pickle": "torch.load(weights_only=True) raises pickle.UnpicklingError",
    "config/composing.py: import pickle": "copies a config in memory; the bytes come from the same process",
    "terminal.py: print": "the one place that prints; it shows control characters as escapes",
    "assets.py: writes part in place": "a download that is continued after an interruption",
    "assets.py: renames": "the same; its checksum is compared first",
    "benchmarks/data_loading.py: writes path in place": "thousands of images that only the benchmark reads",
    "files.py: renames": "the one place that renames a file",
    "model.py: renames": "the folder of a checkpoint",
    "runs/snapshot.py: renames": "the folder of the frozen code",
    "training/checkpoint.py: renames": "the folder of a checkpoint; its files are flushed to the disk first",
}
"""Exceptions, each with its reason."""


def findings(source: str) -> Iterator[str]:
    """Yields the forbidden imports and calls of a source text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"import {name}" for name in names if name.split(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        yield from _of_file(node)
        if options.get("shell", "False") != "False":
            yield "shell=True"
        if options.get("trust_remote_code", "False") != "False":
            yield "trust_remote_code=True"
        if isinstance(node.func, ast.Name):
            if node.func.id in BUILTINS:
                yield node.func.id
        elif isinstance(node.func, ast.Attribute):
            yield from _of_attribute(ast.unparse(node.func), options)


def _of_file(node: ast.Call) -> Iterator[str]:
    """A file that is written in place is half a file after a crash; see `pixelflow.files`. A log is appended to."""
    method = isinstance(node.func, ast.Attribute)
    name, given = ast.unparse(node.func), ([node.func.value] if method else []) + node.args  # type: ignore[attr-defined]
    function = name.rpartition(".")[2]
    of_path = method and function in ("rename", "replace") and len(node.args) == 1  # that of text takes two arguments
    if name in ("os.rename", "os.replace", "shutil.move") or (of_path and not node.keywords):
        yield "renames"
    writes = method and function in ("write_text", "write_bytes")
    if function == "open":
        modes = [part.value for part in ast.walk(given[1]) if isinstance(part, ast.Constant)] if given[1:] else []
        writes = any(str(mode).startswith(("w", "x")) for mode in modes)
    if writes and not any(isinstance(part, ast.Name) and part.id == "aside" for part in ast.walk(given[0])):
        yield f"writes {ast.unparse(given[0])} in place"


def _of_attribute(name: str, options: dict[str | None, str]) -> Iterator[str]:
    module, _, function = name.rpartition(".")
    if function in ATTRIBUTES:
        yield name
    if name == "torch.load" and options.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if name in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
        yield "np.load without allow_pickle=False"  # the default is safe; it is written so that a reader sees it
    if module.endswith("yaml") and function == "load":
        yield "yaml.load"


def test_the_package_has_no_forbidden_call() -> None:
    found = [
        f"{path.relative_to(PACKAGE).as_posix()}: {finding}"
        for path in FILES
        for finding in findings(path.read_text(encoding="utf-8"))
    ]
    assert sorted(set(found) - set(ALLOWED)) == []
    assert set(found) >= set(ALLOWED), "an exception that nothing needs"


@pytest.mark.parametrize(
    ("source", "finding"),
    [
        ("import pickle", "import pickle"),
        ("from joblib import load", "import joblib"),
        ("eval(text)", "eval"),
        ("print(name)", "print"),
        ("subprocess.run(command, shell=True)", "shell=True"),
        ("os.system(command)", "os.system"),
        ("torch.load(path)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=False)", "torch.load without weights_only=True"),
        ("np.load(path, allow_pickle=True)", "np.load without allow_pickle=False"),
        ("yaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("tar.extractall(folder)", "tar.extractall"),
        ("path.write_text(json.dumps(record))", "writes path in place"),
        ("open(path / 'a.json', 'wb')", "writes path / 'a.json' in place"),
        ("path.open('w')", "writes path in place"),
        ("aside.replace(path)", "renames"),
        ("os.replace(aside, path)", "renames"),
        ("(folder / 'a').rename(path)", "renames"),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", "trust_remote_code=True"),
    ],
)
def test_each_rule_finds_its_call(source: str, finding: str) -> None:
    assert list(findings(source)) == [finding]


def test_safe_calls_are_allowed() -> None:
    source = "model.eval(); torch.load(path, weights_only=True); yaml.safe_load(text); np.load(p, allow_pickle=False)"
    assert list(findings(source)) == []
    source = "write_text(path, text); aside.write_bytes(b); open(aside, 'wb'); open(log, 'ab'); name.replace('a', 'b')"
    assert list(findings(source)) == []
