"""A model as a folder that `from_pretrained` and `pipeline` load, and its way to the hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nlpbp.config import RunSettings
from nlpbp.core.errors import ConfigError
from nlpbp.runs.folder import Run, write_text
from nlpbp.text.tokenizer import END, START, frame_documents_


def save_model(model: Any, preprocessor: Any, state: dict[str, Any], *, folder: Path, card: str) -> None:
    """Write a folder that `from_pretrained` and `pipeline` load, with the tokenizer or image processor: complete, or not there."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, state_dict=state)
    preprocessor.save_pretrained(temporary)
    write_text(temporary / "README.md", card)
    trash = folder.with_name(f".trash-{folder.name}")
    shutil.rmtree(trash, ignore_errors=True)
    if folder.exists():  # of an end that was interrupted before its result was written
        folder.rename(trash)
    temporary.rename(folder)
    shutil.rmtree(trash, ignore_errors=True)


def save_language_model(
    model: Any, tokenizer: PreTrainedTokenizerBase, state: dict[str, Tensor], *, folder: Path, card: str
) -> None:
    """Write a language model that writes on from a prompt, and that another training can start from: complete, or not there."""
    ours = START in tokenizer.get_vocab() and END in tokenizer.get_vocab()
    if ours:
        frame_documents_(tokenizer, end=False)
    save_model(model, tokenizer, state, folder=folder, card=card)
    if ours:
        frame_documents_(tokenizer)


def send_to_hub(run: Run[RunSettings]) -> None:
    """Send the finished model to the hub, if that is wanted; call it in every process."""
    repo = run.settings.push_to_hub
    if repo is not None and run.accelerator.is_main_process:
        run.say(f"sent to {upload(run.out / 'model', repo)}")


def upload(folder: Path, repo: str) -> str:
    """Send a model folder to the hub; return its address there. Raises `ConfigError` when the hub refuses or is out of reach."""
    try:
        api = HfApi()
        name = api.create_repo(repo, exist_ok=True).repo_id
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload model")
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ConfigError(
            f"the model stays in {folder}: {repo} did not take it ({error})",
            column="push_to_hub",
            hint="log in with `hf auth login`",
        ) from error
    return name
