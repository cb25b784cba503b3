"""A component of each kind done the right way: the module is a plugin's as it stands, but for its hooks."""

import torch
from torch import nn

from adkit.plugin import (
    Adapter,
    Extractor,
    Geometry,
    Group,
    Level,
    Localizer,
    Schedule,
    Scorer,
    Scores,
    Stage,
    Stopper,
    Verdict,
)

GRID, SIDE = (4, 4), 64


class Sums(Extractor):
    def __init__(self, params, context):
        super().__init__(params, context)
        self.filters = nn.Parameter(torch.randn(5, 3, 3, 3, generator=context.generator("filters")))
        self.eval()

    @property
    def levels(self):
        return {"cells": Level(5, GRID, Geometry.covering(GRID, (SIDE, SIDE)))}

    def forward(self, images):
        found = nn.functional.conv2d(images, self.filters, padding=1)
        return {"cells": nn.functional.adaptive_avg_pool2d(found, GRID).permute(0, 2, 3, 1)}

    def blocks(self):
        return {"filters": [self.filters]}


class Compact(Adapter):
    schedule = Schedule(minibatches=2, batch_size=4, learning_rate=1e-3)

    def prepare(self, see):
        pass

    def stages(self, extractor):
        return [Stage([Group(list(extractor.parameters())[:1])])]

    def loss(self, step, features):
        return self.score(features).mean()

    def score(self, features):
        return torch.stack([level.square().mean((1, 2, 3)) for level in features.values()]).mean(0)


class Sizes(Scorer):
    def fit(self, stream):
        self.mean = torch.stack([features["cells"].mean() for features in stream]).mean()

    def score(self, features):
        cells = (features["cells"] - self.mean).square().mean(3)
        return Scores(cells.amax((1, 2)), {"cells": cells})

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


class Repeats(Localizer):
    def localize(self, scores, size):
        return nn.functional.interpolate(scores.maps["cells"][:, None], size)[:, 0]


class Never(Stopper):
    def check(self, look):
        return Verdict(keep=False, stop=False, reason="never")
