"""Toys with known scores: Gaussian mixtures under the forward process, and what theory says of samplers on them.

Everything is closed form, so a learnt score, a learnt variance and a sampler's end can be compared with the truth. See
`score_matching` for the derivations.

Used by notebook 05; entry points: `GaussianMixture`, `posterior_of_one_number`, `printed_objectives`, `train_toy`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from diffad_utils.diffusion import NoiseSchedule, add_noise
from diffad_utils.methods.esm.equations import Moments, esm_loss
from diffad_utils.methods.kept import kept
from diffad_utils.training import TrainingLog, train


@dataclass(frozen=True)
class GaussianMixture:
    """Data X_0 in D dimensions: weights [K] (sum 1), means [K, D], covariances [K, D, D], all float64. One Gaussian is
    K = 1."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @classmethod
    def gaussian(cls, mean: list[float], covariance: list[list[float]]) -> GaussianMixture:
        return cls(
            torch.ones(1, dtype=torch.float64),
            torch.tensor([mean], dtype=torch.float64),
            torch.tensor([covariance], dtype=torch.float64),
        )

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws [n, D], float64."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[which] + (torch.linalg.cholesky(self.covariances)[which] * z[:, None, :]).sum(dim=2)

    @property
    def mean(self) -> Tensor:
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """Covariance [D, D] of the whole mixture."""
        centred = self.means - self.mean
        between = centred[:, :, None] * centred[:, None, :]
        return (self.weights[:, None, None] * (self.covariances + between)).sum(dim=0)

    def score(self, x: Tensor, alpha_bar: float) -> Tensor:
        """Score of p(X_t) at x [n, D]."""
        responsibility, scores, _ = self._components(x, alpha_bar)
        return (responsibility[:, :, None] * scores).sum(dim=1)

    def moments(self, x: Tensor, alpha_bar: float) -> Moments:
        """The optimum of eq. 10 at x [n, D]: E[eps | X_t] and sigma_t^2 = alpha_bar_t Var[X_0 | X_t] of each
        element."""
        responsibility, scores, within = self._components(x, alpha_bar)
        signal = x.double()[:, None, :] + (1 - alpha_bar) * scores  # sqrt(alpha_bar) E[X_0 | X_t, component], Tweedie
        mean = (responsibility[:, :, None] * signal).sum(dim=1)
        second = (responsibility[:, :, None] * (within + signal.square())).sum(dim=1)
        return Moments((x.double() - mean) / math.sqrt(1 - alpha_bar), second - mean.square())

    def _components(self, x: Tensor, alpha_bar: float) -> tuple[Tensor, Tensor, Tensor]:
        """Responsibilities [n, K], scores [n, K, D] of the components at X_t = x, and alpha_bar Var[X_0 | X_t,
        component] [K, D]."""
        x = x.double()
        noise = 1 - alpha_bar
        identity = torch.eye(x.shape[1], dtype=torch.float64)
        marginal = alpha_bar * self.covariances + noise * identity
        centred = x[:, None, :] - math.sqrt(alpha_bar) * self.means
        solved = torch.linalg.solve(marginal[None], centred[..., None])[..., 0]
        log_density = -0.5 * ((centred * solved).sum(dim=-1) + torch.logdet(marginal)) + self.weights.log()
        within = noise * (identity - noise * torch.linalg.inv(marginal))
        return log_density.softmax(dim=1), -solved, within.diagonal(dim1=1, dim2=2)


def one_number() -> GaussianMixture:
    """One number that is near -1 or near +1, the first a little less often."""
    return GaussianMixture(
        torch.tensor([0.3, 0.7]).double(), torch.tensor([[-1.0], [1.0]]).double(), torch.full((2, 1, 1), 0.1).double()
    )


def two_toys() -> dict[str, GaussianMixture]:
    """A Gaussian and a mixture of two Gaussians in two dimensions."""
    return {
        "Gaussian": GaussianMixture.gaussian([1.0, -0.5], [[8.0, 2.0], [2.0, 6.0]]),
        "mixture of two": GaussianMixture(
            torch.tensor([0.4, 0.6]).double(),
            torch.tensor([[-1.5, 0.0], [1.2, 0.6]]).double(),
            torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.15, -0.05], [-0.05, 0.3]]]).double(),
        ),
    }


