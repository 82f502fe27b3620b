"""The documentation: its blocks run and print what they show, its site is built, and its reference is complete."""

import contextlib
import doctest
import importlib
import io
import logging
import os
import pkgutil
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
from huggingface_hub import constants as hub_constants
from markdown_it import MarkdownIt
from matplotlib.testing.compare import compare_images
from torch.distributed.run import get_args_parser as torchrun_parser
from transformers import TrainingArguments

import modeling_proformer
from modeling_proformer import cli
from modeling_proformer.hub.checks import same_output


ROOT = Path(__file__).parents[2]
DOCS = ROOT / "examples" / "docs"
PAGES = {path.name: path for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]}

# Blocks that are not run, by their page and their beginning, and why. Their commands are parsed all the same.
NOT_RUN = {
    ("README.md", "make demo"): "sets up an environment and runs all tests; .ci/run runs both commands",
    ("README.md", "proformer variants variants.vcf.gz"): "needs a genome; the pages named below it make a small one",
    ("quick_start.md", "pip install"): "would change the environment that the tests run in",
    (
        "fine_tune.md",
        "proformer finetune counts.tsv",
    ): "needs a table of counts",
    ("fine_tune.md", "proformer finetune promoters.tsv"): "needs a table of classes",
    ("train.md", "proformer train HuggingFaceBio/"): "downloads 6.7 M promoters",
    ("train.md", "torchrun"): "needs several GPUs and Slurm",
    ("train.md", "proformer train native.parquet"): "needs measured promoters",
    ("design.md", "pip install"): "would change the environment that the tests run in",
    ("design.md", "proformer predict designs.tsv --model OTHER"): "needs another model",
    ("design.md", "proformer design --targets 4 8 12 16 --number"): "takes minutes",
    ("design.md", "proformer design --targets 4 8 12 16 18"): "takes minutes",
    ("cluster.md", "pip install"): "would change the environment that the tests run in",
    ("cluster.md", "python examples/ray_predict.py"): "test_ray_predict.py runs the same",
    ("variants.md", "pip install"): "would change the environment that the tests run in",
    ("attribution.md", "pip install"): "would change the environment that the tests run in",
    ("mutagenesis.md", "pip install"): "would change the environment that the tests run in",
    ("serve.md", "pip install"): "would change the environment that the tests run in",
    ("publish.md", "proformer publish lac-quick your-account/lac-quick --license mit\n"): "publishes on the Hub",
}

# Options that the tests add to a page's command, because a full run takes long.
SHORTENED = {
    "proformer finetune assay.tsv": ["--steps", "4"],
    "proformer export": ["--sequences", "promoters.fasta"],
}

# Pages that use the files of another page.
NEEDS = {"publish.md": "fine_tune.md"}

# Figures that the pages show, and the page whose blocks make each.
FIGURES = {
    ROOT / "examples" / "motif_effects.png": "README.md",
    DOCS / "saturation_mutagenesis.png": "quick_start.md",
    DOCS / "mutagenesis.png": "mutagenesis.md",
}

# Processors round a prediction differently in the fifth decimal, and these pages show sums of predictions.
TOLERANCES = {"mutagenesis.md": 1e-4}

# The command whose options a page explains in a table.
EXPLAINED = {
    "quick_start.md": "predict",
    "fine_tune.md": "finetune",
    "train.md": "train",
    "publish.md": "publish",
    "serve.md": "export",
    "design.md": "design",
    "variants.md": "variants",
    "mutagenesis.md": "mutagenesis",
    "embed.md": "embed",
}


class Block(NamedTuple):
    """A fenced block of a page, and the output that the page shows in the block of text right after it."""

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
        location = f"{page}, line {token.map[0] + 1 if token.map else 0}"
        assert token.type != "code_block", f"{location}: nobody runs an indented block"
        # Braces mark directives for Sphinx.
        if token.type != "fence" or token.info.startswith("{"):
            continue
        assert token.info in ("bash", "python", "text"), f"{location}: nobody runs a block of {token.info!r}"
        if token.info == "text":
            assert before.type == "fence" and before.info != "text", f"{location}: this is the output of no block"
            blocks[-1] = blocks[-1]._replace(shown=token.content)
        else:
            blocks.append(Block(page, token.map[0] + 1, token.info, token.content, None))
    return blocks


def shows(shown: str, printed: str, tolerance: float) -> bool:
    """Return whether a page shows the output, or, with a line of dots before or after it, its end or beginning."""
    lines, shown = printed.strip().splitlines(), shown.strip().splitlines()
    if shown[0] == "...":
        shown = shown[1:]
        lines = lines[-len(shown) :]
    if shown[-1] == "...":
        shown = shown[:-1]
        lines = lines[: len(shown)]
    return same_output("\n".join(lines), "\n".join(shown), tolerance)


