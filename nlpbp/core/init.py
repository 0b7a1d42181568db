"""Initialisation of recurrent matrices: a state that neither dies out nor blows up on its way through time."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

import torch
from torch import nn

Hidden = Literal["orthogonal", "identity", "default"]


@torch.no_grad()
def init_recurrent_(
    rnn: nn.RNNBase, *, hidden: Hidden = "orthogonal", scale: float = 1.0, forget_bias: float = 1.0, skip: Collection[str] = ()
) -> None:
    """Initialise `nn.LSTM`, `nn.GRU` or `nn.RNN` in place, gate by gate; parameters named in `skip` stay as they are.

    `hidden` is for the hidden-to-hidden matrices of each gate: orthogonal (Saxe et al. 2013), the identity (Le, Jaitly and Hinton
    2015, for a ReLU) or torch's own, times `scale`. Input matrices get Glorot's uniform bounds for one gate, biases are 0, and an
    LSTM's forget gates start open at `forget_bias` (Jozefowicz et al. 2015).

    >>> rnn = nn.RNN(3, 2, nonlinearity="relu")
    >>> init_recurrent_(rnn, hidden="identity")
    >>> rnn.weight_hh_l0.tolist(), rnn.bias_hh_l0.tolist()
    ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
    """
    num_gates = {"LSTM": 4, "GRU": 3}.get(rnn.mode, 1)
    for name, parameter in rnn.named_parameters():
        if name in skip:
            continue
        for gate in parameter.chunk(num_gates):
            if name.startswith("bias"):
                gate.zero_()
            elif name.startswith("weight_hh"):
                _init_hidden_(gate, hidden, scale)
            else:
                nn.init.xavier_uniform_(gate)
        if name.startswith("bias_ih") and rnn.mode == "LSTM":
            parameter.chunk(num_gates)[1].fill_(forget_bias)  # torch orders the gates input, forget, cell, output


def _init_hidden_(gate: torch.Tensor, hidden: Hidden, scale: float) -> None:
    if hidden == "identity":
        nn.init.eye_(gate).mul_(scale)
    elif hidden == "orthogonal":
        nn.init.orthogonal_(gate, gain=scale)
    else:
        bound = scale / math.sqrt(gate.shape[1])
        nn.init.uniform_(gate, -bound, bound)
