"""Networks as libraries have them, with thin wrappers: feature backbones, autoencoders, CLIP, Stable Diffusion, small UNets."""
