"""Networks as libraries have them, with thin wrappers.

Feature backbones, autoencoders, CLIP, Stable Diffusion, the small UNets of the study. What may be touched: nothing that
changes what a network returns, or the names in its state, without new reference numbers; saved detectors stay readable.
"""