def noise_to_signal(variance: float | Tensor, alpha_bar: float) -> float | Tensor:
    """r = (1 - alpha_bar) / (alpha_bar v) of Gaussian data of variance v: eq. 3's relative error with the optimal
    sigma_t^2."""
    return (1 - alpha_bar) / (alpha_bar * variance)


def final_variance(variance: float | Tensor, alpha_bar: float) -> dict[str, float | Tensor]:
    """What eq. 5 from X_(T_d) makes of Gaussian data of variance v along an axis, in continuous time and without a
    smallest variance: "sgm", "esm" (reading "denoised") and "probability flow" (half of the true score)."""
    r = noise_to_signal(variance, alpha_bar)
    shrink = torch.exp(torch.as_tensor(-2 * r)) if isinstance(r, Tensor) else math.exp(-2 * r)
    return {"sgm": variance / (1 + r), "esm": variance * (1 + r) * shrink, "probability flow": variance}


def relative_error(estimate: Tensor, truth: Tensor) -> float:
    """Root mean square of the error over that of the truth, over points [n, D]."""
    return float((estimate.double() - truth.double()).norm() / truth.double().norm())


def posterior_of_one_number(mixture: GaussianMixture, alpha_bar: float, points: int = 241) -> pd.DataFrame:
    """What X_t says of a one-dimensional X_0 at one noise level, a row a value of X_t.

    Returns
    -------
    Columns x (X_t, equally spaced over four standard deviations), density (of X_t), signal density (of
    sqrt(alpha_bar_t) X_0 at x), mean and variance (of sqrt(alpha_bar_t) X_0 given X_t = x; the variance is sigma_t^2).
    """
    middle, width = alpha_bar**0.5 * float(mixture.mean), (alpha_bar * float(mixture.covariance) + 1 - alpha_bar) ** 0.5
    x = torch.linspace(middle - 4 * width, middle + 4 * width, points, dtype=torch.float64)
    eps, variance = mixture.moments(x[:, None], alpha_bar)
    mean = x - (1 - alpha_bar) ** 0.5 * eps[:, 0]
    values = {
        "x": x,
        "density": _density(mixture, x, alpha_bar, 1 - alpha_bar),
        "signal density": _density(mixture, x, alpha_bar, 0.0),
        "mean": mean,
        "variance": variance[:, 0],
    }
    return pd.DataFrame({name: value.numpy() for name, value in values.items()})


def posterior_tables(
    mixture: GaussianMixture, schedule: NoiseSchedule, timesteps: Sequence[int]
) -> dict[str, pd.DataFrame]:
    """`posterior_of_one_number` for each t, with a column noise (1 - alpha_bar_t): {"t = 100": table, ...}."""
    alphas = {t: float(schedule.alphas_cumprod[t - 1]) for t in timesteps}
    return {f"t = {t}": posterior_of_one_number(mixture, a).assign(noise=1 - a) for t, a in alphas.items()}


PRINTED_VARIANCE = {200: 0.341, 1: 1e-4}
"""The variance of SGM that the paper prints, by t (figure 3; its t = 0 is the schedule's first step)."""


def schedule_candidates(schedule: NoiseSchedule, last: int = 250) -> pd.DataFrame:
    """1 - alpha_bar_t, which fits `PRINTED_VARIANCE`, and its root, the printed formula, over t = 1 .. ``last``."""
    level = 1 - schedule.alphas_cumprod[:last].double()
    t = range(1, last + 1)
    return pd.DataFrame({"t": t, "$1-\\bar\\alpha_t$": level, "$\\sqrt{1-\\bar\\alpha_t}$": level.sqrt()})


def _density(mixture: GaussianMixture, x: Tensor, alpha_bar: float, noise: float) -> Tensor:
    """Of sqrt(alpha_bar) X_0 plus Gaussian noise of that variance at x [n], for one-dimensional data."""
    std = (alpha_bar * mixture.covariances[:, 0, 0] + noise).sqrt()
    z = (x[:, None] - math.sqrt(alpha_bar) * mixture.means[:, 0]) / std
    return (mixture.weights / std * torch.exp(-0.5 * z.square())).sum(dim=1) / math.sqrt(2 * math.pi)


