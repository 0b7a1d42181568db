"""AWD-LSTM (Merity, Keskar and Socher 2017) as transformers models: an encoder, a language model and a classifier.

`import nlpbp.text` registers them with transformers' `Auto*` classes. The models are stateless: `forward` takes the recurrent state
and returns the new one, as a flat tuple of tensors [batch, width] with one tensor a layer (h), or two for LSTMs (h, c).
"""

from nlpbp.text.awd_lstm.classifier import AWDLSTMForSequenceClassification, PoolingHead
from nlpbp.text.awd_lstm.configuration import CELLS, CLASSIFIER_DROPOUTS, LANGUAGE_MODEL_DROPOUTS, AWDLSTMConfig, Dropouts
from nlpbp.text.awd_lstm.encoder import AWDLSTMModel, AWDLSTMOutput, AWDLSTMPreTrainedModel, Masks, State
from nlpbp.text.awd_lstm.language_model import AWDLSTMCausalLMOutput, AWDLSTMForCausalLM

__all__ = [
    "CELLS",
    "CLASSIFIER_DROPOUTS",
    "LANGUAGE_MODEL_DROPOUTS",
    "AWDLSTMCausalLMOutput",
    "AWDLSTMConfig",
    "AWDLSTMForCausalLM",
    "AWDLSTMForSequenceClassification",
    "AWDLSTMModel",
    "AWDLSTMOutput",
    "AWDLSTMPreTrainedModel",
    "Dropouts",
    "Masks",
    "PoolingHead",
    "State",
]