class Reader:
    """Reads pages and does what they say, in a folder that looks like a clone and holds the reader's own files."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.done: set[str] = set()
        (folder / "examples").symlink_to(ROOT / "examples")
        (folder / "promoters.fasta").write_text(">one\n" + "ACGTTACCCGGTAAAT" * 5 + "\n>two\n" + "TGACTCA" * 8 + "\n")
        bases = np.random.default_rng(0).choice(list("ACGT"), (60, 20))
        rows = [f"{''.join(row)}\t{(row == 'G').sum()}\n" for row in bases]
        (folder / "assay.tsv").write_text("".join(["sequence\texpression\n", *rows]))

    def read(self, page: str):
        """Run all blocks of a page in order, once, after those of the page that it needs."""
        if page in self.done:
            return
        self.done.add(page)
        if page in NEEDS:
            self.read(NEEDS[page])
        names: dict = {}
        for block in filter(Block.is_run, blocks_of(page)):
            printed = self.python(block, names) if block.language == "python" else self.bash(block)
            if block.shown is not None and not shows(block.shown, printed, TOLERANCES.get(page, 1e-5)):
                pytest.fail(f"{page}, line {block.line}, shows\n{block.shown}\nbut it prints\n{printed}")

    def python(self, block: Block, names: dict) -> str:
        # The empty lines give tracebacks the page's own line numbers.
        code = compile("\n" * block.line + block.code, PAGES[block.page], "exec")
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        return printed.getvalue()

    def bash(self, block: Block) -> str:
        """Run a block's lines; our own commands run in this process, which need not import torch again."""
        printed, others = "", []
        for line in block.code.replace("\\\n", " ").splitlines():
            if not line.startswith(("proformer ", "python examples/")):
                others.append(line)
                continue
            printed += self.shell(block, others)
            others = []
            command, *following = line.split(" | ", maxsplit=1)
            output = self.own_command(block, command)
            printed += self.shell(block, following, output) if following else output
        return printed + self.shell(block, others)

    def shell(self, block: Block, lines: list[str], given: str = "") -> str:
        if not lines:
            return ""
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        process = subprocess.run(
            ["bash", "-e", "-c", "\n".join(lines)],
            cwd=self.folder,
            env=environment,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        assert process.returncode == 0, f"{block.page}, line {block.line}:\n{process.stdout}"
        return process.stdout

    def own_command(self, block: Block, command: str) -> str:
        program, *arguments = shlex.split(command)
        for beginning, options in SHORTENED.items():
            if command.startswith(beginning):
                arguments += options
        printed = io.StringIO()
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            offline(),
            without_handlers(),
        ):
            status = cli.main(arguments) if program == "proformer" else run_script(arguments)
        assert status == 0, f"{block.page}, line {block.line}:\n{printed.getvalue()}"
        return printed.getvalue()


def run_script(arguments: list[str]) -> int:
    """Run a script as `python` does, and return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        try:
            runpy.run_path(arguments[0], run_name="__main__")
        except SystemExit as end:
            return end.code or 0
    return 0


@contextlib.contextmanager
def offline():
    """Keep the Hub's library from the network, as HF_HUB_OFFLINE does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
        yield


@contextlib.contextmanager
def without_handlers():
    """Remove pytest's log handlers, because the package only prints messages if the program handles none."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        yield
    finally:
        root.handlers = handlers


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Reader:
    return Reader(tmp_path_factory.mktemp("clone"))


def beside(page: str):
    """Return the mark that lets one worker of pytest-xdist run all that needs the files of a page."""
    return pytest.mark.xdist_group(NEEDS.get(page, page))


@pytest.mark.slow
@pytest.mark.pages
@pytest.mark.parametrize("page", [pytest.param(page, marks=beside(page)) for page in PAGES])
def test_blocks_run_and_print_what_the_page_shows(reader, page):
    if page == "cluster.md":
        pytest.importorskip("ray.data", reason="Ray is not installed; `make test-ray` runs this")
    reader.read(page)


@pytest.mark.slow
@pytest.mark.pages
@pytest.mark.parametrize(
    "figure", [pytest.param(path, marks=beside(page), id=path.name) for path, page in FIGURES.items()]
)
def test_figures_are_those_that_the_blocks_make(reader, figure):
    reader.read(FIGURES[figure])
    assert compare_images(str(figure), str(reader.folder / figure.name), tol=2) is None


def parse_command(words: list[str]):
    """Raise an error unless a command and its arguments are understood."""
    program, arguments = words[0], words[1:]
    if program == "make":
        subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    elif program == "pip":
        assert arguments[:2] == ["install", "--editable"]
        extras = set(re.findall(r"\w+", arguments[2]))
        assert extras <= set(metadata("modeling-proformer").get_all("Provides-Extra"))
    elif program == "proformer":
        # A recipe may be for GPUs.
        without_gpu = ["--use_cpu", "True", "--tf32", "False", "--torch_compile", "False"]
        cli.parse([*arguments, *(without_gpu if arguments[0] == "train" else [])])
    elif program == "python":
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert run_script([arguments[0], "--help"]) == 0
        assert {word for word in arguments if word.startswith("--")} <= {*re.findall(r"--[\w-]+", printed.getvalue())}
    elif program == "sbatch":
        assert (ROOT / arguments[0]).is_file()
        parse_command(["proformer", "train", "--config", "examples/recipes/full_8_gpus.yaml", *arguments[1:]])
    elif program == "accelerate":
        parsed = launch_command_parser().parse_args(arguments[1:])
        assert arguments[0] == "launch" and (ROOT / parsed.config_file).is_file()
        assert parsed.training_script == "examples/train.py"
        parse_command(["proformer", "train", *parsed.training_script_args])
    else:
        assert program == "torchrun"
        parsed = torchrun_parser().parse_args(arguments)
        assert parsed.training_script == "examples/train.py"
        parse_command(["proformer", "train", *parsed.training_script_args])


@pytest.mark.parametrize(("page", "beginning"), NOT_RUN)
def test_commands_that_are_not_run_are_understood(page, beginning, monkeypatch):
    (block,) = [block for block in blocks_of(page) if block.code.startswith(beginning)]
    assert block.language == "bash" and block.shown is None
    monkeypatch.chdir(ROOT)
    for line in block.code.replace("\\\n", " ").splitlines():
        parse_command(shlex.split(line, comments=True))


def options_of(command: str) -> set[str]:
    """Return the options that the help of a command lists."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        cli.main([command, "--help"])
    listed = re.findall(r"^  (-.*?)(?:  |$)", printed.getvalue(), re.MULTILINE)
    return set(re.findall(r"--[a-z0-9_-]+", " ".join(listed)))


