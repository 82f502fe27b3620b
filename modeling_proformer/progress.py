"""Messages about the progress of long work, such as fine-tuning."""

import logging
import sys

from tqdm import tqdm


class _ProgressHandler(logging.Handler):
    """Prints messages on the standard error, unless the program handles messages itself."""

    def emit(self, record: logging.LogRecord):
        if not logging.getLogger().handlers:
            # Above a progress bar, if there is one. Notebooks and tests replace the stream.
            tqdm.write(self.format(record), file=sys.stderr)


def show_progress():
    """
    Show this package's messages from the level INFO up.

    A program that configures the root logger receives them there instead. To silence them, give the logger
    "modeling_proformer" a higher level: `logging.getLogger("modeling_proformer").setLevel("WARNING")`.
    """
    logger = logging.getLogger(__package__)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(_ProgressHandler())


__all__ = ["show_progress"]
