"""Networks as libraries have them, with thin wrappers.

Feature backbones, autoencoders, CLIP, Stable Diffusion, the small UNets of the study.
"""
