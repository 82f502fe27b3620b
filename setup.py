"""Packaging of modeling-proformer; settings of the development tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import setup


ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "modeling_proformer/__init__.py").read_text(), re.M).group(1)

setup(
    name="modeling-proformer",
    version=VERSION,
    description="Proformer: DNA in, gene expression out, as a Transformers model",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="promoter gene expression MPRA DNA transformer regulatory genomics",
    packages=[
        "modeling_proformer",
        *(f"modeling_proformer.{name}" for name in ("data", "evaluation", "hub", "tokenization", "training")),
    ],
    # Within the package, so that no module with so general a name as "tokenization" lands in site-packages.
    package_dir={"modeling_proformer": "modeling_proformer", "modeling_proformer.tokenization": "tokenization"},
    package_data={
        "modeling_proformer": ["checkpoints/*/*"],
        "modeling_proformer.evaluation": ["metric_modules/*/*", "templates/*"],
    },
    entry_points={"console_scripts": ["proformer = modeling_proformer.cli:main"]},
    python_requires=">=3.11",
    # All of `proformer predict`, Parquet files and figures included, so that the first thing users try just works.
    install_requires=[
        "huggingface_hub>=1.31",
        "jinja2>=3.1",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "pillow>=10",
        "pyarrow>=15",
        "pyyaml>=6",
        "safetensors>=0.4.3",
        "scipy>=1.11",
        "torch>=2.6",
        "tqdm>=4.66",
        # 5.4 is the first with strict dataclass configurations, which every field's validation rests on; a sixth
        # major version may change what custom models build on, as the fifth did.
        "transformers>=5.4,<6",
    ],
    extras_require={
        # The Trainer needs accelerate, tables to train on datasets: neither is needed to load and use a checkpoint.
        # evaluate is for `metric_module` alone: the metrics are plain functions.
        "train": ["accelerate>=1.1", "datasets>=3.2", "evaluate>=0.4.6"],
        # For `proformer finetune --method lora`.
        "lora": ["peft>=0.17"],
        # For `proformer export --format onnx` and int8; a server needs onnxruntime and transformers alone.
        "export": ["onnx>=1.18", "onnxruntime>=1.22", "onnxscript>=0.6"],
        # For `make docs`.
        "docs": ["furo", "myst-parser>=5", "sphinx>=9"],
        # parameterized and protobuf are for the library's own common tests; the latter its 5.4 needs to say what it
        # could not load. scikit-learn is for examples/kmer_ridge.py, markdown-it-py for the documentation's blocks,
        # playwright and axe for the page of examples/space, which has requirements of its own.
        "dev": [
            "axe-playwright-python",
            "hypothesis",
            "markdown-it-py",
            "pandas",
            "parameterized",
            "playwright",
            "protobuf",
            "pytest>=9",
            "pytest-xdist",
            "ruff",
            "scikit-learn",
            "setuptools",
        ],
    },
)
