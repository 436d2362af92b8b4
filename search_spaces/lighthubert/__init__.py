"""LightHuBERT space: a HuBERT speech encoder of elastic width, depth, heads and feed-forward.

Papers: HuBERT, arXiv:2106.07447 (network); LightHuBERT, arXiv:2203.15610 (space and sharing).

Fixed convolutions turn a waveform into frames, which are projected to the embedding width (one for
the whole network), told their place by a grouped convolution, and pass post-norm transformer
layers: norm(x + attention(x)), norm(x + feed-forward(x)). The states of the last layer are what is
learned from a teacher; for labelled data their mean over the frames goes to a linear head.

Weights are shared as published, which is not always a plain prefix:

- The position convolution keeps its number of groups, so that its first channels are regrouped at
  another width, and its weight norm is that of the full tensor, taken before slicing. A plain
  network has the resulting weight, folded.
- Hidden units lie in rows of the largest width; a narrower network uses the start of each row.
- Of twelve layers, a network of ten leaves out the eighth and the last.

The published small supernet is a tensor of base's sizes (768 wide) of which at most 512 are used;
ours holds what its largest network needs, and reference weights are cut to that.
"""

from search_spaces.lighthubert.space import lighthubert

__all__ = ["lighthubert"]
