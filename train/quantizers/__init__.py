"""Quantizers: maps from latent weights w* to (nearly) quantized weights w, one a file.

Every map works on latents in units of the level set (latent / scale), is monotone, and becomes the projector as its
sharpness grows to infinity; `bitplane.train.methods` says which method uses which. The gradient of the loss at w reaches
w* unchanged, or times a method's backward map: no derivative of a forward map is taken by autograd.

    piecewise_linear   L_rho^varrho: ProxConnect, ProxQuant, BinaryRelax, PARQ and, at infinity, the projector
    smooth             tanh (mirror descent) and sign-Swish (BNN++), with the backward maps of ProxConnect++
    random             stochastic rounding; Theorem 3.2's random choice between two maps and its average
    scale              the factor of the level set, and the threshold of ternary weight networks
"""

from bitplane.train.quantizers.piecewise_linear import piecewise_linear, projector
from bitplane.train.quantizers.scale import nearest_scale

__all__ = ["nearest_scale", "piecewise_linear", "projector"]