def _posterior(mixture: GaussianMixture, x: Tensor, alpha_bar: float, draws: int) -> tuple[Tensor, Tensor]:
    """d log p(X_t | X_0) at X_t = x [n, 1] for ``draws`` values of X_0, and their posterior weights: both [n, draws].

    One-dimensional data.
    """
    means, std = mixture.means[:, 0], mixture.covariances[:, 0, 0].sqrt()
    ends = float(means.min() - 8 * std.max()), float(means.max() + 8 * std.max())
    x0 = torch.linspace(*ends, draws, dtype=torch.float64)
    conditional = -(x.double() - math.sqrt(alpha_bar) * x0) / (1 - alpha_bar)
    posterior = _density(mixture, x0, 1.0, 0.0) * torch.exp(-0.5 * (1 - alpha_bar) * conditional.square())
    return conditional, posterior / posterior.sum(dim=1, keepdim=True)


def lp_minimiser(mixture: GaussianMixture, x: Tensor, alpha_bar: float, power: float, draws: int = 2001) -> Tensor:
    """The number c at each x [n, 1] with the smallest E[|c - d log p(X_t | X_0)|^power given X_t = x].

    That is where DSM_l of eq. 6 and 7 leads to in our reading, with |.|^l in the place of the printed signed power, of
    which `printed_objectives` shows that it has no minimiser for odd l. One-dimensional data. For power 2 it is the
    score of p(X_t), which ESM_l leads to for every power; for the others it is another location of the posterior's.
    Found by quadrature over X_0 (``draws`` points) and bisection of the derivative.
    """
    conditional, posterior = _posterior(mixture, x, alpha_bar, draws)
    left, right = conditional.amin(dim=1), conditional.amax(dim=1)
    for _ in range(50):
        middle = (left + right) / 2
        gap = middle[:, None] - conditional
        slope = (posterior * gap.sign() * gap.abs() ** (power - 1)).sum(dim=1)
        left, right = torch.where(slope < 0, middle, left), torch.where(slope < 0, right, middle)
    return ((left + right) / 2)[:, None]


@kept()
def printed_objectives(
    mixture: GaussianMixture, alpha_bar: float, powers: Sequence[int], shifts: Sequence[float], draws: int = 1201
) -> pd.DataFrame:
    """Eq. 6 and 7 as printed, with signed powers, for the score model s = true score + b: by quadrature, 1-D data.

    ESM_l = E[(s - d log p(X_t))^l] and DSM_l = E[(s - d log p(X_t | X_0))^l], whose norm the paper takes. With this s
    the first is b^l. The second is E[(b + g)^l], where g = d log p(X_t) - d log p(X_t | X_0) has mean zero given X_t:
    so l = 1 agrees exactly, l = 2 up to a constant, and higher powers differ by terms with b. For odd l both fall
    without bound as b does, and their norm is zero wherever they change sign, for l = 1 whatever the shape of s - d log
    p(X_t): neither has a minimiser that is the score alone.

    Returns
    -------
    Columns l, b, ESM, DSM (not the norm).
    """
    width = math.sqrt(alpha_bar * float(mixture.covariance) + 1 - alpha_bar)
    middle = math.sqrt(alpha_bar) * float(mixture.mean)
    x = torch.linspace(middle - 7 * width, middle + 7 * width, draws, dtype=torch.float64)
    density = _density(mixture, x, alpha_bar, 1 - alpha_bar)
    conditional, posterior = _posterior(mixture, x[:, None], alpha_bar, draws)
    weights = posterior * (density / density.sum())[:, None]
    gap = mixture.score(x[:, None], alpha_bar) - conditional
    moments = [float((weights * gap**k).sum()) for k in range(max(powers) + 1)]
    rows = []
    for power in powers:
        for b in shifts:
            dsm = sum(math.comb(power, k) * b ** (power - k) * moments[k] for k in range(power + 1))
            rows.append({"l": power, "b": b, "ESM": b**power, "DSM": dsm})
    return pd.DataFrame(rows)


