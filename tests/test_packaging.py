"""One source of truth: pyproject.toml says what is needed, constraints.txt which versions."""

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
INSTALL = ["-c constraints.txt", "-e .[test]"]
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[0-9][0-9A-Za-z.]*)")


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def environment() -> dict:
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def constraint_lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def requirements(project: dict) -> list[Requirement]:
    """Everything that pyproject.toml names, its own extras aside."""
    extras = project["optional-dependencies"].values()
    every = map(Requirement, sum(extras, start=project["dependencies"]))
    return [requirement for requirement in every if requirement.name != project["name"]]


def test_conda_installs_the_same_package_as_make(environment, make):
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))

    assert pip == INSTALL
    assert " ".join(INSTALL) in make("--dry-run", "--always-make", "test").replace("'", "")


def test_conda_adds_nothing_but_a_supported_python(environment, project):
    python, pip, *rest = environment["dependencies"]

    version = python.removeprefix("python=")
    assert SpecifierSet(project["requires-python"]).contains(version)
    assert pip == "pip"
    assert [list(entry) for entry in rest] == [["pip"]]


def test_constraints_are_exact_public_versions():
    unclear = [line for line in constraint_lines() if not PIN.fullmatch(line)]

    assert not unclear


def test_every_requirement_has_a_constraint_that_satisfies_it(project):
    matches = map(PIN.fullmatch, constraint_lines())
    pins = {canonicalize_name(m["name"]): m["version"] for m in matches if m}

    unmet = [
        str(requirement)
        for requirement in requirements(project)
        if not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), "0"))
    ]

    assert not unmet


def test_requirements_have_lower_bounds_only(project):
    operators = {
        specifier.operator
        for requirement in requirements(project)
        for specifier in requirement.specifier
    }

    assert operators == {">="}


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "environment.yml", "constraints.txt", "Makefile", ".ci/run"]
)
def test_packages_come_from_wherever_the_user_gets_them(name):
    assert "://" not in (ROOT / name).read_text(encoding="utf-8")


def test_wheel_carries_the_data_but_no_training_checkpoint():
    files = {entry.distribution_path for entry in WheelBuilder(str(ROOT)).recurse_included_files()}

    committed = {"lemoe_lab/datasets/embedded.py", "lemoe_lab/data/almanac/relations.json"}
    assert committed <= files
    assert not [path for path in files if "checkpoint" in path]
    assert {path.split("/")[0] for path in files} == {"lemoe_lab"}


def test_ci_runs_what_developers_run():
    script = ROOT / ".ci" / "run"

    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").rstrip().endswith("exec make test")


def test_help_lists_every_public_target(make):
    listed = {line.split()[0] for line in make().splitlines()}
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", rules, re.MULTILINE)[1].split()
    targets = re.findall(r"^([a-z-]+):(?! export)", rules, re.MULTILINE)

    assert set(phony) == set(targets) > {"help", "lab", "test"}
    assert set(targets) <= listed
