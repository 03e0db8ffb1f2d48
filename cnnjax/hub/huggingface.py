"""Repositories of the Hugging Face hub, downloaded by the package huggingface_hub.

That package has its own cache and reads HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and HF_TOKEN from the environment.
"""

from pathlib import Path

from cnnjax.errors import UserError
from cnnjax.hub.model_folder import CONFIG, WEIGHTS


def snapshot(repository: str) -> Path:
    """Return the local folder of a repository ``OWNER/NAME`` or ``OWNER/NAME@REVISION``, downloaded if necessary.

    Raises:
        UserError: huggingface_hub is not installed, the repository does not exist, or it cannot be reached.
    """
    name, _, revision = repository.partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(f"hf:{repository} is not the name of a repository; give hf:OWNER/NAME")
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"hf:{repository} needs the package huggingface_hub, which is not installed; install cnnjax[hub]"
        ) from error
    try:
        folder = Path(huggingface_hub.hf_hub_download(name, CONFIG, revision=revision or None)).parent
        huggingface_hub.hf_hub_download(name, WEIGHTS, revision=folder.name)  # of the same commit
        return folder
    except Exception as error:  # of httpx, or of one of the package's many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"hf:{repository} cannot be downloaded ({reason}); check the name and the connection, or give a local "
            "copy: folder:DIR"
        ) from error
