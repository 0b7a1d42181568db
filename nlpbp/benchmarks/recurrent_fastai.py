"""fastai at work for the benchmark `recurrent`, in an environment that needs nothing of ours: torch, numpy and fastai alone.

It is started by its path, as `python recurrent_fastai.py FOLDER MODE`, and finds `workers.py` beside it. fastai runs as its
documentation has it: its learners for text, its data loaders, one cycle, its own default for whatever is not given.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING or __name__ != "__main__":
    from nlpbp.benchmarks.workers import Laps, Record, answers, serve
else:
    from workers import Laps, Record, answers, serve

MODES = ("interop", "texts", "language_model", "classifier")
CHUNK = 50  # batches that fastai's SortedDL sorts by length at a time
INTEROP_WORDS, INTEROP_ROWS, INTEROP_WINDOW = 1000, 8, 70

Ints = np.ndarray[Any, np.dtype[np.int64]]


def work(folder: Path, mode: str) -> None:
    """Do what one worker is started for; `folder` holds what our `prepare` wrote."""
    answer = answers()
    try:
        import fastai.text.all  # noqa: F401
    except ImportError as error:
        answer({"missing": str(error)})
        return
    given = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    torch.set_num_threads(given["threads"])
    torch.manual_seed(0)
    if mode == "interop":
        answer(save_model(folder, given))
    elif mode == "texts":
        serve(answer, {"words": lambda: prepare_texts(folder, given)})
    elif mode == "language_model":
        serve(answer, language_model_pieces(folder, given))
    else:
        serve(answer, classifier_pieces(folder, given))


def prepare_texts(folder: Path, given: Record) -> Record:
    """Turn all texts into token ids, in the time that is told, and save them for both sides."""
    import pandas
    from fastai.text.all import Numericalize, make_vocab, tokenize_df

    frame = pandas.DataFrame({"text": json.loads((folder / "texts.json").read_text(encoding="utf-8"))})
    laps = Laps()
    tokenized, counts = tokenize_df(frame, "text")
    laps.lap("tokens")
    words = make_vocab(counts)
    laps.lap("vocabulary")
    numericalize = Numericalize(words)
    ids = [numericalize(tokens) for tokens in tokenized["text"]]
    laps.lap("ids")
    lengths = np.array([len(text) for text in ids])
    np.save(folder / "tokens.npy", np.concatenate([text.numpy() for text in ids]).astype(np.int32))
    np.save(folder / "lengths.npy", lengths)
    (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    size, num_batches = given["peer_batch_size"], given["sample_batches"]
    sample = sample_documents(lengths, size=size, num_batches=num_batches)
    np.save(folder / "sample.npy", sample)
    return laps.record() | {
        "documents": len(ids),
        "tokens": int(lengths.sum()),
        "vocabulary": len(words),
        "mean_length": float(lengths.mean()),
        "mean_length_of_sample": float(lengths[sample].mean()),
    }


def sample_documents(lengths: Ints, *, size: int, num_batches: int, seed: int = 0) -> Ints:
    """Choose some of the batches that fastai makes of an epoch, at equal distances from the longest to the shortest texts.

    fastai sorts 50 batches at a time: one random chunk of an epoch is cut as it cuts it. Sorted again by itself, the sample falls
    into the same batches, and its lengths are those of all texts.

    >>> sample_documents(np.array([3, 1, 8, 7, 2, 4, 5, 6]), size=2, num_batches=2).tolist()
    [7, 6, 4, 1]
    """
    chunk = np.random.default_rng(seed).permutation(len(lengths))[: CHUNK * size]
    batches = by_length(lengths, chunk)[: len(chunk) // size * size].reshape(-1, size)
    places = (np.arange(num_batches) + 0.5) * len(batches) / num_batches
    return batches[places.astype(int)].ravel()


def first_batch(lengths: Ints, *, size: int, seed: int = 0) -> Ints:
    """Return the batch that an epoch of fastai begins with: the longest text of all, and the longest of a random chunk."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    chunk = np.concatenate([[lengths.argmax()], order[order != lengths.argmax()]])[: CHUNK * size]
    return by_length(lengths, chunk)[:size]


def by_length(lengths: Ints, chosen: Ints) -> Ints:
    """Sort positions by the length of their texts, the longest first."""
    return chosen[np.argsort(-lengths[chosen], kind="stable")]


def read_documents(folder: Path) -> list[torch.Tensor]:
    """Read the token ids of all texts."""
    tokens = torch.from_numpy(np.load(folder / "tokens.npy").astype(np.int64))
    return list(tokens.split(np.load(folder / "lengths.npy").tolist()))


def sizes(given: Record) -> dict[str, int]:
    """Return the net's sizes under fastai's names."""
    return dict(zip(("emb_sz", "n_hid", "n_layers"), given["sizes"], strict=True))


def language_model_learner(folder: Path, given: Record, documents: list[torch.Tensor], words: list[str]) -> Any:
    """Make fastai's learner of a language model over `documents`."""
    from fastai.text import all as fastai

    lengths = [len(document) for document in documents]
    data = fastai.Datasets(documents, [[lambda document: fastai.TensorText(document)]])  # a class would be called without it
    loader = fastai.LMDataLoader(data, lens=lengths, bs=given["rows"], seq_len=given["window"], shuffle=True, drop_last=True)
    loaders = fastai.DataLoaders(loader, loader, path=folder)
    loaders.vocab = words
    config = fastai.awd_lstm_lm_config | sizes(given)
    return fastai.language_model_learner(loaders, fastai.AWD_LSTM, config=config, pretrained=False)


