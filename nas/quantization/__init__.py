"""Quantization schemes and each runtime's arithmetic, simulated on the supernet."""