class ToyStreams(nn.Module):
    """Two small perceptrons on (X_t, t), for toys what `methods.esm.dual_stream.DualStream` is for images.

    With h = X_t standardised by mean and variance (over all elements) of the data, stream 1 gives
    eps_t = sqrt(1 - alpha_bar_t) / sqrt(v_t) (h + network(h, t)), v_t = alpha_bar_t v + 1 - alpha_bar_t: the network
    learns what an isotropic Gaussian guess leaves (Karras et al., NeurIPS 2022, section 5, in this parameterisation).
    """

    def __init__(self, schedule: NoiseSchedule, mixture: GaussianMixture, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        dimensions = mixture.means.shape[1]

        def stream() -> nn.Sequential:
            last = nn.Linear(width, dimensions)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            return nn.Sequential(nn.Linear(dimensions + 3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mean_stream, self.variance_stream = stream(), stream()
        alphas = schedule.alphas_cumprod
        variance = mixture.covariance.diagonal().mean()
        self.register_buffer(
            "level", torch.stack([alphas.sqrt(), (1 - alphas).sqrt(), ((1 - alphas) / alphas).log() / 4], dim=1).float()
        )
        self.register_buffer("center", mixture.mean.float())
        self.register_buffer("scale", (alphas * variance + 1 - alphas).sqrt().float())

    def predict(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(eps_t, log sigma_t^2), each [B, D]."""
        level, scale = self.level[t], self.scale[t][:, None]
        h = (x.float() - level[:, :1] * self.center) / scale
        inputs = torch.cat([h, level], dim=1)
        return level[:, 1:2] / scale * (h + self.mean_stream(inputs)), self.variance_stream(inputs) + 2 * level[
            :, 1:2
        ].log()

    def forward(self, x: Tensor, t: Tensor) -> Moments:
        eps, log_variance = self.predict(x, t)
        return Moments(eps.to(x), log_variance.exp().to(x))


def train_toy(
    mixture: GaussianMixture,
    schedule: NoiseSchedule,
    *,
    train_steps: int,
    timesteps: int | None = None,
    batch_size: int = 2048,
    learning_rate: float = 3e-3,
    width: int = 64,
    seed: int = 0,
    fixed_variance: bool = False,
) -> tuple[ToyStreams, TrainingLog]:
    """Fit `ToyStreams` with eq. 10 on fresh draws of the mixture at times below ``timesteps`` (None: all of them).

    ``fixed_variance`` keeps sigma_t^2 = 1 - alpha_bar_t, which makes eq. 10 denoising score matching.
    """
    settings = (train_steps, timesteps, batch_size, learning_rate, width, seed, fixed_variance)
    weights, log = _trained_toy(mixture, schedule, *settings)
    model = ToyStreams(schedule, mixture, width, seed)
    model.load_state_dict(weights)
    return model.eval(), log


@kept()
def _trained_toy(
    mixture: GaussianMixture,
    schedule: NoiseSchedule,
    train_steps: int,
    timesteps: int | None,
    batch_size: int,
    learning_rate: float,
    width: int,
    seed: int,
    fixed_variance: bool,
) -> tuple[dict[str, Tensor], TrainingLog]:
    """The weights that `train_toy` finds."""
    model = ToyStreams(schedule, mixture, width, seed)
    if fixed_variance:
        model.variance_stream.requires_grad_(False)

    def loss_fn(model: ToyStreams, generator: torch.Generator) -> Tensor:
        x0 = mixture.sample(batch_size, generator)
        t = torch.randint(timesteps or schedule.T, (batch_size,), generator=generator)
        noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
        eps, log_variance = model.predict(add_noise(x0, t, noise, schedule).float(), t)
        return esm_loss(eps, noise.float(), log_variance, schedule.alphas_cumprod[t])

    log = train(
        model,
        loss_fn,
        num_steps=train_steps,
        lr=learning_rate,
        warmup_steps=20,
        ema_decay=0.995,
        seed=seed,
        description="toy",
    )
    return model.state_dict(), log


def train_toys(schedule: NoiseSchedule, steps: int, seed: int) -> dict[str, ToyStreams]:
    """Networks for `two_toys`: the Gaussian at the first 200 timesteps, the mixture at all and twice as long."""
    toys = two_toys()
    few = train_toy(toys["Gaussian"], schedule, train_steps=steps, timesteps=200, seed=seed)[0]
    more = train_toy(toys["mixture of two"], schedule, train_steps=2 * steps, seed=seed)[0]
    return {"Gaussian": few, "mixture of two": more}
