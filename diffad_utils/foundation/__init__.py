"""Training of the small models in `data/mini`, with which every notebook runs on any machine.

- `backbone`: the feature network (resnet-mini), on pictures that share nothing with the `textures` data set.
- `captioned`: captioned pictures of the families of `textures`, in materials drawn broadly.
- `autoencoder`, `text_to_image`: the VAE, and the UNet with its text encoder (sd-mini), on those pictures.
- `clip`: the image and text towers (clip-mini), on those pictures.

`notebooks/00_foundation.ipynb` runs all of it and writes the model cards.
"""
