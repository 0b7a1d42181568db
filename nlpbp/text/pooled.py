"""A transformer classifier whose head reads the pooled states of any encoder or decoder, as a transformers model.

transformers fixes the pooling of each family: Bert's classifier reads the pooler, which a sentence encoder was never trained to
use, and RoBERTa's the first token. Here it is a choice: `import nlpbp.text` registers the model, and `from_pretrained` and
`pipeline` then load it like any other.
"""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from nlpbp.core.losses import PLAIN, PROBLEM_LOSSES
from nlpbp.core.pooling import Pooling, pool

DROPOUT = 0.1  # before the head, where the config of the body names none
DROPOUT_NAMES = ("classifier_dropout", "hidden_dropout_prob", "seq_classif_dropout", "dropout", "hidden_dropout", "resid_pdrop")
SENTENCE_POOLING: dict[str, Pooling] = {  # sentence-transformers' names, the older and the newer
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
    "mean": "mean",
    "cls": "first",
    "max": "max",
    "lasttoken": "last",
}
SENTENCE_SETTINGS = "sentence_bert_config.json"  # its settings, which older sentence encoders have without any modules


class PooledConfig(PreTrainedConfig):
    """The configuration of a pooled classifier: that of its body, and how the body's last states become the head's input.

    `pooling` is a kind of `nlpbp.core.pooling.pool`, `head_dropout` is applied to the pooled vector.
    """

    model_type = "nlpbp_pooled"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    pooling: str = "mean"
    head_dropout: float = DROPOUT
    tie_word_embeddings: bool = False

    def __post_init__(self, **options: Any) -> None:
        if isinstance(self.text_config, dict):
            self.text_config = AutoConfig.for_model(**self.text_config)
        super().__post_init__(**options)


class PooledForSequenceClassification(PreTrainedModel):
    """A classifier or regressor over the pooled states of `body`: of an encoder-decoder, those of its encoder.

    >>> from transformers import BertConfig
    >>> text = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    >>> model = PooledForSequenceClassification(PooledConfig(text_config=text, pooling="concat", num_labels=3)).eval()
    >>> model(torch.tensor([[1, 2, 0]]), attention_mask=torch.tensor([[1, 1, 0]])).logits.shape
    torch.Size([1, 3])
    """

    config_class = PooledConfig
    base_model_prefix = "body"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: PooledConfig, body: PreTrainedModel | None = None) -> None:
        """Make the model; `body` is a pretrained one of the config's kind, and without it the weights are random."""
        super().__init__(config)
        self.num_labels = int(config.num_labels or 1)
        self.body = reading_part(AutoModel.from_config(config.text_config) if body is None else body)
        self.dropout = nn.Dropout(config.head_dropout)
        num_vectors = 3 if config.pooling == "concat" else 1
        self.classifier = nn.Linear(width_of(self.body.config) * num_vectors, self.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the body's token embeddings."""
        return self.body.get_input_embeddings()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **ignored: Any,
    ) -> SequenceClassifierOutput:
        """Classify texts [batch, length]; `attention_mask` is 0 at padding, on either side, which is never pooled."""
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None:
            raise ValueError("give input_ids or inputs_embeds")
        mask = torch.ones(given.shape[:2], device=given.device) if attention_mask is None else attention_mask
        wanted = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "token_type_ids": token_type_ids}
        inputs = {name: value for name, value in wanted.items() if value is not None}
        if takes_mask(self.body):
            inputs["attention_mask"] = mask
        read = self.body(**inputs, output_hidden_states=output_hidden_states, return_dict=True)
        logits = self.classifier(self.dropout(pool(read.last_hidden_state, mask, kind=self.config.pooling)))
        return SequenceClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels), logits=logits, hidden_states=read.get("hidden_states")
        )

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        kind = self.config.problem_type or ("regression" if self.num_labels == 1 else "single_label_classification")
        labels = labels.float() if kind != "single_label_classification" else labels
        return PROBLEM_LOSSES[kind](logits, labels, PLAIN)


def reading_part(body: PreTrainedModel) -> PreTrainedModel:
    """Return what reads a text: of an encoder-decoder its encoder; a pooler that nothing asks for is taken off."""
    body = encoder_of(body)
    if "add_pooling_layer" in inspect.signature(type(body).__init__).parameters:
        body.pooler = None  # type: ignore[assignment]
    return body


def encoder_of(body: PreTrainedModel) -> PreTrainedModel:
    """Return the encoder of an encoder-decoder; another model as it is."""
    return cast(PreTrainedModel, body.get_encoder()) if body.config.is_encoder_decoder else body


def takes_mask(body: nn.Module) -> bool:
    """Tell whether a model can be told what is padding; FNet mixes all positions, and cannot."""
    return "attention_mask" in inspect.signature(body.forward).parameters


def width_of(config: PreTrainedConfig) -> int:
    """Return the width of a model's last states, from its config.

    >>> from transformers import T5Config
    >>> width_of(T5Config(d_model=48))
    48
    """
    text = config.get_text_config()
    return int(getattr(text, "hidden_size", None) or text.d_model)


def pooled_config(config: PreTrainedConfig, *, pooling: Pooling) -> PooledConfig:
    """Return the config of a pooled classifier over a model of `config`, with its labels, its task and its dropout."""
    # A copy, for a config that is made a part of another one loses its kind of attention.
    text: Any = copy.deepcopy(config.text_config if isinstance(config, PooledConfig) else config)
    text._name_or_path = ""  # where the body came from is a path of this machine
    dropouts = [getattr(config, name, None) for name in ("head_dropout", *DROPOUT_NAMES)]
    made = PooledConfig(
        text_config=text,
        pooling=pooling,
        head_dropout=next((value for value in dropouts if isinstance(value, float)), DROPOUT),
        id2label=config.id2label,
        label2id=config.label2id,
        problem_type=config.problem_type,
    )
    made.pad_token_id = config.pad_token_id
    return made


def sentence_pooling(name: str) -> Pooling | None:
    """Return how a sentence encoder, by folder or hub id, pools its states; None for a model that is no sentence encoder.

    sentence-transformers writes it beside the model, in the folder of its pooling module; a model that it keeps settings for
    without modules is one whose mean it takes.
    """
    modules = _json_of(name, "modules.json")
    if not isinstance(modules, list):
        return "mean" if modules is None and isinstance(_json_of(name, SENTENCE_SETTINGS), dict) else None
    folder = next((one.get("path", "") for one in modules if str(one.get("type", "")).endswith("Pooling")), None)
    written = _json_of(name, f"{folder}/config.json") if folder else None
    if not isinstance(written, dict):
        return None
    named = written.get("pooling_mode")
    modes = [named] if isinstance(named, str) else [mode for mode, holds in written.items() if holds is True]
    known = [SENTENCE_POOLING[mode] for mode in modes if mode in SENTENCE_POOLING]
    return known[0] if len(known) == 1 else None


def _json_of(name: str, file: str) -> Any:
    """Read a JSON file of a model's folder, or of the hub's copy on this machine or the hub itself; None where there is none."""
    path = Path(name, file)
    if not Path(name).is_dir():
        path = _hub_file(name, file) or path
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _hub_file(name: str, file: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    kept = try_to_load_from_cache(name, file)
    if isinstance(kept, str):
        return Path(kept)
    try:
        return Path(hf_hub_download(name, file))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError):
        return None
