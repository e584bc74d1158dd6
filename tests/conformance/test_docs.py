"""What the READMEs promise is there, and what the sources may not do."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READMES = sorted([ROOT / "README.md", ROOT / "shared" / "README.md", *ROOT.glob("packages/*/README.md")])
SOURCES = sorted([*ROOT.glob("shared/src/**/*.py"), *ROOT.glob("packages/*/src/**/*.py")])
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def name_of(readme: Path) -> str:
    return readme.parent.name


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_every_relative_link_leads_somewhere(readme) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", readme.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, fragment = target.partition("#")
        linked = readme.parent / path if path else readme
        assert linked.exists(), f"{readme} links to {target}"
        if fragment:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert fragment in map(anchor, headings), f"{readme} links to {target}"


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_every_recipe_that_is_named_is_in_the_justfile(readme) -> None:
    lines = re.findall(r"^([a-z][\w-]*)(.*)$", (ROOT / "justfile").read_text(), re.MULTILINE)
    recipes = {name for name, rest in lines if ":" in rest and not rest.startswith(" :=")}
    named = set(re.findall(r"(?:`|tools/)just ([a-z][\w-]*)", readme.read_text()))
    assert named <= recipes


@pytest.mark.parametrize("readme", [path for path in READMES if path.parent.parent.name == "packages"], ids=name_of)
def test_every_tool_has_an_example_its_limits_and_its_commands(readme) -> None:
    headings = re.findall(r"^## (.+)$", readme.read_text(), re.MULTILINE)
    assert headings[0].startswith("A worked example")
    assert headings[-2:] == ["Limits", "Commands"]
    assert f"packages/{readme.parent.name}/README.md" in (ROOT / "README.md").read_text()
    assert f"-c packages/{readme.parent.name}/constraints.txt" in readme.read_text()


def test_nothing_is_unpickled() -> None:
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = {getattr(node, "module", None) or "", *(name.name for name in node.names)}
                assert not {module.partition(".")[0] for module in modules} & UNPICKLERS, source
            if isinstance(node, ast.Call):
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert options.get("allow_pickle", "False") == "False", source
                if ast.unparse(node.func) == "torch.load":
                    assert options["weights_only"] == "True", source
