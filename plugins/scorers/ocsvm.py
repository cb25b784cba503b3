"""ocsvm: how far outside a one-class support vector machine of the pooled normal features an image lies.

Source: Schölkopf et al., Estimating the Support of a High-Dimensional Distribution (Neural Computation 2001), solved by
scikit-learn; a baseline in Reiss et al., PANDA (CVPR 2021), table 2 and supplement 2.2, there on other features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field
from torch import Tensor

from adkit.plugin import (
    Component,
    Context,
    Features,
    Level,
    NotFittedError,
    Params,
    Scorer,
    Scores,
    Stream,
    counted,
    hookimpl,
)
from adkit.toolkit.covariance import widest_float
from adkit.toolkit.memory import check_memory
from adkit.toolkit.scoring import checked_state, fitted_levels, foreign_state, require_some, scores_of

Kernel = Literal["rbf", "linear"]

TOLERANCE: Final = 1e-6
"""How far from optimal the solver may stop, in units of the decision function.

At scikit-learn's 1e-3 the solution depends on the last bits of the features, and so on the device that computed them.
"""


class OcsvmParams(Params):
    nu: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="upper bound on the share of normal images that lie outside, and lower bound on that of the "
        "support vectors",
    )
    kernel: Kernel = Field("rbf", description="similarity of two features; rbf: exp(−γ ‖x − y‖²), linear: x·y")
    gamma: Literal["scale"] | Annotated[float, Field(gt=0)] = Field(
        "scale",
        description="γ of kernel rbf; scale: 1 / (channels × variance), the variance being that of all values of a "
        "level, whatever their channel",
    )


@dataclass(frozen=True)
class Machine:
    """The one-class support vector machine of one level, in float64 where the device has it."""

    vectors: Tensor
    """(m, c) support vectors."""
    coefficients: Tensor
    """(m,) dual coefficients, above 0 and at most 1."""
    intercept: Tensor
    """(1,) what is added to the sum over the support vectors: minus ρ."""
    gamma: Tensor
    """(1,) γ, which kernel ``linear`` does not read."""

    def decision(self, rows: Tensor, kernel: Kernel) -> Tensor:
        """Compute (n,) values Σ αᵢ k(xᵢ, x) − ρ of ``rows`` (n, c): above 0 inside, below 0 outside."""
        rows = rows.to(self.vectors)
        similar = rows @ self.vectors.T  # (n, m)
        if kernel == "rbf":
            squares = rows.square().sum(1)[:, None] - 2 * similar + self.vectors.square().sum(1)
            similar = (-self.gamma * squares).exp()
        return similar @ self.coefficients + self.intercept

    def to(self, device: str, dtype: torch.dtype) -> Machine:
        tensors = (self.vectors, self.coefficients, self.intercept, self.gamma)
        return Machine(*(tensor.to(device, dtype) for tensor in tensors))


class Ocsvm(Scorer[OcsvmParams]):
    """A scorer by a one-class support vector machine per level, over the means of the level's locations.

    The score of a level is minus the decision function, so that it is above 0 outside. There is no map.

    PANDA chose ν from 0.1 to 0.9 and γ from 2⁻⁷ to 2² so that ROC AUC was highest, which takes the labels of anomalous
    images. Here none have a say: ν is the smallest of that grid, as few normal images should lie outside, and γ follows
    the variance of the features. Compare other values by ``synthetic_auroc``, which rests on held-out normal images.

    Fitting compares images in pairs, so its time grows with the square of their number.
    """

    def __init__(self, params: OcsvmParams, context: Context) -> None:
        super().__init__(params, context)
        self._machines: dict[str, Machine] = {}

    def fit(self, stream: Stream) -> None:
        self._machines = {}
        levels = stream.levels
        check_memory(
            self.memory(levels, stream.count),
            "cpu",
            f"scorer: the one-class SVM of {counted(stream.count, 'normal image')}",
            "name fewer extractor.levels, or give fewer normal images",
        )
        rows: dict[str, list[Tensor]] = {name: [] for name in levels}
        for features in stream:
            for name, values in features.items():
                rows[name].append(_pooled(values).cpu())
        require_some(all(rows.values()))
        self._machines = {name: self._placed(self._solved(torch.cat(rows.pop(name)))) for name in levels}

    def score(self, features: Features) -> Scores:
        if not self._machines:
            raise NotFittedError("ocsvm")
        maps = {}
        for name in fitted_levels(self._machines, features):
            decision = self._machines[name].decision(_pooled(features[name]), self.params.kernel)
            maps[name] = -decision.float().to(features[name].device)[:, None, None]
        return scores_of(maps, features.geometry, "max")

    def state_dict(self) -> dict[str, Tensor]:
        return {
            f"{part}.{name}": tensor.float()
            for name, machine in self._machines.items()
            for part, tensor in vars(machine).items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        parts = {"vectors.*": 2, "coefficients.*": 1, "intercept.*": 1, "gamma.*": 1}
        tensors = checked_state("ocsvm", state, parts)
        levels = dict.fromkeys(name.partition(".")[2] for name in tensors)
        for level in levels:
            for part in parts:
                name = part.replace("*", level)
                if name not in tensors:
                    raise foreign_state("ocsvm", name, "there", f"only {', '.join(tensors)}")
                wanted = len(tensors[f"vectors.{level}"]) if part == "coefficients.*" else 1
                if part != "vectors.*" and len(tensors[name]) != wanted:
                    raise foreign_state("ocsvm", name, f"of {counted(wanted, 'value')}", len(tensors[name]))
        self._machines = {
            level: self._placed(Machine(*(tensors[part.replace("*", level)] for part in parts))) for level in levels
        }

    def memory(self, levels: Mapping[str, Level], images: int) -> int:
        """The bytes that fitting takes at its peak: the features, and twice the float64 of the level that is solved."""
        channels = [level.channels for level in levels.values()]
        return images * (4 * sum(channels) + 16 * max(channels))

    def _solved(self, rows: Tensor) -> Machine:
        """The machine of the normal features ``rows`` (n, c)."""
        from sklearn.svm import OneClassSVM

        values = rows.double().numpy()
        gamma = 1.0 if self.params.gamma == "scale" else self.params.gamma
        if self.params.gamma == "scale" and (variance := float(values.var())) > 0:
            gamma = 1 / (values.shape[1] * variance)
        machine = OneClassSVM(kernel=self.params.kernel, nu=self.params.nu, gamma=gamma, tol=TOLERANCE)
        machine.random_state = 0  # one class draws nothing; without a seed, NumPy's global generator is asked for one
        solved = machine.fit(values)
        found = (solved.support_vectors_, solved.dual_coef_[0], solved.intercept_, [gamma])
        # As a saved state has them, so that a detector scores alike before it is saved and after.
        return Machine(*(torch.as_tensor(values, dtype=torch.float32) for values in found))

    def _placed(self, machine: Machine) -> Machine:
        return machine.to(self.context.device, widest_float(self.context.device))


def _pooled(values: Tensor) -> Tensor:
    """(n, c): the means of (n, h, w, c) over the locations."""
    return values.mean((1, 2))


@hookimpl
def adkit_scorers() -> list[Component[Any]]:
    return [Component.scorer("ocsvm", OcsvmParams, Ocsvm)]