def trainer_options() -> list[str]:
    return [f"--{prefix}{option.name}" for option in fields(TrainingArguments) for prefix in ("", "no_")]


@pytest.mark.parametrize(("page", "command"), EXPLAINED.items())
def test_pages_explain_every_option(page, command):
    rows = re.findall(r"^\| (`-.*?) \|", PAGES[page].read_text(encoding="utf-8"), re.MULTILINE)
    explained = re.findall(r"--[a-z0-9_-]+", "".join(rows))
    # The Trainer's own documentation explains its options.
    others = set(trainer_options()) if command == "train" else set()
    positional = {
        f"--{option.name}"
        for kind in cli.COMMANDS[command].kinds
        for option in fields(kind)
        if option.metadata.get("positional")
    }
    assert sorted(["--help", "--config", *explained]) == sorted(options_of(command) - others - positional)


def test_tables_of_options_are_those_of_the_dataclasses():
    written = runpy.run_path(str(DOCS / "option_tables.py"))
    assert {page for page in EXPLAINED if written["TABLE"].search(PAGES[page].read_text(encoding="utf-8"))} == (
        set(EXPLAINED) - {"publish.md"}
    )
    for page, path in PAGES.items():
        text = path.read_text(encoding="utf-8")
        assert text == written["with_tables"](text), f"{page} is out of date: python examples/docs/option_tables.py"


def test_options_that_pages_name_exist():
    known = {"--version", *trainer_options()}.union(*map(options_of, cli.COMMANDS))
    for script in ("benchmark_homology.py", "benchmark_input.py", "benchmark_variants.py", "ray_predict.py"):
        known |= set(re.findall(r'"(--[a-z_-]+)"', (ROOT / "examples" / script).read_text(encoding="utf-8")))
    for page in PAGES:
        text = PAGES[page].read_text(encoding="utf-8")
        inline = [child for token in MarkdownIt().parse(text) for child in token.children or []]
        code = " ".join(child.content for child in inline if child.type == "code_inline")
        assert set(re.findall(r"--[a-z][a-z0-9_-]+", code)) <= known, page


def modules() -> list[ModuleType]:
    """Return the package, its sub-packages and all modules in them."""
    found = pkgutil.walk_packages(modeling_proformer.__path__, "modeling_proformer.")
    names = sorted({"modeling_proformer", "modeling_proformer.tokenization", *(module.name for module in found)})
    return [importlib.import_module(name) for name in names]


def test_examples_of_docstrings():
    results = [doctest.testmod(module) for module in modules()]
    assert sum(result.attempted for result in results) > 0
    assert sum(result.failed for result in results) == 0


@pytest.mark.slow
@pytest.mark.pages
@pytest.mark.xdist_group("site")
class TestSite:
    @pytest.fixture(scope="class")
    def site(self, tmp_path_factory) -> Path:
        for needed in ("sphinx", "myst_parser", "furo"):
            pytest.importorskip(needed, reason="the site's builder is not installed (pip install '.[docs]')")
        from sphinx.cmd.build import build_main

        folder = tmp_path_factory.mktemp("site")
        with contextlib.redirect_stderr(io.StringIO()) as complaints:
            status = build_main(["--fail-on-warning", "--keep-going", "--quiet", str(DOCS), str(folder)])
        assert status == 0, complaints.getvalue()
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
        missing = []
        for module in modules():
            for name in set(getattr(module, "__all__", [])) - {"__version__"}:
                # A name that several modules export is there once.
                places = [other for other in modules() if getattr(other, name, None) is getattr(module, name)]
                if there.isdisjoint(f"{place.__name__}.{name}" for place in places):
                    missing.append(f"{module.__name__}.{name}")
        assert not missing
