#!/usr/bin/env bash
# docutils 0.22.4: the index of an accented letter is drawn below the letter, and equation numbers are refused.
#
# Behaviour: docutils' own converter from TeX to MathML (docutils.utils.math.latex2mathml) makes one <munderover> of
# an accent and an index, so the t of \bar\alpha_t stands under the alpha; braces around the accent change nothing.
# Without an accent the index is a plain <msub>. \tag{1} raises MathError, so a page that falls back to the source shows
# numbered equations as TeX. The package latex2mathml 3.81.1 keeps index and accent apart and takes the number.
# What to do: convert with latex2mathml, and look at one equation with an accent and an index.
# Output seen:
#   docutils: munderover for \bar\alpha_t and {\bar\alpha}_t, msub for \alpha_t
#   docutils on x \tag{1}: MathError; latex2mathml: msub around mover, and (1)

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check docutils==0.22.4 latex2mathml==3.81.1
venv/bin/python - <<'PY'
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from latex2mathml.converter import convert

accented = [tex2mathml(tex) for tex in (r"\bar\alpha_t", r"{\bar\alpha}_t")]
assert all("<munderover>" in found and "<msub>" not in found for found in accented)
assert "<msub>" in tex2mathml(r"\alpha_t") and "munderover" not in tex2mathml(r"\alpha_t")
print(r"docutils: munderover for \bar\alpha_t and {\bar\alpha}_t, msub for \alpha_t")
try:
    tex2mathml(r"x \tag{1}")
except MathError:
    kind = "MathError"
else:
    raise SystemExit("docutils takes \\tag now")
other = convert(r"\bar\alpha_t")
assert other.index("<msub>") < other.index("<mover>") and "munderover" not in other
assert "(1)" in convert(r"x \tag{1}")
print(rf"docutils on x \tag{{1}}: {kind}; latex2mathml: msub around mover, and (1)")
PY
