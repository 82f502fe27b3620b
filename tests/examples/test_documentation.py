"""The documentation: its blocks run and print what they show, its site is built, and its reference is complete."""

import contextlib
import doctest
import importlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import metadata
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
from accelerate.commands.launch import launch_command_parser
from markdown_it import MarkdownIt
from matplotlib.testing.compare import compare_images
from torch.distributed.run import get_args_parser as torchrun_parser
from transformers import TrainingArguments

from modeling_proformer import cli
from modeling_proformer.hub.checks import same_output


ROOT = Path(__file__).parents[2]
DOCS = ROOT / "examples" / "docs"
PAGES = {path.name: path for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]}

# Blocks that are not run, by their page and their beginning, and why. Their commands are parsed all the same.
NOT_RUN = {
    ("README.md", "make demo"): "sets up an environment and runs all tests; .ci/run gives both commands",
    ("quick_start.md", "pip install"): "would change the environment that the tests run in; `make` gives the same",
    ("train.md", "python examples/train.py --recipe examples/recipes/small.yaml"): "fetches 6.7 M promoters",
    ("train.md", "torchrun"): "needs several GPUs and Slurm",
    ("serve.md", "pip install"): "would change the environment that the tests run in; `make` gives the same",
    ("publish.md", "proformer publish lac-quick your-account/lac-quick --license mit\n"): "publishes on the Hub",
}

# Pages that use what another made.
NEEDS = {"publish.md": "fine_tune.md"}

# Figures that the pages show, and the blocks of which page make them.
FIGURES = {ROOT / "examples" / "motif_effects.png": "README.md", DOCS / "saturation_mutagenesis.png": "quick_start.md"}

# The command whose options a page explains in a table.
EXPLAINED = {"quick_start.md": "predict", "fine_tune.md": "finetune", "publish.md": "publish", "serve.md": "export"}


class Block(NamedTuple):
    """A fenced block of a page, and what the block of text right after it shows of its output, if there is one."""

    page: str
    line: int
    language: str
    code: str
    shown: str | None

    def is_run(self) -> bool:
        return not any(self.page == page and self.code.startswith(beginning) for page, beginning in NOT_RUN)


def blocks_of(page: str) -> list[Block]:
    tokens = MarkdownIt("commonmark").parse(PAGES[page].read_text(encoding="utf-8"))
    blocks = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        place = f"{page}, line {token.map[0] + 1 if token.map else 0}"
        assert token.type != "code_block", f"{place}: an indented block, which nobody runs"
        # Those with braces are directives of the site's builder.
        if token.type != "fence" or token.info.startswith("{"):
            continue
        assert token.info in ("bash", "python", "text"), f"{place}: a block of {token.info!r}, which nobody runs"
        if token.info == "text":
            assert before.type == "fence" and before.info != "text", f"{place}: the output of no block"
            blocks[-1] = blocks[-1]._replace(shown=token.content)
        else:
            blocks.append(Block(page, token.map[0] + 1, token.info, token.content, None))
    return blocks


def shows(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed or, with a line of dots before or after it, the end or the beginning."""
    lines, shown = printed.strip().splitlines(), shown.strip().splitlines()
    if shown[0] == "...":
        shown = shown[1:]
        lines = lines[-len(shown) :]
    if shown[-1] == "...":
        shown = shown[:-1]
        lines = lines[: len(shown)]
    return same_output("\n".join(lines), "\n".join(shown))


class Reader:
    """Reads pages and does what they say, in a folder that looks like a clone and holds the reader's own files."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.done: set[str] = set()
        (folder / "examples").symlink_to(ROOT / "examples")
        (folder / "promoters.fasta").write_text(">one\n" + "ACGTTACCCGGTAAAT" * 5 + "\n>two\n" + "TGACTCA" * 8 + "\n")
        letters = np.random.default_rng(0).choice(list("ACGT"), (60, 20))
        rows = [f"{''.join(row)}\t{(row == 'G').sum()}\n" for row in letters]
        (folder / "assay.tsv").write_text("".join(["sequence\texpression\n", *rows]))

    def read(self, page: str):
        """All blocks of a page in order, once, after those of the page that it needs."""
        if page in self.done:
            return
        self.done.add(page)
        if page in NEEDS:
            self.read(NEEDS[page])
        names: dict = {}
        for block in filter(Block.is_run, blocks_of(page)):
            printed = self.python(block, names) if block.language == "python" else self.bash(block)
            if block.shown is not None and not shows(block.shown, printed):
                pytest.fail(f"{page}, line {block.line}, shows\n{block.shown}\nbut it prints\n{printed}")

    def python(self, block: Block, names: dict) -> str:
        # On the page's own lines, for tracebacks.
        code = compile("\n" * block.line + block.code, PAGES[block.page], "exec")
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        return printed.getvalue()

    def bash(self, block: Block) -> str:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HF_HOME": str(self.folder / "huggingface"),
            "HF_HUB_OFFLINE": "1",
        }
        process = subprocess.run(
            ["bash", "-e", "-c", block.code],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        assert process.returncode == 0, f"{block.page}, line {block.line}:\n{process.stdout}"
        return process.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Reader:
    return Reader(tmp_path_factory.mktemp("clone"))


@pytest.mark.parametrize("page", PAGES)
def test_blocks_run_and_print_what_the_page_shows(reader, page):
    reader.read(page)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda path: path.name)
def test_figures_are_those_that_the_blocks_make(reader, figure):
    reader.read(FIGURES[figure])
    assert compare_images(str(figure), str(reader.folder / figure.name), tol=2) is None