def language_model_pieces(folder: Path, given: Record) -> dict[str, Any]:
    """Return the pieces of the language model's worker: some steps of training."""
    words = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    learner = language_model_learner(folder, given, read_documents(folder), words)

    def steps(num: int) -> Record:
        return fit(learner, lr=given["language_model_lr"], max_steps=num) | {
            "steps": num,
            "tokens": num * given["rows"] * given["window"],
        }

    return {"warm-up": lambda: steps(1), "block": lambda: steps(given["language_model_steps"])}


def fit(learner: Any, *, lr: float, max_steps: int | None = None) -> Record:
    """Train for an epoch, or only its first steps; return the seconds by the parts of a step, and the last loss."""
    from fastai.text.all import Callback, CancelFitException

    laps, losses = Laps(), []

    class Told(Callback):
        """Tells where a step is, behind all other callbacks."""

        order = 1000

        def before_train(self) -> None:
            laps.start()

        def before_batch(self) -> None:
            laps.lap("data")

        def after_pred(self) -> None:
            laps.lap("forward")

        def after_loss(self) -> None:
            laps.lap("loss")

        def after_backward(self) -> None:
            laps.lap("backward")

        def after_batch(self) -> None:
            laps.lap("step")
            losses.append(self.learn.loss.item())
            if len(losses) == max_steps:
                raise CancelFitException

        def after_train(self) -> None:
            raise CancelFitException  # nothing is to be validated

    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, lr, cbs=Told())
    return laps.record() | {"loss": losses[-1]}


def classifier_pieces(folder: Path, given: Record) -> dict[str, Any]:
    """Return the pieces of the classifier's worker: an epoch over the sample, unfrozen and frozen, and its prediction."""
    from fastai.text import all as fastai

    documents, labels = read_documents(folder), given["labels"]
    lengths = np.load(folder / "lengths.npy")
    words = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    sample = np.load(folder / "sample.npy")

    def loaders_of(chosen: Ints) -> Any:
        inputs, targets = lambda index: fastai.TensorText(documents[index]), lambda index: fastai.TensorCategory(labels[index])
        data = fastai.Datasets(chosen.tolist(), [[inputs], [targets]])
        options = {"bs": given["peer_batch_size"], "res": lengths[chosen].tolist(), "before_batch": fastai.Pad_Chunk()}
        train = fastai.SortedDL(data, shuffle=True, drop_last=True, **options)
        loaders = fastai.DataLoaders(train, fastai.SortedDL(data, **options), path=folder)
        loaders.vocab = fastai.L([words, sorted(set(labels))])
        return loaders

    longest = loaders_of(first_batch(lengths, size=given["peer_batch_size"]))
    learner = fastai.text_classifier_learner(
        loaders_of(sample),
        fastai.AWD_LSTM,
        config=sizes(given),
        n_out=len(set(labels)),
        loss_func=fastai.CrossEntropyLossFlat(),
        pretrained=False,
    )
    chosen = learner.dls
    counts = {"documents": len(sample), "tokens": int(lengths[sample].sum())}

    def epoch(*, frozen: bool, loaders: Any = chosen) -> Record:
        learner.dls = loaders
        if frozen:
            learner.freeze()
        else:
            learner.unfreeze()
        return fit(learner, lr=given["classifier_lr"]) | counts

    def predict() -> Record:
        learner.dls = chosen
        started = time.perf_counter()
        with learner.no_bar():
            learner.get_preds(dl=chosen.valid)
        return {"seconds": time.perf_counter() - started} | counts

    return {
        "warm-up": lambda: epoch(frozen=False, loaders=longest),
        "unfrozen": lambda: epoch(frozen=False),
        "frozen": lambda: epoch(frozen=True),
        "predict": predict,
    }


def save_model(folder: Path, given: Record) -> Record:
    """Save a language model as fastai users do, with the outputs of its layers in evaluation over two windows of a stream."""
    words = ["xxunk", "xxpad", "xxbos", *(f"word{index}" for index in range(3, INTEROP_WORDS))]
    tokens = torch.from_numpy(np.random.default_rng(0).integers(2, INTEROP_WORDS, (INTEROP_ROWS, 2 * INTEROP_WINDOW)))
    learner = language_model_learner(folder, given | {"rows": 2, "window": INTEROP_WINDOW}, list(tokens), words)
    with torch.no_grad():
        learner.model[1].decoder.bias.normal_()
    outputs: list[torch.Tensor] = []
    for layer in learner.model[0].rnns:
        layer.register_forward_hook(lambda layer, inputs, output: outputs.append(output[0]))
    learner.model.eval()
    with torch.no_grad():
        decoded = [learner.model(window)[0] for window in tokens.split(INTEROP_WINDOW, dim=1)]
    learner.save("lm", with_opt=False)
    (folder / "models" / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    arrays = {f"layer{index}": output.numpy() for index, output in enumerate(outputs)}
    np.savez(folder / "interop.npz", tokens=tokens.numpy(), decoded=torch.cat(decoded).numpy(), **arrays)  # type: ignore[arg-type]
    return {"fastai": importlib.metadata.version("fastai"), "torch": torch.__version__}


def main() -> None:
    """Be the worker that the command line names."""
    parser = argparse.ArgumentParser(description="fastai's side of the benchmark `recurrent`.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("mode", choices=MODES)
    given = parser.parse_args()
    work(given.folder, given.mode)


if __name__ == "__main__":
    main()
