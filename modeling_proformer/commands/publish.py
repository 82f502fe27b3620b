"""The command `proformer publish`."""

from dataclasses import MISSING as REQUIRED
from dataclasses import asdict, dataclass

from ..data.config import option


@dataclass(kw_only=True)
class PublishConfig:
    """Options of `proformer publish`."""

    checkpoint: str = option("Folder of a model with its card, README.md.", REQUIRED, positional=True)
    repo_id: str = option("Repository, ACCOUNT/NAME; it is created if there is none.", REQUIRED, positional=True)
    license: str | None = option("Identifier of the licence for the card, such as cc-by-4.0.")
    private: bool = option("Create the repository as one that only its owners see.", False)
    create_pr: bool = option("Open a pull request instead, without a tag.", False)
    dry_run: bool = option("Do everything but the upload; this needs no network.", False)


def run(config: PublishConfig):
    """Publish a model on the Hub."""
    from ..hub.publish import publish

    publish(**asdict(config))


KINDS = (PublishConfig,)