def parse_training(arguments: list[str], monkeypatch):
    """By the script's own parser, on its own kind of machine."""
    without_gpu = ["--use_cpu", "True", "--tf32", "False", "--torch_compile", "False"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *without_gpu])
    runpy.run_path(str(ROOT / "examples" / "train.py"))["parse_arguments"]()


def parse_command(words: list[str], monkeypatch):
    program, arguments = words[0], words[1:]
    if program == "make":
        subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    elif program == "pip":
        assert arguments[:2] == ["install", "--editable"]
        extras = set(re.findall(r"\w+", arguments[2]))
        assert extras <= set(metadata("modeling-proformer").get_all("Provides-Extra"))
    elif program == "proformer":
        cli.parser().parse_args(arguments)
    elif program == "sbatch":
        assert (ROOT / arguments[0]).is_file()
        parse_training(["--recipe", "examples/recipes/full_8_gpus.yaml", *arguments[1:]], monkeypatch)
    elif program == "accelerate":
        parsed = launch_command_parser().parse_args(arguments[1:])
        assert arguments[0] == "launch" and (ROOT / parsed.config_file).is_file()
        assert parsed.training_script == "examples/train.py"
        parse_training(parsed.training_script_args, monkeypatch)
    elif program == "torchrun":
        parsed = torchrun_parser().parse_args(arguments)
        assert parsed.training_script == "examples/train.py"
        parse_training(parsed.training_script_args, monkeypatch)
    else:
        assert words[:2] == ["python", "examples/train.py"]
        parse_training(words[2:], monkeypatch)


@pytest.mark.parametrize(("page", "beginning"), NOT_RUN)
def test_commands_that_are_not_run_are_understood(page, beginning, monkeypatch):
    (block,) = [block for block in blocks_of(page) if block.code.startswith(beginning)]
    assert block.language == "bash" and block.shown is None
    monkeypatch.chdir(ROOT)
    for line in block.code.replace("\\\n", " ").splitlines():
        parse_command(shlex.split(line, comments=True), monkeypatch)


def options_of(command: str) -> set[str]:
    """By its own help."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        cli.main([command, "--help"])
    return set(re.findall(r"^  (?:-\w(?: \w+)?, )?(--[a-z0-9-]+)", printed.getvalue(), re.MULTILINE))


@pytest.mark.parametrize(("page", "command"), EXPLAINED.items())
def test_pages_explain_every_option(page, command):
    rows = re.findall(r"^\| (`-.*?) \|", PAGES[page].read_text(encoding="utf-8"), re.MULTILINE)
    explained = re.findall(r"--[a-z0-9-]+", "".join(rows))
    assert sorted(["--help", *explained]) == sorted(options_of(command))


def test_options_that_pages_name_exist():
    script = runpy.run_path(str(ROOT / "examples" / "train.py"))
    kinds = (script["DataArguments"], script["ModelArguments"], TrainingArguments)
    known = {f"--{option.name}" for kind in kinds for option in fields(kind)}
    commands = ("predict", "finetune", "publish", "export", "dataset-card")
    known = known.union(*map(options_of, commands))
    known |= set(re.findall(r'"(--[a-z_]+)"', (ROOT / "examples" / "benchmark_input.py").read_text(encoding="utf-8")))
    for page in PAGES:
        text = PAGES[page].read_text(encoding="utf-8")
        inline = [child for token in MarkdownIt().parse(text) for child in token.children or []]
        code = " ".join(child.content for child in inline if child.type == "code_inline")
        assert set(re.findall(r"--[a-z][a-z0-9_-]+", code)) <= known, page


def modules() -> list[ModuleType]:
    files = sorted((ROOT / "modeling_proformer").glob("*.py"))
    names = ["", *(f".{file.stem}" for file in files if file.stem != "__init__"), ".tokenization"]
    return [importlib.import_module(f"modeling_proformer{name}") for name in names]


def test_examples_of_docstrings():
    results = [doctest.testmod(module) for module in modules()]
    assert sum(result.attempted for result in results) > 0
    assert sum(result.failed for result in results) == 0


class TestSite:
    @pytest.fixture(scope="class")
    def site(self, tmp_path_factory) -> Path:
        for needed in ("sphinx", "myst_parser", "furo"):
            pytest.importorskip(needed, reason="the site's builder is not installed (pip install '.[docs]')")
        folder = tmp_path_factory.mktemp("site")
        command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", DOCS, folder]
        process = subprocess.run(command, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return folder

    def test_it_has_every_page(self, site):
        pages = {path.stem for path in DOCS.glob("*.md")}
        assert pages <= {path.stem for path in site.glob("*.html")}
        assert all(f'href="{page}.html' in (site / "index.html").read_text() for page in pages - {"index"})

    def test_it_loads_nothing_from_elsewhere(self, site):
        for page in site.glob("*.html"):
            loaded = re.findall(r"<(?:script|link|img)[^>]*?(?:src|href)=\"([^\"]+)\"", page.read_text())
            assert loaded and not [address for address in loaded if re.match(r"\w+:|//", address)]

    def test_the_reference_has_every_public_name(self, site):
        there = set(re.findall(r'<dt [^>]*id="([\w.]+)"', (site / "reference.html").read_text()))
        for module in modules():
            for name in getattr(module, "__all__", []):
                # What several modules have is there once.
                places = [other for other in modules() if getattr(other, name, None) is getattr(module, name)]
                names = {f"{place.__name__}.{name}" for place in places}
                assert names & there, f"{module.__name__}.{name} is not in the reference"
