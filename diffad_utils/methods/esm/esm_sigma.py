"""ESM-sigma: the variance takes the place of beta in the reverse process (eq. 11 to 13).

The paper's table 5 (subsets of the four detectors) is of this method: four subsets, I-AUROC and P-AUROC. Notebook 05
has all fifteen, for ESM as well; claims are judged on ESM-sigma.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from diffad_utils.methods.esm.base import ScoreMatchingDetector
from diffad_utils.methods.esm.equations import Observer, guided_forward, guided_reverse, matched_dt, step_edges
from diffad_utils.methods.esm.esm import ESM


@dataclass(kw_only=True)
class ESMSigma(ESM):
    """ESM-sigma: sigma_t^2 in the place of beta_t, forward (eq. 11) and backward (eq. 13), on `ESM`'s network and
    training.

    dt : length of a timestep on this process's clock; None: `equations.matched_dt`. 1 jumps to mu_t at every step.
    """

    name: ClassVar[str] = "esm_sigma"
    published_as: ClassVar[str] = "ESM-sigma"

    dt: float | None = None

    def _check_steps(self, noise_timestep: int) -> None:
        ScoreMatchingDetector._check_steps(self, noise_timestep)
        dt = matched_dt(self.schedule_, noise_timestep, self.variance_min) if self.dt is None else self.dt
        if not 0 < dt * self.stride < 2:
            got = f"{dt:.3g} * {self.stride} from T_d = {noise_timestep}"
            raise ValueError(f"steps of eq. 13 are stable for 0 < dt * stride < 2, got {got}")

    @property
    def nfe(self) -> int:
        return 2 * self.num_steps + 2

    def _sample(self, x0: Tensor, keys: Sequence[str], observe: Observer | None) -> Tensor:
        edges, variance_min = step_edges(self.noise_timestep_, self.stride), self.variance_min
        dt = matched_dt(self.schedule_, self.noise_timestep_, variance_min) if self.dt is None else self.dt
        x = guided_forward(self.network_.variance, x0, edges, dt, self.seed, keys, variance_min=variance_min)
        return guided_reverse(
            self.network_,
            x,
            self.schedule_,
            edges,
            dt,
            variance_min=variance_min,
            anchor=x0 if self.mean == "input" else None,
            observe=observe,
        )
