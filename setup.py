"""Packaging of modeling-proformer; settings of the development tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import setup


ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "modeling_proformer/version.py").read_text(), re.M).group(1)

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
        *(
            f"modeling_proformer.{name}"
            for name in ("commands", "data", "evaluation", "hub", "tokenization", "training")
        ),
    ],
    # "tokenization" is too general a name for a top-level package in site-packages.
    package_dir={"modeling_proformer": "modeling_proformer", "modeling_proformer.tokenization": "tokenization"},
    package_data={
        "modeling_proformer": ["checkpoints/*/*"],
        "modeling_proformer.evaluation": ["metric_modules/*/*", "templates/*"],
    },
    entry_points={"console_scripts": ["proformer = modeling_proformer.cli:main"]},
    python_requires=">=3.11",
    # `proformer predict` needs these, with Parquet files and figures, so that what users try first works.
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
        # 5.4 is the first version with strict dataclass configurations, which validate the fields of ours. A sixth
        # major version may change what custom models build on, as the fifth did.
        "transformers>=5.4,<6",
    ],
    extras_require={
        # Loading and using a checkpoint needs none of these: accelerate is for the Trainer, datasets for the tables to
        # train on, scikit-learn for the k-mer ridge regression and ROC curves, evaluate for `metric_module` alone.
        "train": ["accelerate>=1.1", "datasets>=3.2", "evaluate>=0.4.6", "scikit-learn>=1.6"],
        # For adapters and `proformer finetune --method lora`. Before 0.20, transformers loads an adapter without its
        # head.
        "lora": ["peft>=0.20"],
        # For examples/docs/attribution.md.
        "attribution": ["captum>=0.8", "ledidi>=2.2", "tangermeme>=1.6"],
        # For `proformer design`.
        "design": ["dnachisel>=3.2.16"],
        # For the figures of `proformer mutagenesis`, and for its motif names.
        "motifs": ["logomaker>=0.8.6", "memelite>=0.5", "pandas>=2.2", "tangermeme>=1.6"],
        # For tables in Excel workbooks.
        "excel": ["openpyxl>=3.1"],
        # For `proformer variants` on a genome or VCF, and for regions of a genome.
        "genome": ["pysam>=0.22"],
        # For examples/ray_predict.py. A cluster has a version of its own, and what is called exists since 2.10.
        "ray": ["ray[data]>=2.10"],
        # For `proformer export --format onnx` and int8; a server needs only onnxruntime and transformers.
        "export": ["onnx>=1.18", "onnxruntime>=1.22", "onnxscript>=0.6"],
        # For `make docs`.
        "docs": ["furo", "myst-parser>=5", "sphinx>=9"],
        # The transformers library's own common tests need parameterized, and with 5.4 protobuf to report what it could
        # not load. The tests of the documentation need markdown-it-py, and those of the page in examples/space, which
        # has requirements of its own, playwright and axe.
        "dev": [
            "axe-playwright-python",
            "dnachisel",
            "hypothesis",
            "markdown-it-py",
            "mypy",
            "openpyxl",
            "pandas",
            "parameterized",
            "playwright",
            "pre-commit",
            "protobuf",
            "psutil",
            "pysam",
            "pytest>=9",
            "pytest-xdist",
            "ruff",
            "setuptools",
        ],
    },
)
