"""What the pages say of options, links and code holds, and their snippets run."""

import ast
import re
import sys
from pathlib import Path

import pytest
import torch
from documentation import FENCE, HCT, LINK, OTHERS, PAGES, ROOT, RUNS, blocks, composed, run, spans
from omegaconf import OmegaConf
from PIL import Image


def test_there_are_commands():
    assert len(RUNS) > 30
    assert len(OTHERS) > 10


def test_the_readme_is_a_page():
    assert len(PAGES[0].read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_stands_in_fences_of_a_known_language(page):
    text = page.read_text()
    assert {kind for kind, _ in FENCE.findall(text)} <= {"bash", "python", "yaml", "text"}
    assert "```" not in FENCE.sub("", text)
    assert not re.findall(r"^(?: {4}|\t).*", FENCE.sub("", text), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_linked_from_the_readme():
    linked = {link.partition("#")[0] for link in LINK.findall(PAGES[0].read_text())}
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= linked


def test_the_design_shows_every_room():
    tree = re.search(r"```text\n(conf/.*?)```", (ROOT / "docs" / "design.md").read_text(), re.DOTALL)[1]
    shown = set(re.findall(r"^ *([\w.]+/?)(?: |$)", tree, re.MULTILINE))
    package = ROOT / "hct_lightning"
    rooms = {file.parent.relative_to(package) for file in package.rglob("*.py")} - {Path()}
    # A benchmark of several files is no room.
    assert {f"{room.name}/" for room in rooms if room.parent.name != "benchmarks"} <= shown
    for name in shown:
        assert [*ROOT.glob(name), *package.rglob(name)], name


def test_the_design_shows_the_floors_that_are_guarded():
    block = re.search(r"## Floors.*?```text\n(.*?)```", (ROOT / "docs" / "design.md").read_text(), re.DOTALL)[1]
    guarded = ast.parse((ROOT / "tests" / "test_architecture.py").read_text()).body
    floors = next(n.value for n in guarded if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "FLOORS")
    assert [set(line.split()) for line in reversed(block.splitlines())] == list(ast.literal_eval(floors))


def test_options_that_are_named_exist():
    """`data.limit`, `export.openvino_int8.percent=50`: of a group, with or without a value."""
    files = {group: sorted((ROOT / "conf" / group).glob("[a-z]*.yaml")) for group in ("task", "data", "benchmark")}
    every = [f"{group}=[{','.join(file.stem for file in found)}]" for group, found in files.items()]
    every += ["model=[hct,timm]", "logger=[wandb,tensorboard]", "export=[torchscript_int8,openvino_int8]"]
    every += ["callbacks=default", "gradients=[k_sync,post_local_sgd]"]
    config = OmegaConf.to_container(composed([*every, "+slurm=nodes"]))

    def has(options: object, path: list[str]) -> bool:
        return not path or (isinstance(options, dict) and path[0] in options and has(options[path[0]], path[1:]))

    named = {m[1] for span in spans() if (m := re.fullmatch(r"([a-z]\w*(?:\.\w+)+)(=.*)?", span))}
    named = {
        name
        for name in named
        if isinstance(config.get(name.split(".")[0]), dict) and not name.endswith((".json", ".safetensors"))
    }
    assert len(named) > 20
    assert not [name for name in sorted(named) if not has(config, name.split("."))]


@pytest.mark.parametrize("snippet", dict.fromkeys(blocks("python")))
def test_python_snippet(snippet, trained, cli, tmp_path):
    if "artifacts/timm" in snippet:
        cli("task=export", f"run={trained}", "export=[timm]", "export.evaluation=0", cwd=tmp_path)
    names = {"images": torch.zeros(2, 3, 128, 128, dtype=torch.uint8)}
    Image.new("RGB", (200, 150)).save(tmp_path / "slide.tif")
    exec(snippet.replace("RUN/", f"{trained}/").replace("slide.tif", f"{tmp_path}/slide.tif"), names)
    if "image" in names:
        assert names["probabilities"].shape == (1, 4)
    elif "probabilities" in names:
        assert names["probabilities"].shape == (2, 4)
        assert "# uint8, n c h w" in snippet
    elif "network" in names:
        assert names["network"](torch.zeros(2, 3, 128, 128)).shape == (2, 4)
    else:
        assert len(names["backbone"](torch.zeros(2, 3, 128, 128))) == 5


@pytest.mark.parametrize("snippet", blocks("yaml"))
def test_yaml_snippet_is_taken(snippet, tmp_path, environment):
    """As this machine's own settings, in the user's folder."""
    file = tmp_path / "hct_lightning" / "local" / "default.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(snippet)
    said = run([sys.executable, *HCT[1:], "--cfg", "job"], environment | {"XDG_CONFIG_HOME": str(tmp_path)}, tmp_path)
    config, settings = OmegaConf.create(said), OmegaConf.create(snippet)
    assert settings
    assert OmegaConf.merge(config, settings) == config
