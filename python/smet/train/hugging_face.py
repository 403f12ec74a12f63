# SPDX-License-Identifier: BSD-3-Clause
"""hf:NAME: text of a Hugging Face data set, from the hub or from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smet.train.documents import Named, pieces
from smet.train.errors import DataError


def read_dataset(name: str, text_column: str) -> tuple[Named, Named]:
    """Documents of the train split, and of the validation or test split where there is one.

    `name` is NAME or NAME:CONFIG of a data set on the hub, or a folder (of save_to_disk, or of data files).
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            "hf: data needs the package `datasets`; install it: pip install 'torch-smet[hf]'"
        ) from None

    datasets.disable_progress_bars()
    splits = _load(datasets, name)
    train = splits.get("train") or next(iter(splits.values()))
    held_out = next((splits[key] for key in ("validation", "test", "valid", "val") if key in splits), None)
    if held_out is train:
        held_out = None
    return (
        _documents(train, name, text_column),
        _documents(held_out, name, text_column) if held_out is not None else [],
    )


def _load(datasets: Any, name: str) -> dict[str, Any]:
    path, _, config = name.partition(":")
    if not Path(path).exists():
        _reach_hub(path)
    try:
        if (Path(path) / "dataset_dict.json").exists() or (Path(path) / "state.json").exists():
            loaded = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(path, config or None)
    except Exception as error:  # whatever the hub, its cache or a file format raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"hf:{name} cannot be loaded: {reason}.") from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _reach_hub(name: str) -> None:
    """Ask the hub for `name` once: the data set's loader would try again for half a minute and more."""
    import huggingface_hub

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=10)
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        raise DataError(f"hf:{name}: the hub has no such data set, or it is private") from error
    except huggingface_hub.errors.HfHubHTTPError:
        return  # the hub answers; let the loader say what is wrong
    except Exception as error:
        raise DataError(
            f"hf:{name} is no folder here, and the hub cannot be reached: {error}. If the data is in its "
            "cache already, set HF_HUB_OFFLINE=1"
        ) from error


def _documents(split: Any, name: str, text_column: str) -> Named:
    if text_column not in split.column_names:
        columns = ", ".join(split.column_names)
        raise DataError(f"hf:{name} has no column '{text_column}'; choose with --text-column: {columns}")
    texts = ((f"{row:09d}", text) for row, text in enumerate(split[text_column]))
    documents = [(key, pieces(text)) for key, text in texts if isinstance(text, str) and text.strip()]
    if not documents:
        raise DataError(f"hf:{name}: column '{text_column}' holds no text")
    return documents
