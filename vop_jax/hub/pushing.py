"""Uploads a folder to a repository of the Hugging Face hub, in one commit."""

from pathlib import Path

from data_pipelines.console.errors import UserError
from data_pipelines.console.terminal import inform
from vop_jax.hub.fetching import Listed, list_files, quiet_bars, reason_of
from vop_jax.hub.names import HubName


def open_repository(repository: str, private: bool | None) -> Listed:
    """Makes a repository of models unless it is there, and says what it holds.

    Args:
        repository: `owner/name`.
        private: of a new one; None is what its owner has set.

    Raises:
        UserError: the hub cannot be reached, or it may not be written.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(repository, private=private, exist_ok=True)
        return list_files(HubName(repository))
    except UserError:
        raise
    except Exception as error:
        raise _not_written(repository, error) from None


def push(folder: Path, repository: str, message: str) -> str:
    """Uploads all files of a folder to the main branch.

    Returns:
        The commit.

    Raises:
        UserError: the hub cannot be reached, or the repository may not be written.
    """
    from huggingface_hub import HfApi

    files = sorted(x for x in folder.rglob("*") if x.is_file())
    told = (f"{x.relative_to(folder)} ({x.stat().st_size:,} bytes)" for x in files)
    inform(f"pushing to {repository}: {', '.join(told)}")
    quiet_bars()
    try:
        made = HfApi().upload_folder(
            repo_id=repository, folder_path=folder, commit_message=message
        )
    # The hub's client raises errors of its own, of its transport and of the system.
    except Exception as error:
        raise _not_written(repository, error) from None
    return made.oid


def _not_written(repository: str, error: Exception) -> UserError:
    return UserError(
        f"{repository} on the Hugging Face hub cannot be written ({reason_of(error)}); "
        "nothing was changed there. It needs a network and a login that may write: "
        "hf auth login, or HF_TOKEN"
    )
