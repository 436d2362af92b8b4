"""Once-for-all spaces (arXiv:1908.09791): MobileNetV3, ProxylessNAS and ResNet50D supernets."""

from search_spaces.ofa.presets import ofa

__all__ = ["ofa"]
