"""Earlier place of `diffad_utils.data.captions`, for notebooks that import it from here."""

from diffad_utils.data.captions import DEFECTS, NOUNS, OTHER_NOUNS, caption, categories_of, fill_prompt, noun

__all__ = ["DEFECTS", "NOUNS", "OTHER_NOUNS", "caption", "categories_of", "fill_prompt", "noun"]
